"""From vectors to letters: NTv2's head read out per base, and what the decoders add to it."""

import torch
from torch import nn

from .configuration_hnet_ntv2 import HNetNTV2Config
from .kmers import fits_whole_kmer, kmer_marginals, letter_log_probs
from .levels import Level
from .shapes import Bool, Float, Int, Tensor
from .vocabulary import BASE_IDS, MASK_ID, is_clean_base


class SourceHead(nn.Module):
    """NTv2's masked language model head over chunks, read out as letters per base (keys as in its ``lm_head``)."""

    def __init__(self, config: HNetNTV2Config):
        super().__init__()
        self.kmer_size = config.kmer_size
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.d_model, config.kmer_vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.kmer_vocab_size))

    def token_logits(self, hidden: Float[Tensor, "chunks dim"]) -> Float[Tensor, "chunks vocab"]:
        """Logits over the source vocabulary, one row per chunk."""
        return self.decoder(self.layer_norm(nn.functional.gelu(self.dense(hidden)))) + self.bias

    def forward(
        self,
        final: Level,
        chunk_of: Int[Tensor, "batch length"],
        input_ids: Int[Tensor, "batch length"],
        is_wanted: Bool[Tensor, "batch length"],
        is_valid: Bool[Tensor, "batch length"],
    ) -> Float[Tensor, "batch length 4"]:
        """Log-probabilities of A, C, G, T per base, float32.

        A chunk that starts with a whole k-mer gives the k-mers' marginals at offsets 0..k-1; one that starts at a
        remainder letter the four letter tokens at offset 0. All other bases get equal values.

        Args:
            final: The final chunks behind the trunk.
            chunk_of: Final chunk of each base.
            input_ids: Character ids.
            is_wanted: Bases that need an answer; chunks without any are not computed and their bases get equal values.
            is_valid: False at padding.
        """
        k = self.kmer_size
        holds_wanted = torch.zeros_like(final.is_valid, dtype=torch.long)
        holds_wanted = holds_wanted.scatter_reduce(1, chunk_of, (is_wanted & is_valid).long(), "amax") > 0
        # The matrix over all 4^k k-mers can cost more than a small model's layers: only needed chunks go through it.
        is_needed = final.is_valid & holds_wanted
        first_id = input_ids.gather(1, final.first_base)
        starts_kmer = fits_whole_kmer(input_ids, is_valid, k).gather(1, final.first_base)[is_needed]
        starts_letter = (is_clean_base(first_id) | (first_id == MASK_ID))[is_needed] & ~starts_kmer

        logits = self.token_logits(final.hidden[is_needed])
        equal = torch.full((len(logits), k + 1, 4), 0.25, device=logits.device).log()
        table = torch.where(starts_kmer[:, None, None], kmer_marginals(logits, k).to(equal.dtype), equal[:, :k])
        offset_zero = torch.where(starts_letter[:, None], letter_log_probs(logits, k).to(equal.dtype), table[:, 0])
        # One more row per chunk for the bases beyond offset k - 1, and one chunk more for all that are not needed.
        table = torch.cat([offset_zero[:, None], table[:, 1:], equal[:, k:]], dim=1)
        table = torch.cat([table, table.new_full((1, k + 1, 4), 0.25).log()])

        row_of_chunk = is_needed.flatten().long().cumsum(0).reshape(is_needed.shape) - 1
        row = row_of_chunk.masked_fill(~is_needed, len(table) - 1).gather(1, chunk_of)
        offset = torch.arange(input_ids.shape[1], device=input_ids.device) - final.first_base.gather(1, chunk_of)
        # Offsets from k on are one row: NTv2 says nothing about bases behind its k-mer.
        return table[row.masked_fill(~is_valid, len(table) - 1), offset.clamp(0, k)]


class ResidualHead(nn.Module):
    """What the decoders add to the source head: four values per base."""

    def __init__(self, config: HNetNTV2Config):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.base_dim, eps=config.layer_norm_eps)
        self.dense = nn.Linear(config.base_dim, config.base_dim)
        self.output = nn.Linear(config.base_dim, len(BASE_IDS))

    def forward(self, hidden: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length 4"]:
        """Values to be added to the log-probabilities of A, C, G, T."""
        return self.output(nn.functional.gelu(self.dense(self.layer_norm(hidden))))


class Heads(nn.Module):
    """The two heads of the masked language model."""

    def __init__(self, config: HNetNTV2Config):
        super().__init__()
        self.source = SourceHead(config)
        self.residual = ResidualHead(config)
