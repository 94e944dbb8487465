"""Encode, chunk, run the inner network, expand, decode: one recursive stage, with the trunk at its centre."""

from typing import NamedTuple

import torch
from torch import nn

from .attention import pack_rows, unpack_rows
from .backbone import LocalBlock, LocalLayers, StateSpaceBlock, Trunk
from .chunking import (
    ChunkIndex,
    ChunkLimits,
    Router,
    Routing,
    chunk_holds,
    decide_boundaries,
    index_chunks,
    pool_chunks,
)
from .configuration_hnet_ntv2 import HNetNTV2Config
from .shapes import Bool, Float, Int, Tensor
from .upsampling import Upsampler

# Offsets that the base-resolution upsampler tells apart when no cap bounds the length of a chunk.
_UNCAPPED_OFFSETS = 32


class Level(NamedTuple):
    """What is known of the positions at one resolution besides their vectors.

    Attributes:
        is_valid: [batch, positions] False at (right) padding.
        first_base: [batch, positions] index of the base at which a position starts.
        num_bases: [batch] valid bases of each row.
        is_masked: [batch, positions] the position holds a [MASK].
        is_clear: [batch, positions] neither the k-mer that starts here nor the one before it holds a [MASK]: what the
            router compares is what it would compare without masks.
        forced_boundary: [batch, positions, stages] forced decisions, this stage first, then the inner ones.
        forced_reason: [batch, positions, stages] ``BoundaryReason`` of these decisions.
    """

    is_valid: Bool[Tensor, "batch positions"]
    first_base: Int[Tensor, "batch positions"]
    num_bases: Int[Tensor, " batch"]
    is_masked: Bool[Tensor, "batch positions"]
    is_clear: Bool[Tensor, "batch positions"]
    forced_boundary: Bool[Tensor, "batch positions stages"]
    forced_reason: Int[Tensor, "batch positions stages"]

    def pooled(self, index: ChunkIndex) -> "Level":
        """The next resolution, whose positions are this one's chunks."""
        first = index.first
        wide = first[..., None].expand(-1, -1, self.forced_reason.shape[-1])
        return Level(
            is_valid=index.has_chunk,
            first_base=self.first_base.gather(1, first),
            num_bases=self.num_bases,
            is_masked=chunk_holds(self.is_masked, index),
            is_clear=self.is_clear.gather(1, first),
            forced_boundary=self.forced_boundary.gather(1, wide)[..., 1:],
            forced_reason=self.forced_reason.gather(1, wide)[..., 1:],
        )


class Positions(NamedTuple):
    """What a stage works on.

    Attributes:
        hidden: [batch, positions, dim] their vectors.
        level: What else is known of them.
        tail: [batch, positions, tail_dim] further coordinates that widen the pooled vectors, where the inner network is
            wider.
    """

    hidden: Float[Tensor, "batch positions dim"]
    level: Level
    tail: Float[Tensor, "batch positions tail_dim"] | None = None


class StageOutput(NamedTuple):
    """The chunking of one stage; ``positions`` are bases at stage 1, stage-1 chunks at stage 2, and so on.

    Attributes:
        probability: [batch, positions] the router's boundary probability.
        is_boundary: [batch, positions] the final decision.
        reason: [batch, positions] ``BoundaryReason`` of the decision.
        is_free: [batch, positions] the decision was the router's to make.
        is_counted: [batch, positions] free, and clear of masks: where the ratio loss looks (docs/decisions/0010).
        is_valid: [batch, positions] False at padding.
        first_base: [batch, positions] index of the base at which a position starts.
        chunk_of: [batch, positions] index of the chunk that a position belongs to.
    """

    probability: Float[Tensor, "batch positions"]
    is_boundary: Bool[Tensor, "batch positions"]
    reason: Int[Tensor, "batch positions"]
    is_free: Bool[Tensor, "batch positions"]
    is_counted: Bool[Tensor, "batch positions"]
    is_valid: Bool[Tensor, "batch positions"]
    first_base: Int[Tensor, "batch positions"]
    chunk_of: Int[Tensor, "batch positions"]

    @property
    def achieved_ratio(self) -> Float[Tensor, ""]:
        """Chunks per valid position over the whole batch, forced boundaries included."""
        return self.is_boundary.sum() / self.is_valid.sum()


