"""Contig names: UCSC (chr1), Ensembl (1) and NCBI (NC_000001.11) styles for the same chromosome of GRCh38."""

from collections.abc import Iterable

from ..errors import ContigNotFound, shown

# RefSeq accession versions of GRCh38 only: another version is another assembly, so it must not match.
_REFSEQ_VERSIONS = (11, 12, 12, 12, 10, 12, 14, 11, 12, 11, 10, 12, 11, 9, 10, 10, 11, 10, 10, 11, 9, 11, 11, 10)
_FROM_REFSEQ = {
    f"NC_{number:06d}.{version}": {23: "X", 24: "Y"}.get(number, str(number))
    for number, version in enumerate(_REFSEQ_VERSIONS, start=1)
} | {"NC_012920.1": "MT"}


def canonical(name: str) -> str:
    """The Ensembl-style name: ``chr1``, ``1`` and ``NC_000001.11`` give ``1``; ``chrM`` and ``M`` give ``MT``.

    Names of other genomes only lose a leading ``chr``.
    """
    if name in _FROM_REFSEQ:
        return _FROM_REFSEQ[name]
    short = name[3:] if name.lower().startswith("chr") and len(name) > 3 else name
    return "MT" if short == "M" else short


class ContigResolver:
    """Find the name under which a genome holds a contig, whatever the naming style.

    Args:
        known: The names of the genome.
        source: What ``known`` belongs to, for the error.
    """

    def __init__(self, known: Iterable[str], *, source: str = "the genome") -> None:
        self._known = dict.fromkeys(known)
        self._source = source
        self._by_canonical: dict[str, list[str]] | None = None

    def __call__(self, name: str) -> str:
        """The genome's name for ``name``.

        Raises:
            ContigNotFound: if no known name matches, or several do.
        """
        if name in self._known:
            return name
        # Built once, at the first name of another style: draft assemblies have 100,000 contigs.
        if self._by_canonical is None:
            self._by_canonical = {}
            for known in self._known:
                self._by_canonical.setdefault(canonical(known), []).append(known)
        matches = self._by_canonical.get(canonical(name), [])
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise ContigNotFound(f"{shown(name)} could be any of {matches} of {self._source}; use one of these names")
        examples = ", ".join(list(self._known)[:3])
        raise ContigNotFound(f"{shown(name)} is not in {self._source}, whose names look like {examples}")
