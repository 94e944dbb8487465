"""Embed sequences into a file, block by block; an interrupted job can be resumed and writes the same bytes.

Finished blocks wait in ``<output>.blocks.partial``, which begins with the settings of the job. The output is made from
them at the end.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..inference.settings_file import require_same_settings
from ..inference.windows import Progress
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..storage import appearing_file, growing_file, is_stream, partial_path, resolve
from .embed import EmbedSettings, embed_groups
from .formats import check_output, read_embeddings, write_tables
from .sequences import NamedSequence
from .store import BlockStore
from .table import EmbeddingTable


@dataclass
class EmbedSummary:
    """Counts of a finished job.

    Attributes:
        num_sequences: Rows of the output.
        num_empty: Those without A, C, G or T, whose vectors are NaN.
        first_empty: Name of the first of them.
    """

    num_sequences: int = 0
    num_empty: int = 0
    first_empty: str | None = None

    def count(self, table: EmbeddingTable) -> None:
        """Add the rows of a table."""
        empty = [name for name, count in zip(table.names, table.num_bases, strict=True) if not count]
        self.num_sequences += len(table.names)
        self.num_empty += len(empty)
        self.first_empty = self.first_empty or next(iter(empty), None)


def embed_to_file(
    model: HNetNTV2ForMaskedLM,
    sequences: Iterable[NamedSequence],
    output: str | os.PathLike[str],
    settings: EmbedSettings | None = None,
    *,
    identity: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> EmbedSummary:
    """Embed sequences, in their order, into a file that appears when it is complete.

    Args:
        model: In eval mode.
        sequences: Read as they are needed; the first ones are skipped by a resumed job.
        output: See ``formats.write_tables`` for what it holds.
        settings: None for the defaults of ``EmbedSettings``.
        identity: What else the bytes depend on, such as ``model_fingerprint`` and digests of the inputs; for JSON.
        resume: Continue what an interrupted call left, if it left something. A complete output stays.
        progress: Called after each forward pass of this call.

    Raises:
        ConfigError: The output cannot be written, or an interrupted or complete one has other settings.
        DataError: There are no sequences.
    """
    settings = (settings or EmbedSettings()).resolved(model)
    output = check_output(output, settings.per_base or settings.per_chunk)
    # The kind of device: CPU and GPU round differently. As JSON has it, so that it can be compared with what is read.
    described = json.loads(json.dumps({**(identity or {}), "device": model.device.type, **asdict(settings)}))
    summary = EmbedSummary()
    with ExitStack() as stack:
        if is_stream(output):
            if resume:
                raise ConfigError(f"{output} is a pipe or device: what went there cannot be resumed; name a file")
            blocks = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "blocks"
        else:
            blocks = resolve(output).with_name(f"{resolve(output).name}.blocks")
            if resume and resolve(output).exists() and not partial_path(blocks).exists():
                table = read_embeddings(output)
                require_same_settings(table.settings, described, output)
                summary.count(table)
                return summary
        partial = stack.enter_context(appearing_file(output))  # first: another writer of the output is refused by it
        file = stack.enter_context(growing_file(blocks, resume and partial_path(blocks).exists()))
        store = BlockStore(file, described, str(output))
        try:
            remaining = islice(sequences, store.num_rows, None)
            for group in embed_groups(model, remaining, settings, progress):
                store.append(EmbeddingTable.of(group))
            if not store.num_rows:
                raise DataError("there is no sequence to embed")
        except BaseException:
            if not store.num_rows:
                partial_path(blocks).unlink()  # there is nothing to go on with
            raise
        for table in store:
            summary.count(table)
        write_tables(partial, output.suffix, store, described)
    blocks.unlink(missing_ok=True)
    return summary
