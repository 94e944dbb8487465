"""The network: each stage encodes a level, cuts it into chunks, runs the inner network on them, expands and decodes.

    bases (a level)                                              vectors of the bases
      | encoder: local layers, the whole level's length            ^ decoder: local layers
      | router: where do chunks begin? (a chunking)                | upsampler: chunk vectors back to positions, + skip
      v pool: each chunk's first vector (the next level)           |
    stage-1 chunks ... the same again ... final chunks -> trunk ---+

Who decides where a chunk begins, the strongest first:

- **row start**: the first position of a row.
- **protection**: around a run of [MASK] and every k bases inside it, so that no chunk mixes masked and clean bases.
- **grid**: in a warm start, the 6-mer tokens of the source model (NTv2), on which the network computes what NTv2 does.
- **anchor**: the k clean bases on each side of a masked run are one chunk, which is a whole k-mer for the trunk.
- **router**: everywhere else, p > 0.5.
- **cap**: cuts final chunks that are longer than ``max_chunk_length`` bases.
- **guard**: flips the router's least certain decisions where a row would get too many chunks (memory) or too few.

The first four follow from the input ids (``forced_boundaries.py``); the others depend on the router (``chunking.py``).
"""

import torch
from torch import nn

from .attention import pack_rows, unpack_rows
from .backbone import LocalBlock, LocalLayers, Trunk
from .chunking import ChunkLimits, Router, pool_chunks, pool_level
from .configuration_hnet_ntv2 import HNetNTV2Config
from .levels import Chunking, Level
from .shapes import Float, Tensor
from .upsampling import Upsampler

# Offsets that the base-resolution upsampler tells apart when no cap bounds the length of a chunk.
_UNCAPPED_OFFSETS = 32

NetworkOutput = tuple[Float[Tensor, "rows positions dim"], tuple[Chunking, ...], Level]
"""Vectors at the input's positions; the chunkings inside, outermost first; the final chunks as they left the trunk."""

States = dict[str, Tensor]
"""Named inner states, in the order in which data meets them; filled where a caller wants them."""


class ChunkTrunk(nn.Module):
    """NTv2's blocks over the final chunks, ``<cls>`` in front, rows packed."""

    def __init__(self, config: HNetNTV2Config):
        super().__init__()
        self.kmer_size = config.kmer_size
        self.position_mode = config.position_mode
        self.position_scale = config.rope_scaling_factor
        self.layers = Trunk(
            dim=config.d_model,
            num_heads=config.n_head,
            # The setting counts the rows of NTv2's fused GLU, which are twice its width.
            intermediate_size=config.intermediate_size // 2,
            num_blocks=config.n_main_layer,
            layer_norm_eps=config.layer_norm_eps,
            rope_theta=config.rope_theta,
        )

    def forward(self, level: Level, cls_vector: Float[Tensor, " dim"], states: States | None = None) -> NetworkOutput:
        """Run the trunk on [<cls>, chunk 1, ..., chunk n] of each row and return the chunks' vectors.

        Args:
            level: The final chunks.
            cls_vector: What stands in front of each row, as in NTv2.
            states: Gets ``trunk_0`` ... ``trunk_n``, [batch, 1 + chunks, dim] each.
        """
        batch = len(level.hidden)
        cls_rows = cls_vector.to(level.hidden.dtype).expand(batch, 1, -1)
        has_token = torch.cat([torch.ones_like(level.is_valid[:, :1]), level.is_valid], dim=1)
        # Rows differ in their number of chunks by up to half: packed, the linear layers skip the padding.
        packed, layout = pack_rows(torch.cat([cls_rows, level.hidden], dim=1), has_token)
        cls_position = torch.zeros(batch, 1, device=level.hidden.device)
        position = torch.cat([cls_position, self.rotary_positions(level)], dim=1)
        output = self.layers(packed, position[has_token], layout, output_hidden_states=states is not None)
        if states is not None:
            for number, state in enumerate(output.hidden_states or ()):
                states[f"trunk_{number}"] = unpack_rows(state, has_token)
        hidden = unpack_rows(output.last_hidden_state, has_token)[:, 1:]
        return hidden, (), level._replace(hidden=hidden)

    def chunk(self, level: Level) -> tuple[Chunking, ...]:
        """Nothing is chunked in here."""
        return ()

    def rotary_positions(self, level: Level) -> Float[Tensor, "batch chunks"]:
        """NTv2's token index: from the chunk's first base in units of k bases, or by counting chunks."""
        if self.position_mode == "rank":
            rank = torch.arange(level.is_valid.shape[1], device=level.is_valid.device, dtype=torch.float32)
            position = (1 + rank).expand(level.is_valid.shape)
        else:
            position = 1 + level.first_base.float() / self.kmer_size
        return position / self.position_scale


