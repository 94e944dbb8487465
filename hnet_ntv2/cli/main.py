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

# Each verb is the function of the same name in the module of the same name, which may bring a COMMAND_CLASS.
VERBS = ("bench", "embed", "init", "pretrain", "repeats", "segment", "variants")

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


def _register_verbs() -> None:
    for verb in VERBS:
        module = import_module(f"{__package__}.{verb}")
        run = quiet_on_broken_pipe(getattr(module, verb))
        app.command(verb, cls=getattr(module, "COMMAND_CLASS", None))(run)


_register_verbs()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 the user's error, told in one line; 143 for SIGTERM, 130 for Ctrl-C.

    Args:
        arguments: What follows the command's name; None takes it from the process.
    """
    try:
        with stopped_by_signals():
            app(args=arguments, prog_name="hnet-ntv2")
    except (HNetNTV2Error, OSError) as error:
        typer.echo(f"error: {_one_line(error)}", err=True)
        sys.exit(2)


def _one_line(error: Exception) -> str:
    """The message; an error of the system becomes the file's name and the reason."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


if __name__ == "__main__":
    main()