def final_chunk_of(stages: tuple[StageOutput, ...]) -> Int[Tensor, "batch length"]:
    """Index of the last stage's chunk that each base belongs to."""
    chunk_of = stages[0].chunk_of
    for stage in stages[1:]:
        chunk_of = stage.chunk_of.gather(1, chunk_of)
    return chunk_of


def final_boundaries(stages: tuple[StageOutput, ...]) -> Bool[Tensor, "batch length"]:
    """Whether each base begins a chunk of the last stage."""
    is_boundary, position = stages[0].is_boundary, stages[0].chunk_of
    for stage in stages[1:]:
        is_boundary = is_boundary & stage.is_boundary.gather(1, position)
        position = stage.chunk_of.gather(1, position)
    return is_boundary


class FinalChunks(NamedTuple):
    """The trunk's output, one vector per chunk of the last stage.

    Attributes:
        hidden: [batch, chunks, dim] after the trunk's final norm.
        first_base: [batch, chunks] first base of each chunk.
        has_chunk: [batch, chunks] slot is in use.
    """

    hidden: Float[Tensor, "batch chunks dim"]
    first_base: Int[Tensor, "batch chunks"]
    has_chunk: Bool[Tensor, "batch chunks"]


class NetworkOutput(NamedTuple):
    """What a stage, or the trunk, gives back to the stage around it.

    Attributes:
        hidden: [batch, positions, dim] at the resolution of the input.
        stages: Chunking of this stage and the inner ones, outermost first; empty for the trunk.
        final: The trunk's output.
        hidden_states: Named states from outside in and back, if they were asked for.
    """

    hidden: Float[Tensor, "batch positions dim"]
    stages: tuple[StageOutput, ...]
    final: FinalChunks
    hidden_states: dict[str, Tensor]


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
            intermediate_size=config.intermediate_size // 2,
            num_blocks=config.n_main_layer,
            layer_norm_eps=config.layer_norm_eps,
            rope_theta=config.rope_theta,
        )

    def forward(
        self,
        positions: Positions,
        cls_vector: Float[Tensor, " dim"],
        output_hidden_states: bool = False,
    ) -> NetworkOutput:
        """Run the trunk on [<cls>, chunk 1, ..., chunk n] of each row and return the chunks' vectors."""
        chunks, level, _ = positions
        batch = len(chunks)
        cls_rows = cls_vector.to(chunks.dtype).expand(batch, 1, -1)
        has_token = torch.cat([torch.ones_like(level.is_valid[:, :1]), level.is_valid], dim=1)
        packed, layout = pack_rows(torch.cat([cls_rows, chunks], dim=1), has_token)
        rotary = torch.cat([torch.zeros(batch, 1, device=chunks.device), self.rotary_positions(level)], dim=1)
        output = self.layers(packed, rotary[has_token], layout, output_hidden_states=output_hidden_states)
        hidden = unpack_rows(output.last_hidden_state, has_token)[:, 1:]
        states = {f"trunk_{i}": unpack_rows(state, has_token) for i, state in enumerate(output.hidden_states or ())}
        return NetworkOutput(hidden, (), FinalChunks(hidden, level.first_base, level.is_valid), states)

    def stages(self, positions: Positions) -> tuple[StageOutput, ...]:
        """Nothing is chunked in here."""
        return ()

    def rotary_positions(self, level: Level) -> Float[Tensor, "batch chunks"]:
        """NTv2's token index, from the first base or by counting chunks."""
        if self.position_mode == "rank":
            rank = torch.arange(level.is_valid.shape[1], device=level.is_valid.device, dtype=torch.float32)
            position = (1 + rank).expand(level.is_valid.shape)
        else:
            position = 1 + level.first_base.float() / self.kmer_size
        return position / self.position_scale


class Cut(NamedTuple):
    """A stage's decisions on encoded positions.

    Attributes:
        stage: The chunking.
        routing: The decisions by themselves.
        index: Which position belongs to which chunk.
        chunks: What the inner network works on.
    """

    stage: StageOutput
    routing: Routing
    index: ChunkIndex
    chunks: Positions


