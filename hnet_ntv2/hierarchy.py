"""The network: each stage encodes a level, cuts it into chunks, runs the inner network on them, expands and decodes.

A *level* is a row of positions: their vectors, and which of them are padding or hold a [MASK]. A *chunking* says where
on a level chunks begin and which positions they hold (``levels.py``). The outermost level is the bases. Each base comes
with the source model's embedding of the k-mer that starts there, so that the vector of a chunk's first base stands for
its first k bases. The chunks of one level are the positions of the next; the chunks of the last stage are the *final
chunks*, which the trunk sees.

    bases (a level)                                              vectors of the bases
      | encoder: local layers, as many positions as the level      ^ decoder: local layers
      | router: where do chunks begin? (a chunking)                | upsampler: chunk vectors back to positions, + skip
      v pool: each chunk's first vector (the next level)           |
    stage-1 chunks ... the same again ... final chunks -> trunk ---+

Whether a chunk begins at a position is decided by the first of these rules that has a say there. k is the length of
the source model's tokens (NTv2: 6-mers).

1. **row start**: a chunk begins at the first position of a row.
2. **protection** of masks: a chunk begins at a run of [MASK], behind it, and every k bases inside it, but nowhere else
   inside. So no chunk mixes masked and clean bases. (The setting ``mask_protection`` can turn this rule off, and this
   rule only. A chunk can then mix them wherever no other rule ends it at the run.)
3. **grid**: where a warm start asks for it, chunks are the tokens of NTv2's own tokenizer, and the trunk computes what
   NTv2 does. Training begins on the grid and leaves it token by token, so that the router gets more and more to decide.
4. **anchor**: the k clean bases in front of a masked run are one final chunk, and so are the k bases behind it. The
   trunk then sees whole k-mers beside what it must predict. Where k to 2k clean bases lie between two runs, the anchor
   in front of the second run takes its k first, and the one behind the first run gets those that are left. Where fewer
   than k lie between them, there is no anchor and the next rule decides.
5. **router**: its score says how much a position differs from the one in front of it. A chunk begins where the score
   is the greatest among some neighbours: three at a target ratio of 0.3, two at 0.5. So the ratio holds by itself, and
   equal sequence is cut alike wherever it stands. The score becomes a probability p, which is over 0.5 at these peaks.
   The decision itself has no gradient. p gets one because the upsampler uses it as a weight: to smooth neighbouring
   chunks' vectors, and as a factor of value 1 (H-Net's straight-through estimate).

Two bounds then correct the router, but none of the rules above it. The **cap** adds a boundary where a final chunk
would be longer than ``max_chunk_length`` bases. It acts at every stage: an inner stage can merge chunks but not cut
them. The **guard** drops or adds the router's least certain boundaries where a row would have too many chunks (memory)
or too few. For every choice it tries, the cap's boundaries are made anew and counted, so that the cap always holds.

Rules 1 and 2 decide alike at every stage. A token on the grid and an anchor must be whole at the last stage only. Where
there are several stages, stage 1 also has a forced boundary in the middle of each k-mer on the grid, because its target
is about two chunks per k-mer; and the router may cut inside an anchor at every stage but the last. Inner stages join
these pieces again.

Rules 1 to 4 need no vectors: the input ids decide, and for rule 3 which tokens training still holds on the grid. So
``forced_boundaries.py`` writes their decisions, one for each base and stage, into the level of the bases before the
network runs. A chunk takes those of its first position along to the next level. The router and the two bounds are in
``chunking.py``, what differs between the values of the setting ``chunker`` in ``chunkers.py``. H-Net's own rule is
``chunker="learned"``: p > 0.5, and the ratio loss and an offset that moves hold the ratio (``ratio_control.py``).
"""

import torch
from torch import nn

from .attention import pack_rows, unpack_rows
from .backbone import LocalBlock, LocalLayers, Trunk
from .chunkers import build_chunker
from .chunking import pool_chunks, pool_level
from .configuration_hnet_ntv2 import HNetNTV2Config
from .levels import Chunking, Level
from .shapes import Float, Tensor
from .upsampling import Upsampler

# The base-resolution upsampler tells a base's place in its chunk. Without a cap, places from this one on look alike.
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
            # The setting counts the rows of NTv2's fused GLU: gate and value, two per unit of width.
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
        # Rows have different numbers of chunks. Packed into one long row, no layer computes their padding.
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
        """Where each chunk stands in the row, in NTv2's token indices (``<cls>`` is 0).

        "rank" counts chunks. "base" takes the chunk's first base in units of k bases, which is the same on the grid and
        stays a distance along the DNA when chunks have other lengths. ``rope_scaling_factor`` squeezes either into the
        range that NTv2 was trained on.
        """
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
        stage: Index from 0, the base resolution; names count from 1 (``stage1``).
        main: The inner network, of width ``config.d_model``.
    """

    def __init__(self, config: HNetNTV2Config, stage: int, main: "ChunkStage | ChunkTrunk"):
        super().__init__()
        dim = config.base_dim if stage == 0 else config.d_model
        self.name = f"stage{stage + 1}"
        self.gates_skip = config.residual_gating
        self.encoder = _local_layers(config, dim, config.layers_per_stage(config.n_enc_layer)[stage])
        for block in self.encoder.blocks:
            assert isinstance(block, LocalBlock)
            # A new encoder passes its input on unchanged, so that the trunk starts on NTv2's own embeddings. Decoders
            # start at random, for the router's sake. The loss is on masked bases. Their own chunks are forced and
            # give p no gradient. Chunks of clean bases that the router decided do: the decoder attends from masked
            # positions to theirs, and one that starts as the identity would not.
            block.zero_output_projections()
        self.router = build_chunker(config, stage, dim)
        # Where bases are narrow (``base_dim`` < ``d_model``), a pooled vector gets its missing coordinates from
        # ``Level.tail``, the rest of the base's k-mer embedding, plus a learned vector (H-Net has the latter alone).
        self.widening = nn.Parameter(torch.zeros(config.d_model - dim)) if dim < config.d_model else None
        self.main = main
        self.upsampler = Upsampler(
            dim,
            # Bases of one chunk get the same chunk vector; their place in it tells the decoder which is which.
            num_offsets=(config.max_chunk_length or _UNCAPPED_OFFSETS) if stage == 0 else 0,
            use_smoothing=config.smoothing,
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
        chunking = self.router(level)  # rules 1 to 4 stand in ``level.forced_boundary``; cap and guard are applied too
        chunks = self.pool(level, chunking)
        coarse, inner_chunkings, final = self.main(chunks, cls_vector, states)
        # Where bases are narrow, their first ``base_dim`` coordinates come back; the others were for the trunk.
        coarse = coarse[..., : level.hidden.shape[-1]]
        expanded = self.upsampler(coarse, level.hidden, chunking, self._skip_gate(level, chunks, chunking))
        # The upsampler returns float32; the decoder goes on in the type that the inner network has.
        decoded = self.decoder(expanded.to(coarse.dtype), level.is_valid)
        _note(states, f"{self.name}_decoder", decoded)
        return decoded, (chunking, *inner_chunkings), final

    def chunk(self, level: Level) -> tuple[Chunking, ...]:
        """The chunkings of this stage and the inner ones, outermost first. Trunk and decoders do not run."""
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
        """Where the skip path is open: not in a chunk that holds a [MASK], which the trunk must predict.

        By chunk and not by base, because a chunk can mix masked and clean bases where ``mask_protection`` is off.
        """
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
        # A plain MLP as wide as the setting says, not halved as in the trunk: it has no gate.
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
