"""The place of an unfinished run of fine-tuning: its lock and its settings."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..genome import file_digest
from ..inference.model import choose_device
from ..inference.settings_file import read_settings, require_same_settings
from ..model_files import loaded_files
from ..resources import bundled_model
from ..storage import folder_lock, open_text, remove
from ..tasks.table import Split, TaskData
from .classifier import RANDOM, classifier_class
from .finetune_output import SETTINGS_FILE, json_text
from .finetune_settings import FinetuneSettings

CHECKPOINTS = "checkpoints"
# They change what is shown, not what comes out.
_SHOWN_ONLY = ("progress", "report_to")


@contextmanager
def workplace(target: Path, job: dict[str, Any], resume: bool, overwrite: bool) -> Iterator[Path]:
    """The locked folder beside the output that holds an unfinished run; it is removed when the block succeeds.

    Raises:
        ConfigError: The output or an unfinished run is there and may not be replaced, or it was made differently.
    """
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists; name another --output, or give --overwrite")
    place = target.with_name(f"{target.name}.training")
    place.mkdir(parents=True, exist_ok=True)
    described, is_done = place / SETTINGS_FILE, False
    with folder_lock(place):
        if _is_unfinished(place) and resume:
            require_same_settings(read_settings(described), job, target)
        elif _is_unfinished(place) and not overwrite:
            raise ConfigError(f"{place} holds an unfinished run; give --resume to go on, or --overwrite to drop it")
        else:
            for entry in place.iterdir():
                remove(entry)
            with open_text(described) as file:
                file.write(json_text(job))
        try:
            yield place
            is_done = True
        finally:
            if is_done or not _is_unfinished(place):  # nothing to go on from
                remove(place)


def _is_unfinished(place: Path) -> bool:
    return any((place / CHECKPOINTS).glob("*"))


def describe_job(
    data: TaskData, settings: FinetuneSettings, seed: int, folder: str | os.PathLike[str] | None, device: str
) -> dict[str, Any]:
    """What the result depends on, as JSON holds it."""
    name = str(bundled_model() if folder is None else folder)
    path = Path(name.removeprefix(RANDOM)).expanduser()
    classifier_class(path)  # raises where there is no model
    files = [path / "config.json"] if name.startswith(RANDOM) else loaded_files(path)
    own = {key: value for key, value in asdict(settings).items() if key not in _SHOWN_ONLY}
    return {
        "model": {file.name: file_digest(file) for file in files},
        "random_weights": name.startswith(RANDOM),
        "task": data.name,
        "metric": data.metric,
        "kind": data.scheme.kind,
        "labels": list(data.scheme.names),
        "data": {split: _digest(getattr(data, split)) for split in ("train", "dev", "test")},
        "seed": seed,
        # CPU and GPU round differently, so that another device would not go on with the same numbers.
        "device": choose_device(device).type,
        **own,
    }


def _digest(split: Split | None) -> str | None:
    if split is None:
        return None
    digest = hashlib.blake2b(split.targets.tobytes(), digest_size=16)
    for bases in split.table.bases:
        digest.update(len(bases).to_bytes(8, "little"))
        digest.update(bases.tobytes())
    return digest.hexdigest()