class ChunkStage(nn.Module):
    """One level of chunking around an inner network, which is another stage or the trunk.

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
        self.limits = ChunkLimits(least, greatest, config.max_chunk_length)
        self.gates_skip = config.residual_gating
        self.encoder = _local_layers(config, dim, config.layers_per_stage(config.n_enc_layer)[stage])
        for block in self.encoder.blocks:
            assert isinstance(block, LocalBlock | StateSpaceBlock)
            block.zero_output_projections()
        self.router = Router(dim)
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
        self,
        positions: Positions,
        cls_vector: Float[Tensor, " main_dim"],
        output_hidden_states: bool = False,
    ) -> NetworkOutput:
        """Encode, chunk, run the inner network on the chunks, expand and decode.

        Args:
            positions: What to work on.
            cls_vector: The vector that the trunk puts in front of each row.
            output_hidden_states: Collect named states.
        """
        encoded = self.encode(positions)
        cut = self.cut(encoded)
        fine, level, index = encoded.hidden, encoded.level, cut.index
        inner = self.main(cut.chunks, cls_vector, output_hidden_states)

        gate = level.is_valid
        if self.gates_skip:
            gate = gate & ~cut.chunks.level.is_masked.gather(1, index.chunk_of)
        coarse = inner.hidden[..., : fine.shape[-1]]
        expanded = self.upsampler(coarse, fine, cut.routing, index, gate).to(coarse.dtype)
        decoded = self.decoder(expanded, level.is_valid)

        states = {}
        if output_hidden_states:
            states = {f"{self.name}_encoder": fine, **inner.hidden_states, f"{self.name}_decoder": decoded}
        return NetworkOutput(decoded, (cut.stage, *inner.stages), inner.final, states)

    def stages(self, positions: Positions) -> tuple[StageOutput, ...]:
        """The chunking of this stage and the inner ones, which needs neither trunk nor decoders."""
        cut = self.cut(self.encode(positions))
        return (cut.stage, *self.main.stages(cut.chunks))

    def encode(self, positions: Positions) -> Positions:
        """What ``cut`` decides on."""
        return positions._replace(hidden=self.encoder(positions.hidden, positions.level.is_valid))

    def cut(self, encoded: Positions) -> Cut:
        """Decide the boundaries and pool what is between them."""
        fine, level, tail = encoded
        routing = self.route(self.router.dissimilarity(fine), level)
        index = index_chunks(routing.is_boundary, level.is_valid)
        is_counted = routing.is_free & level.is_clear
        return Cut(
            StageOutput(*routing, is_counted, level.is_valid, level.first_base, index.chunk_of),
            routing,
            index,
            Positions(self._widen(pool_chunks(fine, index), index, tail), level.pooled(index)),
        )

    def route(self, dissimilarity: Float[Tensor, "batch gaps"], level: Level) -> Routing:
        """The decisions, of what the router sees before its offset: all that an offset changes."""
        return decide_boundaries(
            self.router.shift(dissimilarity, level.is_valid),
            level.is_valid,
            level.forced_boundary[..., 0],
            level.forced_reason[..., 0],
            level.first_base,
            level.num_bases,
            self.limits,
        )

    def _widen(self, pooled: Tensor, index: ChunkIndex, tail: Tensor | None) -> Float[Tensor, "batch chunks main_dim"]:
        if self.widening is None:
            return pooled
        extra = self.widening.to(pooled.dtype).expand(*pooled.shape[:2], -1)
        if tail is not None:
            extra = extra + pool_chunks(tail, index)
        return torch.cat([pooled, extra], dim=-1)


def _local_layers(config: HNetNTV2Config, dim: int, count: int) -> LocalLayers:
    head_dim = config.d_model // config.n_head
    return LocalLayers(
        num_layers=count,
        dim=dim,
        num_heads=dim // head_dim,
        mlp_width=config.intermediate_size * dim // config.d_model,
        window=config.window,
        layer_norm_eps=config.layer_norm_eps,
        state_size=config.state_size if config.local_mixer == "ssm" else None,
    )


def build_hierarchy(config: HNetNTV2Config) -> ChunkStage:
    """Stages around the trunk, from the inside out."""
    network: ChunkStage | ChunkTrunk = ChunkTrunk(config)
    for stage in reversed(range(config.num_stages)):
        network = ChunkStage(config, stage, network)
    assert isinstance(network, ChunkStage)
    return network