class ChunkStage(nn.Module):
    """One stage of chunking around an inner network, which is another stage or the trunk.

    Args:
        config: The architecture.
        stage: 0 for the base resolution.
        main: The inner network, of width ``config.d_model``.
    """

    def __init__(self, config: HNetNTV2Config, stage: int, main: "ChunkStage | ChunkTrunk"):
        super().__init__()
        dim = config.base_dim if stage == 0 else config.d_model
        least, greatest = config.guards[stage]
        self.name = f"stage{stage + 1}"
        self.gates_skip = config.residual_gating
        self.encoder = _local_layers(config, dim, config.layers_per_stage(config.n_enc_layer)[stage])
        for block in self.encoder.blocks:
            assert isinstance(block, LocalBlock)
            # A new encoder passes its input on unchanged, so that a graft starts as NTv2.
            block.zero_output_projections()
        self.router = Router(dim, ChunkLimits(least, greatest, config.max_chunk_length))
        self.widening = nn.Parameter(torch.zeros(config.d_model - dim)) if dim < config.d_model else None
        self.main = main
        self.upsampler = Upsampler(
            dim,
            num_offsets=(config.max_chunk_length or _UNCAPPED_OFFSETS) if stage == 0 else 0,
            use_smoothing=config.smoothing,
            forced_probability=config.forced_probability,
        )
        self.decoder = _local_layers(config, dim, config.layers_per_stage(config.n_dec_layer)[stage])

    def forward(
        self, level: Level, cls_vector: Float[Tensor, " main_dim"], states: States | None = None
    ) -> NetworkOutput:
        """Encode, chunk, pool, run the inner network, expand, decode.

        Args:
            level: What to work on.
            cls_vector: The vector that the trunk puts in front of each row.
            states: Gets the states behind the encoder and the decoder, and the inner network's between them.
        """
        level = self.encode(level)
        _note(states, f"{self.name}_encoder", level.hidden)
        chunking = self.router(level)
        chunks = self.pool(level, chunking)
        coarse, inner_chunkings, final = self.main(chunks, cls_vector, states)
        # Stage 1 may be narrower than the trunk; it takes the coordinates that it put in.
        coarse = coarse[..., : level.hidden.shape[-1]]
        expanded = self.upsampler(coarse, level.hidden, chunking, self._skip_gate(level, chunks, chunking))
        # The upsampler works in float32, the decoder in the type of its input.
        decoded = self.decoder(expanded.to(coarse.dtype), level.is_valid)
        _note(states, f"{self.name}_decoder", decoded)
        return decoded, (chunking, *inner_chunkings), final

    def chunk(self, level: Level) -> tuple[Chunking, ...]:
        """The chunkings of this stage and the inner ones, which needs neither trunk nor decoders."""
        level = self.encode(level)
        chunking = self.router(level)
        return (chunking, *self.main.chunk(self.pool(level, chunking)))

    def encode(self, level: Level) -> Level:
        """The level with the encoder's vectors, which the router compares."""
        return level._replace(hidden=self.encoder(level.hidden, level.is_valid))

    def pool(self, level: Level, chunking: Chunking) -> Level:
        """The level of the chunks, as wide as the inner network."""
        chunks = pool_level(level, chunking)
        if self.widening is None:
            return chunks
        extra = self.widening.to(chunks.hidden.dtype).expand(*chunks.hidden.shape[:2], -1)
        if level.tail is not None:
            extra = extra + pool_chunks(level.tail, chunking)
        return chunks._replace(hidden=torch.cat([chunks.hidden, extra], dim=-1))

    def _skip_gate(self, level: Level, chunks: Level, chunking: Chunking) -> Tensor:
        """Where the skip path is open: not in a chunk that holds a [MASK], which the trunk must predict."""
        if not self.gates_skip:
            return level.is_valid
        return level.is_valid & ~chunks.is_masked.gather(1, chunking.chunk_of)


def _note(states: States | None, name: str, state: Tensor) -> None:
    if states is not None:
        states[name] = state


def _local_layers(config: HNetNTV2Config, dim: int, count: int) -> LocalLayers:
    head_dim = config.d_model // config.n_head
    return LocalLayers(
        num_layers=count,
        dim=dim,
        num_heads=dim // head_dim,
        mlp_width=config.intermediate_size * dim // config.d_model,
        window=config.window,
        layer_norm_eps=config.layer_norm_eps,
    )


def build_hierarchy(config: HNetNTV2Config) -> ChunkStage:
    """Stages around the trunk, from the inside out."""
    network: ChunkStage | ChunkTrunk = ChunkTrunk(config)
    for stage in reversed(range(config.num_stages)):
        network = ChunkStage(config, stage, network)
    assert isinstance(network, ChunkStage)
    return network
