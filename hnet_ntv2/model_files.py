"""Check the files of a saved model before anything loads them: which they are, where they lie, what they hold."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig
from transformers.utils import cached_file

from .errors import ConfigError, HNetNTV2Error, WeightsError
from .shapes import Tensor

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST_JSON_BYTES = 1 << 24
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
# What of ``from_pretrained``'s options says where on the Hub, or in its cache, a file is.
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def read_json(path: Path, kind: type[HNetNTV2Error] = WeightsError) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: A regular file of at most 16 MiB.
        kind: Class of the error.

    Raises:
        HNetNTV2Error: Of ``kind``: there is no such file, or it is too large, unreadable or no JSON object.
    """
    if not path.is_file():
        raise kind(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    try:
        size = path.stat().st_size
        if size > _MOST_JSON_BYTES:
            raise kind(f"{path} has {size:,} bytes, more than any settings need; it is not what its name says")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: brackets within brackets, by the thousand
        if isinstance(error, HNetNTV2Error):
            raise
        raise kind(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise kind(f"{path} holds a JSON {type(content).__name__}, not an object of settings")
    return content


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files that are loaded from a folder: the single one, or the shards that its index names.

    Args:
        folder: Of a saved model.
        variant: As ``from_pretrained`` has it: "fp16" is ``model.fp16.safetensors``.

    Raises:
        WeightsError: There are none, or the index names what is no safetensors file inside the folder.
    """
    single, index = folder / _with_variant(WEIGHTS, variant), folder / _with_variant(INDEX, variant)
    # transformers prefers these to every other file.
    if distributed := sorted(folder.glob("shard-*-model-*-of-*.safetensors")):
        raise WeightsError(f"{distributed[0]} is part of a distributed checkpoint; write it with save_pretrained")
    if single.is_file():
        return [single]
    if index.exists():
        return [_checked_shard(index, name) for name in shard_names(index)]
    if (folder / "pytorch_model.bin").is_file():
        raise WeightsError(
            f"{folder} holds pytorch_model.bin, a pickle, and pickles are never loaded; download model.safetensors "
            "(for nucleotide-transformer-v2-250m-multi-species it is on the revision refs/pr/3)"
        )
    raise WeightsError(f"{folder} holds neither {single.name} nor {index.name}, so no .safetensors file to load")


def loaded_files(folder: Path) -> list[Path]:
    """Every file that decides what a model computes: settings, index if it is in use, weights."""
    weights = weight_files(folder)
    is_sharded = weights != [folder / WEIGHTS]
    return [folder / "config.json", *([folder / INDEX] if is_sharded else []), *weights]


def shard_names(index: Path) -> list[str]:
    """The files that an index names, each a plain file name that ends in ``.safetensors``.

    Raises:
        WeightsError: The index cannot be used, or names something else.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} is not an index of safetensors shards: it has no weight_map")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        # A backslash separates folders on Windows.
        if not name.endswith(".safetensors") or Path(name).name != name or "\\" in name:
            raise WeightsError(
                f"{index} names {name!r}, which is no file name inside its folder that ends in .safetensors"
            )
    return names


def _checked_shard(index: Path, name: str) -> Path:
    path, folder = index.parent / name, index.parent.resolve()
    if not path.is_file():
        raise WeightsError(f"{path} does not exist, but {index.name} names it; copy or download it too")
    # In the Hub's cache snapshots/COMMIT/NAME is a link to ../../blobs/DIGEST.
    blobs = [parent.parent / "blobs" for parent in folder.parents if parent.name == "snapshots"]
    if not any(path.resolve().is_relative_to(home) for home in (folder, *blobs)):
        raise WeightsError(f"{path} is a link out of its folder, to {path.resolve()}; put the file itself there")
    return path


def _with_variant(name: str, variant: str | None) -> str:
    stem, _, ending = name.rpartition(".")
    return name if variant is None else f"{stem}.{variant}.{ending}"


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a safetensors file one by one.

    Raises:
        WeightsError: The file cannot be read as safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (no mapping)
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors ({error}); write or download it again") from error


def require_finite(name: str, tensor: Tensor, path: Path) -> None:
    """Stop unless a stored tensor holds finite floating-point numbers.

    Raises:
        WeightsError: With the tensor, the file and what it holds.
    """
    if tensor.dtype not in _FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise WeightsError(f"{path}: {name!r} holds {kind} numbers, and weights are floating point")
    # A sum is several times faster than isfinite, and finite only if every term is. It may overflow: then count.
    if not bool(tensor.sum().isfinite()) and (count := int((~tensor.isfinite()).sum())):
        raise WeightsError(f"{path}: {count:,} values of {name!r} are NaN or infinite; the weights are damaged")


def read_config(folder: Path, config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """The settings of a saved model.

    Raises:
        WeightsError: ``config.json`` is missing, unreadable, or of another kind of model.
        ConfigError: It holds a setting that cannot be.
    """
    path = folder / "config.json"
    content = read_json(path)
    if (kind := content.get("model_type")) != config_class.model_type:
        raise WeightsError(f"{folder} holds a model of type {kind!r}, not {config_class.model_type!r}")
    if "transformers_weights" in content:
        raise WeightsError(f"{path} names its weights by transformers_weights; only {WEIGHTS} and {INDEX} are read")
    try:
        return config_class.from_dict(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except Exception as error:  # transformers checks its own settings, and raises many kinds
        raise ConfigError(f"{path} holds a setting that transformers refuses: {on_one_line(error)}") from error


def on_one_line(error: Exception) -> str:
    """The message of an error of some other library, or its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def find_folder(name: str, options: Mapping[str, Any]) -> Path | None:
    """The folder that ``from_pretrained(name, **options)`` loads from; what is on the Hub is fetched into its cache.

    Returns:
        None where the Hub has no safetensors or does not answer: the error of transformers says which.

    Raises:
        WeightsError: The name is neither a folder nor one that the Hub could know, or an index names no safetensors.
    """
    path = Path(name)
    if path.is_dir():
        folder = path / (options.get("subfolder") or "")
        adapter = folder / "adapter_config.json"
        if adapter.is_file() and not (folder / "config.json").exists():  # transformers loads the model below it
            return find_folder(str(read_json(adapter).get("base_model_name_or_path")), {})
        return folder
    if path.exists():
        raise WeightsError(f"{path} is not a folder; name the folder that holds config.json and {WEIGHTS}")
    if not _HUB_NAME.fullmatch(name):
        raise WeightsError(f"{path} does not exist; name the folder of a saved model")
    where = {key: options[key] for key in _HUB_OPTIONS if key in options}
    where |= {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    single, index = (_with_variant(file, options.get("variant")) for file in (WEIGHTS, INDEX))
    fetched = cached_file(name, single, **where)
    if fetched is None and (fetched := cached_file(name, index, **where)) is not None:
        for shard in shard_names(Path(fetched)):
            cached_file(name, shard, **where)
    if fetched is None or cached_file(name, "config.json", **where) is None:
        return None
    return Path(fetched).parent


def check_before_loading(name: Any, config_class: type[PreTrainedConfig], options: Mapping[str, Any]) -> None:
    """Check every file that ``from_pretrained(name, **options)`` is about to load.

    Reading the 1.7 GB of 436 million weights takes 0.2 s once they are in the system's memory, to be loaded next.

    Args:
        name: Folder or name on the Hub; None where nothing is loaded from files.
        config_class: Of the model.
        options: Keywords of ``from_pretrained``.

    Raises:
        WeightsError: A file is missing, unreadable, outside the folder or no safetensors; weights are not finite, or
            far fewer than the settings ask for.
        ConfigError: As ``read_config``.
    """
    folder = None if name is None else find_folder(str(name), options)
    if folder is None:
        return
    config = options.get("config") or read_config(folder, config_class)
    found = 0
    for path in weight_files(folder, options.get("variant")):
        for key, tensor in read_tensors(path):
            require_finite(key, tensor, path)
            found += tensor.numel()
    # Otherwise transformers would first make room for what the settings ask for.
    if found < (least := getattr(config, "least_values", 0)):
        raise WeightsError(f"{folder} holds {found:,}, but its config.json asks for at least {least:,} values")
