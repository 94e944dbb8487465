"""Write a window with its chunks for a reader: letters, with a mark in front of each chunk."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..levels import Chunking
from ..vocabulary import decode

FINAL_MARK, INNER_MARK = "|", "·"


def first_bases(stages: Sequence[Chunking], row: int = 0) -> list[NDArray[np.int64]]:
    """The base at which each chunk of each stage begins, for one row; outermost stage first."""
    found = []
    for stage in stages:
        begins = (stage.is_boundary & stage.is_valid)[row]
        found.append(stage.first_base[row][begins].cpu().numpy().astype(np.int64))
    return found


def chunk_text(bases: NDArray[np.uint8], stages: Sequence[Chunking], row: int = 0, width: int = 100) -> str:
    """Letters with "|" before each final chunk and "·" before each chunk of the stages outside it.

    Args:
        bases: Character ids of the row, [length].
        stages: The model's stages, outermost first.
        row: Which row of the stages.
        width: Characters per line.

    Returns:
        Lines of at most ``width`` characters; a mark never ends a line.
    """
    begins = first_bases(stages, row)
    marks = {int(base): INNER_MARK for inner in begins[:-1] for base in inner}
    marks |= {int(base): FINAL_MARK for base in begins[-1]}
    lines, line = [], ""
    for position, letter in enumerate(decode(bases).decode()):
        piece = marks.get(position, "") + letter
        if len(line) + len(piece) > width:
            lines.append(line)
            line = ""
        line += piece
    return "\n".join([*lines, line])
