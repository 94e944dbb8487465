"""A progress bar on standard error while the genome cache is built, which takes minutes for a large genome."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ..genome.fasta import Progress as ProgressCallback


@contextmanager
def cache_progress(title: str, *, visible: bool = True) -> Iterator[ProgressCallback | None]:
    """A callback for ``open_genome`` that draws a bar. The bar appears at the first call, so not for a finished cache.

    Args:
        title: Text in front of the bar.
        visible: False gives None, for no bar.
    """
    if not visible:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(title)

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
