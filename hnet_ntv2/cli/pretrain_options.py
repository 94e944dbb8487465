"""The options of ``hnet-ntv2 pretrain``: one table and its parser, for the command and for the script beside it.

Imports the standard library only: ``scripts/run_pretrain_hnet_ntv2.sh`` runs this file before there is an environment,
so that a misspelled option costs no download.
"""

import re
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Option(NamedTuple):
    """One option.

    Attributes:
        value: Name of its value in the help; empty for a flag.
        kind: "flag", "text", "count", "number" or "precision"; "text?" where the value may be left out.
        setting: Dotted name of the setting that it sets; empty where the command itself reads it.
        text: What it does.
    """

    value: str
    kind: str
    setting: str
    text: str


OPTIONS = {
    "--experiment-name": Option("NAME", "text", "experiment_name", "its name in logs and W&B (default: hnet_ntv2)"),
    "--config-path": Option("YAML", "text", "", "your own experiment YAML from anywhere (default: the hg38 one)"),
    "--data": Option("FASTA", "text", "data.fasta", "genome: .fa, .fa.gz or .2bit"),
    "--intervals": Option("BED", "text", "data.intervals", "chrom start end split; else the split is by chromosome"),
    "--seq-length": Option("L", "count", "data.seq_length", "bases per window, up to 131072 (default: 1024)"),
    "--output-dir": Option("DIR", "text", "output_dir", "where the run writes (default: outputs/hnet_ntv2)"),
    "--max-steps": Option("N", "count", "trainer.max_steps", "optimiser steps (default: 50000)"),
    "--batch-size": Option("N", "count", "batch.global_size", "windows per optimiser step, all devices (default: 512)"),
    "--learning-rate": Option("LR", "number", "optimizer.learning_rate", "peak learning rate (default: 6e-4)"),
    "--precision": Option("P", "precision", "trainer.precision", "16, bf16 or 32 (default: 16; what runs is printed)"),
    "--devices": Option("N", "count", "trainer.devices", "devices per node (default: 1)"),
    "--num-nodes": Option("N", "count", "trainer.num_nodes", "nodes (default: 1)"),
    "--wandb-project": Option("P", "text", "logger.wandb_project", "log to Weights & Biases as well"),
    "--wandb-entity": Option("E", "text", "logger.wandb_entity", "W&B user or team"),
    "--init": Option("DIR", "text", "init", "start from the weights in this model directory"),
    "--resume": Option("PATH", "text?", "resume", "go on from a checkpoint (default: the output directory's last one)"),
    "--demo": Option("", "flag", "", "train a tiny model on bundled human DNA; needs no data"),
    "--help": Option("", "flag", "", "show this and exit"),
}

NEEDS = """\
Pre-training needs
  --data FASTA      the human genome hg38 (GRCh38), soft-masked, as .fa, .fa.gz or .2bit. The UCSC Genome Browser offers
                    it in its downloads section ("hg38", folder bigZips): hg38.fa.gz has about 1 GB (3.3 GB unpacked),
                    hg38.2bit about 0.8 GB. A cache of about 3.2 GB is built once
                    (in ~/.cache/hnet_ntv2, or where HNET_NTV2_CACHE says).
  --intervals BED   optional: "chrom start end split" with split in train, valid, test. The usual file is
                    human-sequences.bed (38,171 intervals of 131,072 bases, about 1 MB), offered by the HyenaDNA and
                    Caduceus repositories. Without it the split is by chromosome.
  --init DIR        optional: the folder of a saved model to start from instead of at random. `hnet-ntv2 init` makes
                    one out of the weights of the Nucleotide Transformer v2, which are on the Hugging Face Hub as
                    InstaDeepAI/nucleotide-transformer-v2-500m-multi-species (about 2 GB; their licence,
                    CC BY-NC-SA 4.0, forbids commercial use).

Nothing at hand? --demo trains a tiny model on human DNA that comes with the package."""

