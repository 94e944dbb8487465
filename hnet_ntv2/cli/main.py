"""The command ``hnet-ntv2``: one verb per file, errors of the user without a traceback.

Verb modules import only the standard library and typer at their top, so that ``--help`` answers at once; what is heavy
(torch, Lightning, Hydra) is imported inside the verb.
"""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from ..errors import HNetNTV2Error

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
        app.command(verb, cls=getattr(module, "COMMAND_CLASS", None))(getattr(module, verb))


_register_verbs()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 the user's error, told in one line.

    Args:
        arguments: What follows the command's name; None takes it from the process.
    """
    try:
        app(args=arguments, prog_name="hnet-ntv2")
    except HNetNTV2Error as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
