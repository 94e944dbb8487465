"""Vectors of bases: one that is learned per letter, plus the source model's for the k-mer that starts at the base."""

import torch
from torch import nn

from .configuration_hnet_ntv2 import HNetNTV2Config
from .kmers import source_token_ids
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
        cls_vector = self.kmer(torch.full((1,), SOURCE_CLS, device=input_ids.device))[0]
        return self.base(input_ids) + self.kmer(tokens), cls_vector
