"""What is known of the published suites: metrics, folds, and the sizes of their tasks."""

from collections.abc import Iterable
from typing import NamedTuple


class Published(NamedTuple):
    """Sizes of a published task: classes, bases of each sequence, rows of train and test; None where not known.

    ``metric`` is the task's own, where it is not the suite's.
    """

    num_classes: int
    length: int | None = None
    num_train: int | None = None
    num_test: int | None = None
    metric: str | None = None


class Suite(NamedTuple):
    """A suite: what it reports, how often dev rotates through train, and its tasks by the end of their paths."""

    metric: str | None
    num_folds: int
    tasks: dict[str, Published]


def _tasks(num_classes: int, length: int | None, names: Iterable[str]) -> dict[str, Published]:
    return dict.fromkeys(names, Published(num_classes, length))


_YEAST_MARKS = ("H3", "H3K14ac", "H3K36me3", "H3K4me1", "H3K4me2", "H3K4me3", "H3K79me3", "H3K9ac", "H4", "H4ac")
_HUMAN_MARKS = ("H2AFZ", "H3K27ac", "H3K27me3", "H3K36me3", "H3K4me1", "H3K4me2", "H3K4me3", "H3K9ac", "H3K9me3",
                "H4K20me1")  # fmt: skip
_PROMOTERS = _tasks(2, 300, ("promoter_all", "promoter_tata", "promoter_no_tata"))
_SPLICE_SITES = _tasks(2, 600, ("splice_sites_acceptors", "splice_sites_donors"))

SUITES = {
    "nt": Suite(
        "mcc",
        10,
        _PROMOTERS
        | _SPLICE_SITES
        | _tasks(2, 1000, _HUMAN_MARKS)
        | {
            "enhancers": Published(2, 400),
            "enhancers_types": Published(3, 400),
            "splice_sites_all": Published(3, 600),
        },
    ),
    "nt-original": Suite(
        "mcc",
        10,
        _PROMOTERS
        | _SPLICE_SITES
        | _tasks(2, 500, _YEAST_MARKS)
        | {
            "enhancers": Published(2, 200),
            "enhancers_types": Published(3, 200),
            "splice_sites_all": Published(3, 400),
        },
    ),
    "gue": Suite(
        "mcc",
        1,
        _tasks(2, 500, (f"EMP/{mark}" for mark in _YEAST_MARKS))
        | _tasks(2, 101, (f"{group}/{number}" for group in ("tf", "mouse") for number in range(5)))
        | _tasks(2, 300, (f"prom/prom_300_{kind}" for kind in ("all", "tata", "notata")))
        | _tasks(2, 70, (f"prom/prom_core_{kind}" for kind in ("all", "tata", "notata")))
        | {"splice/reconstructed": Published(3, 400), "virus/covid": Published(9, metric="f1")},
    ),
    "genomic-benchmarks": Suite(
        "accuracy",
        1,
        _tasks(2, 200, ("demo_coding_vs_intergenomic_seqs", "demo_human_or_worm"))
        | _tasks(2, None, ("dummy_mouse_enhancers_ensembl", "drosophila_enhancers_stark", "human_ocr_ensembl"))
        | {
            "human_enhancers_cohn": Published(2, 500, 20_843, 6_948),
            "human_enhancers_ensembl": Published(2, None, 123_872, 30_970),
            "human_ensembl_regulatory": Published(3, None, 231_348, 57_713),
            "human_nontata_promoters": Published(2, 251, 27_097, 9_034),
        },
    ),
}
