"""What the parts of an evaluation share: how a model is named, and what it gives on one fold and seed of a task."""

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

# In front of a model's name: on the Hub; a folder's architecture with random weights.
HUB, RANDOM = "hf:", "random:"


@dataclass(frozen=True)
class UnitResult:
    """Scores of the test rows, and how they came about.

    Attributes:
        scores: float32 [test rows, classes or labels] probabilities, or [test rows, columns] values.
        dev_metric: The task's metric on dev of what was chosen; None where nothing is chosen.
        chosen: Settings chosen on dev, such as k, C, layer and pooling.
        seconds: Wall-clock time of fitting and scoring.
        num_parameters: Trained and frozen parameters; None where that says nothing.
        history: Points of the learning curve; empty where there is none.
    """

    scores: NDArray
    dev_metric: float | None
    chosen: dict[str, Any]
    seconds: float
    num_parameters: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
