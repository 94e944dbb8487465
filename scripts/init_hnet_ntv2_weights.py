"""Make a model from a configuration, print its parameters per part, and save it for ``--init``.

This version makes randomly initialised models only, and only when asked for by name (``--random-trunk``). Copying the
weights of the Nucleotide Transformer v2 into the trunk is not part of it.
"""

import argparse
import sys
from pathlib import Path

DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "model" / "hnet_ntv2.yaml"
NEEDS_CONVERSION = ("--ntv2", "--layers")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line; exits with 2 and a message where they cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, metavar="YAML", help="model settings (default: the 432M model)"
    )
    parser.add_argument("--random-trunk", action="store_true", help="initialise the trunk at random")
    parser.add_argument(
        "--seed", type=int, default=2222, metavar="N", help="seed of the random weights (default: 2222)"
    )
    parser.add_argument(
        "--save-model", action="store_true", help="write the model; without it the parameters are only counted"
    )
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="folder that --save-model writes")
    parser.add_argument("--ntv2", metavar="DIR", help="not in this version: NTv2 weights for the trunk")
    parser.add_argument("--layers", metavar="WHICH", help="not in this version: which of NTv2's blocks to keep")
    options = parser.parse_args(arguments)
    for flag in NEEDS_CONVERSION:
        if getattr(options, flag.removeprefix("--")) is not None:
            parser.error(f"{flag}: copying NTv2 weights into the model is not part of this version; use --random-trunk")
    if not options.random_trunk:
        parser.error(
            "a trunk without NTv2's weights has to be asked for: add --random-trunk (copying weights is not part of "
            "this version)"
        )
    if options.save_model and options.output_dir is None:
        parser.error("--save-model needs --output-dir")
    if options.output_dir is not None and not options.save_model:
        parser.error("--output-dir is written with --save-model only")
    return options


def run(options: argparse.Namespace) -> None:
    """Build the model, print its ledger, save it if asked to.

    Raises:
        ConfigError: if the YAML cannot be used, or the output folder holds something.
    """
    import torch

    from hnet_ntv2 import HNetNTV2ForMaskedLM, HNetNTV2Tokenizer
    from hnet_ntv2.errors import ConfigError

    folder = options.output_dir
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--output-dir {folder} exists and is not an empty folder; name another one")
    config = read_config(options.config)
    torch.manual_seed(options.seed)
    model = HNetNTV2ForMaskedLM(config)
    print(f"Randomly initialised from {options.config}, seed {options.seed}:")
    counts = model.count_parameters()
    for part, count in [*counts.items(), ("total", sum(counts.values()))]:
        print(f"  {part:<22} {count:>13,}  random")
    if folder is not None:
        model.save_pretrained(folder)
        HNetNTV2Tokenizer().save_pretrained(folder)
        print(f"Saved to {folder}")


def read_config(path: Path):
    """Model settings from a YAML file.

    Raises:
        ConfigError: if there is no such file, it is no YAML mapping, or a setting in it cannot be used.
    """
    from omegaconf import OmegaConf
    from yaml import YAMLError

    from hnet_ntv2 import HNetNTV2Config
    from hnet_ntv2.errors import ConfigError

    try:
        settings = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError) as error:
        raise ConfigError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"--config {path} holds no settings (name: value)")
    return HNetNTV2Config(**{str(name): value for name, value in settings.items()})


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 the user's error."""
    options = parse_arguments(arguments)
    from hnet_ntv2.errors import HNetNTV2Error

    try:
        run(options)
    except HNetNTV2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
