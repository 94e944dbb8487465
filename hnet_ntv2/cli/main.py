"""The command ``hnet-ntv2``: one verb per file, errors of the user without a traceback.

Verb modules import only the standard library and typer at their top, so that ``--help`` answers at once; what is heavy
(torch, Lightning, Hydra) is imported inside the verb.
"""

import os
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from ..errors import HNetNTV2Error
from .ending import quiet_on_broken_pipe, stopped_by_signals

# Each verb is a function in a module of the same name. A module's COMMAND_CLASS, if any, parses the verb's arguments.
VERBS = ("bench", "embed", "evaluate", "finetune", "init", "predict", "pretrain", "repeats", "segment", "variants")

app = typer.Typer(
    name="hnet-ntv2",
    help="Pre-train and use HNet-NTv2, a DNA language model with learned chunks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"hnet-ntv2 {version('hnet-ntv2')}")
        except PackageNotFoundError:
            typer.echo("hnet-ntv2 (not installed, run from its sources)")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for _verb in VERBS:
    _module = import_module(f"{__package__}.{_verb}")
    app.command(_verb, cls=getattr(_module, "COMMAND_CLASS", None))(quiet_on_broken_pipe(getattr(_module, _verb)))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 a user's error (one line), 143 after SIGTERM, 130 after Ctrl-C.

    Args:
        arguments: Words after the command's name; None for those of the process.
    """
    try:
        with stopped_by_signals():
            app(args=arguments, prog_name="hnet-ntv2")
    except (HNetNTV2Error, OSError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            message = f"{os.fsdecode(error.filename)}: {error.strerror}"  # without Python's "[Errno 2]"
        typer.echo(f"error: {message}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
