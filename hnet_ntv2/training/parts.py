"""What a pre-training run starts from: a folder of its own, the model, calibrated routers, the data."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..conversion.calibrate import calibrate_routers
from ..conversion.ledger import LEDGER_FILE, Ledger
from ..data.datamodule import HG38DataModule, default_num_workers
from ..data.demo import demo_paths
from ..errors import ConfigError, DataError
from ..inference.model import check_model_folder, load_model
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..parameter_names import GRAFTED_GROUPS
from ..storage import remove
from .checkpoints import clear_checkpoints, holds_run
from .phases import PHASES, TEACHERS, PhasePlan
from .settings import PretrainSettings
from .teachers import Teacher, load_teachers

logger = logging.getLogger(__name__)

# The ledger of the weights that a trained model started from.
ORIGIN_FILE = "ntv2_origin.json"
# What a run's folder holds, and the files there (besides the checkpoints) that tell how an earlier run ended.
FOLDERS = ("checkpoints", "logs", "configs")
_RESULTS = ("checkpoints/hf", "logs/summary.json", "logs/tensorboard", "summary.json", "curves.png")
_FAST = 0.5
# Windows that pass through the model at once during calibration.
_CALIBRATION_BATCH = 8


def check_ready(settings: PretrainSettings) -> None:
    """Everything that can be known to be wrong before anything heavy begins.

    Raises:
        ConfigError: The output folder cannot be written.
        DataError: There is no data.
        WeightsError: The folder to start from holds no model.
    """
    data = settings.data
    if not data.bundled and data.fasta is None:
        raise DataError("no genome: give --data FASTA (hg38 as .fa, .fa.gz or .2bit), or try --demo, which needs none")
    for option, value in {"--data": data.fasta, "--intervals": data.intervals, "--init": settings.init}.items():
        if value is not None and not Path(value).exists():
            raise DataError(f"{option} {value}: there is no such file or folder")
    if settings.init is not None:
        check_model_folder(settings.init)
    folder = settings.folder
    try:
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        probe = folder / "checkpoints" / f".writable.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"--output-dir {folder} cannot be written: {error}") from error


def check_earlier_run(settings: PretrainSettings) -> None:
    """Refuse to begin in a folder that holds another run, unless that may be deleted.

    Raises:
        ConfigError: It may not be, or this run starts from its model.
    """
    folder = settings.folder / "checkpoints"
    if not holds_run(folder):
        return
    if not settings.overwrite:
        raise ConfigError(
            f"{folder} holds the checkpoints of an earlier run: --resume goes on with it, another --output-dir starts "
            "beside it, `-- overwrite=true` deletes it"
        )
    if settings.init is not None and folder.resolve() in Path(settings.init).resolve().parents:
        raise ConfigError(
            f"--init {settings.init} is of the run that overwrite=true would delete; name another --output-dir"
        )


def clear_earlier_run(folder: Path) -> None:
    """Delete what an earlier run wrote, so that nothing of it is taken for the new one's.

    Raises:
        ConfigError: Something cannot be deleted.
    """
    try:
        clear_checkpoints(folder / "checkpoints")
        for name in _RESULTS:
            remove(folder / name)
    except OSError as error:
        raise ConfigError(f"the earlier run in {folder} cannot be deleted: {error}") from error


def build_model(settings: PretrainSettings) -> HNetNTV2ForMaskedLM:
    """A model with random weights from the seed, or the one in the folder that ``init`` names, to be trained.

    Its config takes the length of the run's windows.

    Raises:
        WeightsError: The folder is not that of a model that can be loaded.
        ConfigError: A model setting that disagrees with the folder's.
    """
    model = _build_model(settings)
    model.config.training_length = settings.data.seq_length
    return model.train()  # loading leaves it in evaluation mode, in which it would run both strands


def _build_model(settings: PretrainSettings) -> HNetNTV2ForMaskedLM:
    if settings.init is None:
        config = HNetNTV2Config(**settings.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            return HNetNTV2ForMaskedLM(config)
    model = load_model(settings.init, "cpu")
    asked = HNetNTV2Config(**settings.model)
    for name in settings.model:
        wanted, found = getattr(asked, name), getattr(model.config, name)
        if plain(wanted) != plain(found):
            raise ConfigError(f"model.{name}={wanted!r}, but the model in --init {settings.init} has {found!r}")
    return model


def is_graft(folder: str | None) -> bool:
    """Whether a folder of a saved model holds the ledger of a graft (``init`` with a source writes one).

    Raises:
        WeightsError: The ledger cannot be read.
    """
    return folder is not None and _source_of(Path(folder) / LEDGER_FILE) is not None


def descends_from_graft(folder: str | None) -> bool:
    """Whether a folder holds a graft, or a model that was trained from one (``keep_origin`` tells)."""
    return graft_source(folder) is not None


def graft_source(folder: str | None) -> str | None:
    """Name and revision of the model that a folder's weights descend from; None without one."""
    for name in (LEDGER_FILE, ORIGIN_FILE):
        source = None if folder is None else _source_of(Path(folder) / name)
        if source is not None:
            return f"{source['name']} {source['revision'] or ''}".rstrip()
    return None


