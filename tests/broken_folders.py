"""Ways to break the folder of a saved model, each with what its error must say."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def rewrite_tensor(folder: Path, change: Callable[[torch.Tensor], torch.Tensor], name: str | None = None) -> str:
    """Let ``change`` edit one tensor, by default the last one, and return its name."""
    tensors = load_file(folder / WEIGHTS)
    name = name or max(tensors)
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    return name


def with_settings(**changes) -> Callable[[Path], None]:
    def break_folder(folder: Path) -> None:
        settings = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(settings | changes))

    return break_folder


def with_file(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content)


def with_value(value: float) -> Callable[[Path], None]:
    def put(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return lambda folder: rewrite_tensor(folder, put)


def cut_short(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-10])


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def as_folder(name: str) -> Callable[[Path], None]:
    def break_folder(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return break_folder


def as_pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def sharded(name: str, place: str | None = None, link: bool = False) -> Callable[[Path], None]:
    """An index that names ``name``; the weights lie at ``place`` (nowhere by default), perhaps behind a link."""

    def break_folder(folder: Path) -> None:
        weights = folder / WEIGHTS
        shard = str(folder / name) if name == "absolute.safetensors" else name
        weight_map = dict.fromkeys(load_file(weights), shard)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        content = weights.read_bytes()
        weights.unlink()
        if place is not None:
            (folder / place).write_bytes(content)
        if link:
            (folder / name).symlink_to(Path(place or ""))

    return break_folder


OUTSIDE = "../outside.safetensors"
BROKEN = {
    "no config": (without(CONFIG), r"config\.json"),
    "config is a folder": (as_folder(CONFIG), r"config\.json"),
    "config is no JSON": (with_file(CONFIG, b"{"), r"config\.json cannot be read"),
    "config is no text": (with_file(CONFIG, b"\xff\xfe{}"), r"config\.json cannot be read"),
    "config is a list": (with_file(CONFIG, b"[]"), r"config\.json holds a JSON list"),
    "config is deep": (with_file(CONFIG, b"[" * 200_000), r"config\.json cannot be read"),
    "config is large": (with_file(CONFIG, b" " * ((16 << 20) + 1)), r"config\.json has 16,777,217 bytes"),
    "no weights": (without(WEIGHTS), r"holds neither model\.safetensors nor"),
    "weights are a folder": (as_folder(WEIGHTS), r"holds neither model\.safetensors nor"),
    "weights are a pickle": (as_pickle, r"pytorch_model\.bin, a pickle, and pickles are never loaded"),
    "weights are empty": (with_file(WEIGHTS, b""), r"model\.safetensors cannot be read as safetensors"),
    "weights cut short": (cut_short, r"model\.safetensors"),
    "header of gigabytes": (
        with_file(WEIGHTS, (10**10).to_bytes(8, "little") + b"{}"),
        r"model\.safetensors cannot be read as safetensors",
    ),
    "NaN": (with_value(float("nan")), r"model\.safetensors: 1 values of '.+' are NaN or infinite"),
    "infinity": (with_value(float("-inf")), r"model\.safetensors: 1 values of '.+' are NaN or infinite"),
    "index names a pickle": (sharded("a.bin", "a.bin"), r"index\.json names 'a\.bin', .* \.safetensors"),
    "index names a path": (sharded("absolute.safetensors"), r"index\.json names '/.*', which is no file name inside"),
    "index leaves the folder": (sharded(OUTSIDE, OUTSIDE), r"index\.json names '\.\./outside.*no file name inside"),
    "index names a link": (sharded("a.safetensors", OUTSIDE, link=True), r"a\.safetensors is a link out of its folder"),
    "index names nothing": (sharded("a.safetensors"), r"a\.safetensors does not exist"),
    "distributed checkpoint": (
        with_file("shard-00001-model-00001-of-00001.safetensors", b""),
        r"part of a distributed checkpoint",
    ),
}
