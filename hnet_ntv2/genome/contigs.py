"""Contig names: UCSC (chr1), Ensembl (1) and NCBI (NC_000001.11) styles for the same chromosome of GRCh38."""

from collections.abc import Iterable, Mapping

from ..errors import ContigNotFound

HG38_LENGTHS: dict[str, int] = {
    "1": 248956422, "2": 242193529, "3": 198295559, "4": 190214555, "5": 181538259, "6": 170805979, "7": 159345973,
    "8": 145138636, "9": 138394717, "10": 133797422, "11": 135086622, "12": 133275309, "13": 114364328,
    "14": 107043718, "15": 101991189, "16": 90338345, "17": 83257441, "18": 80373285, "19": 58617616, "20": 64444167,
    "21": 46709983, "22": 50818468, "X": 156040895, "Y": 57227415, "MT": 16569,
}  # fmt: skip
"""Length in bases of each chromosome of GRCh38, by its Ensembl name."""

# RefSeq accession versions of GRCh38 only: another version is another assembly, so it must not match.
_REFSEQ_VERSIONS = dict(
    zip(range(1, 25), (11, 12, 12, 12, 10, 12, 14, 11, 12, 11, 10, 12, 11, 9, 10, 10, 11, 10, 10, 11, 9, 11, 11, 10),
        strict=True)
)  # fmt: skip
_FROM_REFSEQ = {
    f"NC_{number:06d}.{version}": {23: "X", 24: "Y"}.get(number, str(number))
    for number, version in _REFSEQ_VERSIONS.items()
} | {"NC_012920.1": "MT"}


def canonical(name: str) -> str:
    """The Ensembl-style name: ``chr1``, ``1`` and ``NC_000001.11`` give ``1``; ``chrM`` and ``M`` give ``MT``.

    Names of other genomes only lose a leading ``chr``.
    """
    if name in _FROM_REFSEQ:
        return _FROM_REFSEQ[name]
    short = name[3:] if name.lower().startswith("chr") and len(name) > 3 else name
    return "MT" if short == "M" else short


def resolve(name: str, known: Iterable[str], *, source: str = "the genome") -> str:
    """Find the name under which ``known`` holds the contig ``name``, whatever the naming style.

    Args:
        name: Contig name in any style.
        known: The names of the genome.
        source: What ``known`` belongs to, for the error.

    Raises:
        ContigNotFound: if no known name matches, or several do.
    """
    names = known if isinstance(known, Mapping) else list(known)
    if name in names:
        return name
    wanted = canonical(name)
    matches = [candidate for candidate in names if canonical(candidate) == wanted]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ContigNotFound(f"{name!r} could be any of {matches} of {source}; use one of these names")
    examples = ", ".join(list(names)[:3])
    raise ContigNotFound(f"{name!r} is not in {source}; its {len(list(names))} names look like {examples}")


class ContigResolver:
    """``resolve`` with a memory, for files of millions of lines over few names."""

    def __init__(self, known: Iterable[str], *, source: str = "the genome") -> None:
        self._known = known if isinstance(known, Mapping) else list(known)
        self._source = source
        self._found: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """The genome's name for ``name``; raises ContigNotFound as ``resolve`` does."""
        if name not in self._found:
            self._found[name] = resolve(name, self._known, source=self._source)
        return self._found[name]