def _source_of(ledger: Path) -> dict[str, Any] | None:
    """A random trunk has a ledger too, but no source."""
    return Ledger.from_file(ledger).source if ledger.is_file() else None


def keep_origin(start: Path, folder: Path) -> None:
    """Copy the ledger of a graft beside a model trained from it, under a name that claims nothing about its tensors.

    Args:
        start: Folder of the weights that training started from.
        folder: Folder of the trained model.
    """
    for name in (LEDGER_FILE, ORIGIN_FILE):
        if (start / name).is_file():
            shutil.copyfile(start / name, folder / ORIGIN_FILE)
            return


def build_phases(settings: PretrainSettings) -> PhasePlan:
    """The phases of the run: those of the warm start if it is one, else a single one.

    Raises:
        ConfigError: A phase that cannot be.
    """
    warm = settings.warm_start
    wanted = warm.when == "always" or (warm.when == "graft" and is_graft(settings.init))
    if wanted:
        plan = PhasePlan.of(warm, settings.trainer.max_steps, settings.optimizer.multipliers)
    else:
        _refuse_idle_teachers(settings)
        plan = PhasePlan.single(settings.trainer.max_steps)
    if descends_from_graft(settings.init):
        _warn_of_fast_graft(settings, plan)
    return plan


def _refuse_idle_teachers(settings: PretrainSettings) -> None:
    warm = settings.warm_start
    reason = "no --init" if settings.init is None else f"--init {settings.init} is no fresh graft"
    if warm.when == "never":
        reason = "warm_start.when=never"
    for phase in PHASES:
        for teacher in TEACHERS:
            weights = getattr(getattr(warm, phase), f"{teacher}_weight")
            if max(weights, default=0.0) > 0:
                raise ConfigError(
                    f"warm_start.{phase}.{teacher}_weight={list(weights)} asks for a teacher, but this run has no warm "
                    f"start ({reason}): start from a folder of `hnet-ntv2 init`, or set the weight to 0"
                )


def _warn_of_fast_graft(settings: PretrainSettings, plan: PhasePlan) -> None:
    rates = settings.optimizer.multipliers | plan.multipliers[-1]
    fast = {group: rates[group] for group in GRAFTED_GROUPS if rates.get(group, 0.0) > _FAST}
    if fast:
        logger.warning(
            "%s learn at %s of the learning rate: above %g a graft can lose what it started with "
            "(docs/decisions/0012); 0.1 is recommended, as in `-- %s`",
            *(", ".join(fast), ", ".join(f"{rate:g}" for rate in fast.values()), _FAST),
            " ".join(f"optimizer.multipliers.{group}=0.1" for group in fast),
        )


def build_teachers(settings: PretrainSettings, model: HNetNTV2ForMaskedLM, phases: PhasePlan) -> dict[str, Teacher]:
    """The teachers whose weight is above 0 in some phase.

    Raises:
        ConfigError: They have no source, or one that the model was not grafted from.
    """
    wanted = phases.used_teachers()
    if not wanted:
        return {}
    warm = settings.warm_start
    if warm.teacher is None or settings.init is None:
        raise ConfigError(
            f"the weights of {', '.join(wanted)} are above 0: warm_start.teacher=FOLDER must name the source model and "
            "--init the model grafted from it"
        )
    return load_teachers(
        wanted, warm.teacher, warm.teacher_revision, Path(settings.init), model.config, warm.teacher_layer
    )


def build_datamodule(
    settings: PretrainSettings, micro_batch_size: int, phases: PhasePlan | None = None, grid_k: int = 6
) -> HG38DataModule:
    """The windows that the settings describe; ``phases`` says which of NTv2's cells are forced."""
    data = settings.data
    fasta, intervals = demo_paths() if data.bundled else (data.fasta, data.intervals)
    assert fasta is not None
    return HG38DataModule(
        fasta,
        intervals,
        seq_length=data.seq_length,
        micro_batch_size=micro_batch_size,
        num_workers=default_num_workers(settings.trainer.devices) if data.num_workers is None else data.num_workers,
        seed=settings.seed,
        mask_rate=data.mask.rate,
        mask_span=data.mask.span,
        mask_share=data.mask.mask_share,
        random_share=data.mask.random_share,
        repeat_weight=data.repeat_weight,
        repeats=data.repeats,
        cache_dir=data.cache_dir,
        grid_k=grid_k,
        cell_shares=None if phases is None else phases.cell_shares(settings.batch.global_size),
        adds_grid_view=settings.validation.grid,
        valid_windows=settings.validation.windows,
        max_n_share=data.max_n_share,
    )


def calibrate(settings: PretrainSettings, model: HNetNTV2ForMaskedLM, datamodule: HG38DataModule) -> None:
    """Set the routers of a model with random weights to their target ratios on training windows (docs/decisions/0003).

    A model from ``init`` keeps its own offsets. Every rank sees the same windows and gets the same offsets.
    """
    if settings.calibration_windows == 0 or settings.init is not None:
        return
    windows = datamodule.plain_windows("train", settings.calibration_windows).long()
    calibrate_routers(model.model, list(windows.split(_CALIBRATION_BATCH)))


def plain(value: Any) -> Any:
    """A value as it comes back from a file: lists for tuples."""
    return list(value) if isinstance(value, tuple) else value
