"""Vectors of bases: one that is learned per letter, plus the source model's for the k-mer that starts at the base."""

import torch
from torch import nn

from .configuration_hnet_ntv2 import HNetNTV2Config
from .forced_boundaries import force_boundaries
from .kmers import holds_mask, source_token_ids
from .levels import Level
from .shapes import Bool, Float, Int, Tensor
from .vocabulary import NUM_SOURCE_SPECIALS, SOURCE_CLS


class KmerEmbedding(nn.Embedding):
    """The source model's embedding table; random ones are composed of their letters (docs/decisions/0003).

    A random k-mer is the sum of k random letter vectors, one table per offset, so that k-mers that share letters start
    alike. Specials and N are independent, a single letter is the first letter of a k-mer.
    """

    def __init__(self, k: int, dim: int, std: float):
        self.k, self.std = k, std
        super().__init__(4**k + NUM_SOURCE_SPECIALS + 5, dim)

    def reset_parameters(self) -> None:
        """Random vectors of standard deviation ``std``."""
        nn.init.normal_(self.weight, std=self.std)
        letters = torch.empty(self.k, 4, self.embedding_dim, device=self.weight.device)
        nn.init.normal_(letters, std=self.std * self.k**-0.5)
        code = torch.arange(4**self.k, device=self.weight.device)
        kmers = sum(letters[offset][code // 4 ** (self.k - 1 - offset) % 4] for offset in range(self.k))
        first_letter = NUM_SOURCE_SPECIALS + 4**self.k
        with torch.no_grad():
            self.weight[NUM_SOURCE_SPECIALS:first_letter] = kmers
            # A k-mer is a sum of k letter vectors: a single one is scaled up to the same length.
            self.weight[first_letter : first_letter + 4] = letters[0] * self.k**0.5


class BaseEmbeddings(nn.Module):
    """Base embedding (zero at start) plus the source model's embedding of the k-mer that starts at the base."""

    def __init__(self, config: HNetNTV2Config):
        super().__init__()
        self.kmer_size = config.kmer_size
        self.base = nn.Embedding(config.vocab_size, config.d_model)
        self.base.starts_at_zero = True  # pyright: ignore[reportArgumentType]
        self.kmer = KmerEmbedding(config.kmer_size, config.d_model, config.initializer_range)

    def forward(
        self, input_ids: Int[Tensor, "batch length"], is_valid: Bool[Tensor, "batch length"]
    ) -> tuple[Float[Tensor, "batch length dim"], Float[Tensor, " dim"]]:
        """Return the vectors of the bases and the vector of ``<cls>``."""
        tokens = source_token_ids(input_ids, is_valid, self.kmer_size)
        # Through the module, not by indexing its weight: hooks of quantization and sharding act on calls.
        cls_vector = self.kmer(torch.full((1,), SOURCE_CLS, device=input_ids.device))[0]
        return self.base(input_ids) + self.kmer(tokens), cls_vector


def base_level(
    embedded: Float[Tensor, "batch length dim"],
    input_ids: Int[Tensor, "batch length"],
    is_valid: Bool[Tensor, "batch length"],
    config: HNetNTV2Config,
    *,
    on_grid: Bool[Tensor, "batch length"] | bool = False,
    anchors: Bool[Tensor, "batch length"] | bool = False,
    score: Float[Tensor, "batch length"] | None = None,
) -> Level:
    """The level that the outermost stage works on, whose positions are the bases.

    Args:
        embedded: Vectors of the bases, as wide as the trunk.
        input_ids: Character ids.
        is_valid: False at padding.
        config: Of the model.
        on_grid: See ``force_boundaries``.
        anchors: See ``force_boundaries``.
        score: See ``Level``.
    """
    forced_boundary, forced_reason = force_boundaries(
        input_ids,
        is_valid,
        k=config.kmer_size,
        num_stages=config.num_stages,
        on_grid=on_grid or config.chunker == "grid" if isinstance(on_grid, bool) else on_grid,
        anchors=anchors,
        protect_masks=config.mask_protection,
    )
    is_masked = (input_ids == config.mask_token_id) & is_valid
    sees_mask = holds_mask(is_masked, config.kmer_size)
    # The router compares a base with the one before it, and each vector holds the k-mer that starts there.
    is_clear = ~(sees_mask | nn.functional.pad(sees_mask[:, :-1], (1, 0)))
    width = config.base_dim
    return Level(
        hidden=embedded[..., :width],
        is_valid=is_valid,
        first_base=torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids),
        num_bases=is_valid.sum(1),
        is_masked=is_masked,
        is_clear=is_clear,
        forced_boundary=forced_boundary,
        forced_reason=forced_reason,
        tail=embedded[..., width:] if width < config.d_model else None,
        score=score,
    )
