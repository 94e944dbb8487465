"""Load a model folder for inference: check its files, then load it in eval mode onto a device."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..errors import ConfigError, HNetNTV2Error, WeightsError
from ..genome import file_digest
from ..model_files import loaded_files, on_one_line, read_config, weight_files
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..resources import bundled_model


def load_model(folder: str | os.PathLike[str] | None = None, device: str = "auto") -> HNetNTV2ForMaskedLM:
    """Load a model in float32 for inference.

    Args:
        folder: With ``config.json`` and ``*.safetensors``, as training and ``init`` write it; None for the bundled one.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1" ...

    Raises:
        WeightsError: There is no such folder, or what it holds is no HNet-NTv2 model.
        ConfigError: The device cannot be used, or a setting in ``config.json`` is unknown.
    """
    folder = check_model_folder(folder)
    place = choose_device(device)
    return load_weights(HNetNTV2ForMaskedLM, folder).to(place).eval()


def load_weights(model_class: Any, folder: Path, **options: Any) -> Any:
    """A model of a class from the files of a folder, in float32 on the CPU.

    Args:
        model_class: With ``from_pretrained``.
        folder: Its files.
        options: Further ones of ``from_pretrained``.

    Raises:
        WeightsError: They cannot be loaded.
        ConfigError: A setting in ``config.json`` is unknown.
    """
    # transformers' bar over the tensors would stand between our own lines of progress.
    shows_progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        return model_class.from_pretrained(folder, local_files_only=True, dtype=torch.float32, **options)
    except HNetNTV2Error:
        raise
    except Exception as error:  # transformers and safetensors raise many kinds at a damaged file
        raise WeightsError(f"the model in {folder} cannot be loaded: {on_one_line(error)}") from error
    finally:
        if shows_progress:
            transformers_logging.enable_progress_bar()


def check_model_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Check the files of a model folder, or of the bundled one for None, without reading the weights; its path.

    Raises:
        WeightsError: A file is missing or cannot be used.
        ConfigError: A setting in ``config.json`` is unknown or out of range.
    """
    if folder is None:
        return bundled_model()
    path = Path(folder).expanduser()
    if not (path / "config.json").exists():
        problem = "holds no config.json" if path.is_dir() else "is not a folder"
        raise WeightsError(f"{path} {problem}; name a model folder, such as checkpoints/hf of a run")
    # Whether transformers applies the adapter depends on whether peft is installed.
    if (path / "adapter_config.json").exists():
        raise WeightsError(f"{path} holds an adapter beside a model; merge it (merge_and_unload) and save the result")
    read_config(path, HNetNTV2Config)
    weight_files(path)
    return path


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one.

    Raises:
        ConfigError: It cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)  # fails for what torch knows and this machine lacks, as for a misspelt name
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name} cannot be used here: {reason}; take auto or cpu") from error
    return torch.device(name)


def model_fingerprint(folder: str | os.PathLike[str] | None = None) -> str:
    """Digest of the files that are loaded from a model folder; its path does not count."""
    path = check_model_folder(folder)
    digest = hashlib.blake2b(digest_size=16)
    for file in loaded_files(path):
        digest.update(f"{file.name} {file_digest(file)}\n".encode())
    return digest.hexdigest()
