"""Write a window and its chunks as text: letters, with a mark before each chunk."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..levels import Chunking
from ..vocabulary import decode

FINAL_MARK, INNER_MARK = "|", "·"


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
    begins = [stage.first_base[row][(stage.is_boundary & stage.is_valid)[row]].tolist() for stage in stages]
    marks = {base: INNER_MARK for outer in begins[:-1] for base in outer}
    # Final marks last: a final chunk begins where an outer chunk begins too, and one mark is enough.
    marks |= dict.fromkeys(begins[-1], FINAL_MARK)
    lines, line = [], ""
    for position, letter in enumerate(decode(bases).decode()):
        piece = marks.get(position, "") + letter
        # A mark stays with its letter: at the end of a line it would point at nothing.
        if len(line) + len(piece) > width:
            lines.append(line)
            line = ""
        line += piece
    return "\n".join([*lines, line])