_USAGE = """\
Usage: hnet-ntv2 pretrain [OPTIONS] [-- HYDRA_OVERRIDE...]
   or: scripts/run_pretrain_hnet_ntv2.sh [OPTIONS] [-- HYDRA_OVERRIDE...]

Pre-train HNet-NTv2 on human DNA.

Options:
{}

Anything after -- is a Hydra override of the experiment, such as: -- model.n_main_layer=12 data.num_workers=4

SIGTERM and Ctrl-C finish the optimiser step, save and exit with status 0; a second one ends the run at once. A run
that cannot go on (NaN loss, collapsed chunk ratio) and every error of the user exit with status 2."""

_LONGEST_WINDOW = 131_072  # bases
# Of each kind of value: what it looks like, in words, and its type.
_KINDS = {
    "text": (r".+", "a value that is not empty", str),
    "count": (r"[1-9][0-9]*", "a whole number of at least 1", int),
    "number": (r"[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?", "a positive number", float),
    "precision": (r"16|bf16|32", "16, bf16 or 32", str),
}
# Exit status of this file as a program once it has shown the help: the script then ends with status 0.
_HELP_SHOWN = 10


class OptionError(ValueError):
    """A mistake in the command line."""


def parse_options(arguments: Sequence[str]) -> tuple[dict[str, str | int | float], list[str]]:
    """Values by option (1 for a flag, "last" for a bare ``--resume``), and the Hydra overrides after ``--``.

    Raises:
        OptionError: Naming the option and its value.
    """
    values: dict[str, str | int | float] = {}
    left = ["--help" if each == "-h" else each for each in arguments]
    while left:
        argument = left.pop(0)
        if argument == "--":
            for override in left:
                if "=" not in override and not override.startswith("~"):  # ~ takes a setting away
                    raise OptionError(f"after -- come Hydra overrides such as model.n_main_layer=12, not {override!r}")
            return values, left
        name, has_value, value = argument.partition("=")
        if not argument.startswith("-") or argument == "-":
            raise OptionError(f"unexpected argument {argument!r}; Hydra overrides come after --")
        if name not in OPTIONS:
            raise OptionError(f"unknown option {name!r}")
        kind = OPTIONS[name].kind
        if kind == "flag":
            if has_value:
                raise OptionError(f"{name} takes no value")
            values[name] = 1
            if name == "--help":
                return values, []  # what follows is not checked
        elif has_value or (left and not left[0].startswith("--")):
            values[name] = _convert(name, kind.rstrip("?"), value if has_value else left.pop(0))
        elif kind.endswith("?"):
            values[name] = "last"
        else:
            raise OptionError(f"{name} needs a value")
    return values, []


def usage() -> str:
    """The help."""
    rows = []
    for name, option in OPTIONS.items():
        value = f"[{option.value}]" if option.kind.endswith("?") else option.value
        rows.append(f"  {f'{name} {value}':<26} {option.text}")
    return _USAGE.format("\n".join(rows))


def explain(error: OptionError) -> str:
    """What the user reads of a mistake."""
    return f"error: {error}\nRun it with --help for the options."


def _convert(name: str, kind: str, text: str) -> str | int | float:
    pattern, words, convert = _KINDS[kind]
    is_right = re.fullmatch(pattern, text, re.DOTALL) and (kind != "number" or 0 < float(text) < float("inf"))
    if not is_right:
        raise OptionError(f"{name} {'takes' if text else 'needs'} {words}, not {text!r}")
    if name == "--seq-length" and int(text) > _LONGEST_WINDOW:
        raise OptionError(f"{name} takes at most {_LONGEST_WINDOW} bases, not {text!r}")
    return convert(text)


def _names_data(values: dict[str, str | int | float], overrides: list[str]) -> bool:
    """Whether there can be data; the command itself sees it in the settings."""
    return not values.keys().isdisjoint({"--demo", "--data", "--config-path"}) or any(
        re.match(r"data\.fasta=.|data\.bundled=true$|data=.|experiment=.", override) for override in overrides
    )


def _check(arguments: Sequence[str]) -> int:
    try:
        values, overrides = parse_options(arguments)
    except OptionError as error:
        print(explain(error), file=sys.stderr)
        return 2
    if "--help" in values:
        print(usage())
        return _HELP_SHOWN
    if not _names_data(values, overrides):
        print(
            f"error: no genome was given (--data FASTA), and a run without one cannot work.\n\n{NEEDS}", file=sys.stderr
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_check(sys.argv[1:]))
