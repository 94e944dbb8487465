"""The vectors of all layers at every base, and those of the final chunks, from one forward pass."""

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..hierarchy import States
from ..levels import final_chunk_of
from ..modeling_hnet_ntv2 import HNetNTV2Model
from ..shapes import Float, Int, Tensor
from ..strands import Strands, average_strands

LAST_LAYER = "last"


class ChunkVectors(NamedTuple):
    """Final chunks of one sequence.

    Attributes:
        vectors: [chunks, dim] float32 as they leave the trunk, of the strand that was given to the model.
        spans: [chunks, 2] int64 first base of each chunk, and the one after its last.
    """

    vectors: NDArray[np.float32]
    spans: NDArray[np.int64]


def layer_names(config: HNetNTV2Config) -> tuple[str, ...]:
    """Names of the states of a model, from the embeddings inward to the trunk and back out, and "last"."""
    stages = [f"stage{stage}" for stage in range(1, config.num_stages + 1)]
    trunk = [f"trunk_{block}" for block in range(config.n_main_layer + 1)]
    encoders, decoders = [f"{stage}_encoder" for stage in stages], [f"{stage}_decoder" for stage in reversed(stages)]
    return ("embeddings", *encoders, *trunk, *decoders, LAST_LAYER)


class ForwardPass:
    """What one forward pass gives for right-padded rows; each layer is spread to the bases when it is asked for.

    Args:
        model: In eval mode.
        input_ids: [batch, length] character ids.
        strands: "both" averages over strands in the forward frame.
        only_last: Whether no inner layer will be asked for, which spares their memory.
    """

    def __init__(
        self,
        model: HNetNTV2Model,
        input_ids: Int[Tensor, "batch length"],
        strands: Strands = "both",
        only_last: bool = False,
    ) -> None:
        self._states: States = {}
        _, (hidden, self._chunkings, self._final) = model.run_strands(
            input_ids, strands=strands, states=None if only_last else self._states
        )
        self._states[LAST_LAYER] = hidden
        self._batch = len(input_ids)

    def base_vectors(self, layer: str = LAST_LAYER) -> Float[Tensor, "batch length dim"]:
        """One vector per base; every base of a chunk gets the state of the chunk."""
        return average_strands(self._at_bases(layer), self._chunkings[0].is_valid[: self._batch])

    def _at_bases(self, layer: str) -> Float[Tensor, "rows length dim"]:
        state = self._states[layer]
        if layer.startswith("trunk_"):
            state, depth = state[:, 1:], len(self._chunkings)  # without <cls>, which is no chunk
        else:
            stage = re.match(r"stage(\d+)_", layer)
            depth = int(stage.group(1)) - 1 if stage else 0
        if depth == 0:
            return state
        chunk_of = final_chunk_of(self._chunkings[:depth])
        return state.gather(1, chunk_of[..., None].expand(-1, -1, state.shape[-1]))

    def chunk_vectors(self, row: int) -> ChunkVectors:
        """The final chunks of one row's forward strand."""
        final = self._final
        starts = final.first_base[row][final.is_valid[row]]
        bounds = np.append(starts.cpu().numpy(), int(final.num_bases[row]))
        vectors = final.hidden[row][final.is_valid[row]].float().cpu().numpy()
        return ChunkVectors(vectors, np.stack([bounds[:-1], bounds[1:]], 1))
