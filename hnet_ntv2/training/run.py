"""One pre-training run from its settings to its summary: everything is checked, built, told, trained and written."""

import dataclasses
import functools
import json
import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import OmegaConf

from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..conversion import UNTRAINED
from ..data.datamodule import HG38DataModule
from ..errors import CheckpointError
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..storage import appearing_folder, folder_lock, open_text, sweep
from .batching import BatchPlan, PlanAgreement, plan_batch, plan_batch_up_to
from .checkpoint_io import explained, read_checkpoint, read_structure
from .checkpoints import BEST, LAST, CheckpointKeeper, find_checkpoint, sweep_checkpoints
from .fitting import measure_micro_batch
from .history import TRAIN, VALIDATION, HistoryLogger, build_loggers, without_threads_tracebacks
from .identity import check_identity, run_identity
from .module import PretrainingModule
from .parts import (
    FOLDERS,
    build_datamodule,
    build_model,
    build_phases,
    build_teachers,
    calibrate,
    check_earlier_run,
    check_ready,
    clear_earlier_run,
    keep_origin,
)
from .precision import Precision, resolve_precision
from .progress import NEVER, MetricLog, ProgressDisplay
from .provenance import describe_environment, write_environment
from .resuming import MissedValidation
from .settings import PretrainSettings
from .stopping import CollapseGuard, LoaderWatch, SignalStop
from .strategy import build_plugins, build_strategy, device_type, is_first_process, local_rank

logger = logging.getLogger(__name__)

FINISHED = "finished"

# Lightning's remarks about things that are so on purpose here, or that a user can do nothing about.
_EXPECTED_WARNINGS = (
    r".*does not have many workers.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*The `srun` command is available on your system but is not used.*",
    r".*`training_step` returned `None`.*",
)


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Attributes:
        status: "finished", or "stopped by SIGTERM" and the like.
        step: Finished optimiser steps.
        max_steps: Optimiser steps of the whole run.
        seconds: Wall clock of the training, validations included.
        bases_per_second: Of the last step.
        precision: Lightning's name of the arithmetic.
        batch: How the global batch was split.
        parameters: Parameters per part of the model.
        train: Metrics of the last step.
        validation: The last validation report; empty if there was none.
        best_bits: Least validation bits per base so far; NaN without validation.
        paths: Files and folders that were written, by what they are.
    """

    status: str
    step: int
    max_steps: int
    seconds: float
    bases_per_second: float
    precision: str
    batch: str
    parameters: dict[str, int]
    train: dict[str, float]
    validation: dict[str, float]
    best_bits: float
    paths: dict[str, str]

    @property
    def is_finished(self) -> bool:
        return self.status == FINISHED


@dataclass(frozen=True)
class PretrainResult:
    """A run's summary, its model on the CPU in evaluation mode, and its data.

    Attributes:
        summary: How it ended.
        model: The trained model.
        datamodule: The windows it was trained on.
        history: ``train.csv`` and ``validation.csv`` by "train" and "validation".
        is_main_process: False in the helper processes of a run on several devices, which should stay silent.
    """

    summary: RunSummary
    model: HNetNTV2ForMaskedLM
    datamodule: HG38DataModule
    history: dict[str, Path]
    is_main_process: bool


@dataclass
class _Parts:
    """Everything a run consists of."""

    module: PretrainingModule
    datamodule: HG38DataModule
    trainer: L.Trainer
    keeper: CheckpointKeeper
    log: MetricLog
    stop: SignalStop
    watch: LoaderWatch
    plan: BatchPlan
    precision: Precision
    resume_step: int | None


def pretrain(settings: PretrainSettings) -> PretrainResult:
    """Pre-train a model, or go on with it.

    Args:
        settings: The whole run.

    Raises:
        ConfigError: A setting that cannot be, or another process that trains in the same folder.
        DataError: No data, or data of which nothing can be drawn.
        CheckpointError: Nothing to resume from, or a checkpoint of another run.
        TrainingStopped: The loss became NaN, a chunk ratio collapsed, or a loader was killed; the state was saved.
    """
    check_ready(settings)
    with _only_writer(settings.folder), _without_expected_warnings(), without_threads_tracebacks():
        checkpoints = settings.folder / "checkpoints"
        resume_from = None if settings.resume is None else find_checkpoint(settings.resume, checkpoints)
        begins_here = resume_from is None or checkpoints.resolve() not in resume_from.resolve().parents
        if begins_here and is_first_process():
            check_earlier_run(settings)
        parts = _build(settings, resume_from)
        if begins_here and is_first_process():
            clear_earlier_run(settings.folder)  # only now: nothing is lost to a mistake in the new run's settings
        _open_records(settings, parts)
        started = time.monotonic()
        with parts.stop.installed(), parts.watch.installed(), _told_where_tensors_differ(resume_from):
            parts.trainer.fit(parts.module, datamodule=parts.datamodule, ckpt_path=resume_from, weights_only=False)
        return _finish(settings, parts, time.monotonic() - started)


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Hold a run's folder, after clearing up what killed runs left there. Other ranks write nothing and hold nothing.

    Raises:
        ConfigError: Another process trains there.
    """
    with folder_lock(folder) if is_first_process() else nullcontext():
        if is_first_process():
            sweep_checkpoints(folder / "checkpoints")
            for name in FOLDERS:
                sweep(folder / name)
        yield


@contextmanager
def _told_where_tensors_differ(path: Path | None) -> Iterator[None]:
    """Tell in one line that a checkpoint has other tensors than the model, which only another version's can have."""
    try:
        yield
    except RuntimeError as error:
        if path is None or not str(error).startswith("Error(s) in loading state_dict"):
            raise
        raise CheckpointError(
            f"checkpoint {path} is of another version of this package ({' '.join(str(error).split())}); "
            "configs/environment.json of its run names the version"
        ) from error


def _build(settings: PretrainSettings, resume_from: Path | None) -> _Parts:
    kind = device_type(settings.trainer)
    precision = resolve_precision(settings.trainer.precision, kind)
    model = build_model(settings)
    if settings.trainer.gradient_checkpointing:
        # transformers 5.23 renamed it
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    plan = _plan(settings, model, precision, kind)
    phases = build_phases(settings)
    teachers = build_teachers(settings, model, phases)
    datamodule = build_datamodule(settings, plan.micro_batch_size, phases, model.config.kmer_size)
    datamodule.prepare_data()
    datamodule.setup()
    identity = run_identity(settings, model.config, datamodule.fingerprint(), plan, precision, kind)
    resume_step = None
    if resume_from is not None:
        resume_step = _check_resume(settings, resume_from, identity)
        datamodule.set_position(resume_step * plan.global_batch_size)
    else:
        calibrate(settings, model, datamodule)
    module = PretrainingModule(
        model,
        settings.optimizer,
        settings.scheduler,
        settings.validation,
        max_steps=settings.trainer.max_steps,
        seq_length=settings.data.seq_length,
        mask_rate=settings.data.mask.rate,
        gradient_clip=settings.trainer.gradient_clip,
        router_gradients_every=settings.callbacks.router_gradients_every,
        phases=phases,
        teachers=teachers,
        identity=identity,
    )
    if rank_zero_only.rank == 0:
        _tell(settings, module, plan, precision)
    parts = _assemble(settings, module, datamodule, plan, precision, kind, resume_from, resume_step)
    agreement = PlanAgreement(plan, functools.partial(_change_plan, settings, parts))
    parts.trainer.callbacks.append(agreement)  # pyright: ignore[reportAttributeAccessIssue]  (Lightning sets it late)
    return parts


def _change_plan(settings: PretrainSettings, parts: _Parts, plan: BatchPlan) -> None:
    """Take the plan that the ranks agreed on."""
    parts.plan = plan
    parts.datamodule.set_micro_batch_size(plan.micro_batch_size)
    _write_configs(settings, parts)


def _plan(settings: PretrainSettings, model: HNetNTV2ForMaskedLM, precision: Precision, kind: str) -> BatchPlan:
    batch, trainer = settings.batch, settings.trainer
    world = (trainer.devices, trainer.num_nodes)
    if batch.micro_batch_size is not None:
        return plan_batch(batch.global_size, batch.micro_batch_size, *world)
    most = batch.cpu_micro_batch_size
    if kind != "cpu":
        device = torch.device(kind, local_rank())
        most = measure_micro_batch(model, settings.data.seq_length, precision, device, batch.cuda_start)
    return plan_batch_up_to(batch.global_size, most, *world)


def _check_resume(settings: PretrainSettings, path: Path, identity: dict[str, Any]) -> int:
    """Compare the checkpoint with this run and return its step."""
    structure = read_structure(path)
    if "run" not in structure or "global_step" not in structure:
        raise CheckpointError(f"checkpoint {path} is not of a pre-training run")
    check_identity(structure["run"], identity, path, settings.allow_changed_max_steps)
    step = int(structure["global_step"])
    if step > settings.trainer.max_steps:
        raise CheckpointError(f"checkpoint {path} has {step} steps, the run ends after {settings.trainer.max_steps}")
    logger.info("resuming from %s after step %d", path, step)
    return step


def _tell(settings: PretrainSettings, module: PretrainingModule, plan: BatchPlan, precision: Precision) -> None:
    counts = module.model.count_parameters()
    rows = [f"  {part:<22} {count:>13,}" for part, count in [*counts.items(), ("total", sum(counts.values()))]]
    logger.info("parameters:\n%s", "\n".join(rows))
    logger.info("precision: %s", precision.explanation)
    logger.info("batch: %s", plan)
    logger.info("learning rates:\n%s", module.group_table())
    logger.info("phases:\n%s", module.phases.table())
    logger.info("output: %s", settings.folder)


def _assemble(
    settings: PretrainSettings,
    module: PretrainingModule,
    datamodule: HG38DataModule,
    plan: BatchPlan,
    precision: Precision,
    kind: str,
    resume_from: Path | None,
    resume_step: int | None,
) -> _Parts:
    options, trainer = settings.callbacks, settings.trainer
    keeper = CheckpointKeeper(
        settings.folder / "checkpoints",
        options.checkpoint_every,
        options.keep_checkpoints,
        plan.global_batch_size,
        resumed_from=resume_from,
    )
    log = MetricLog(options.log_every, settings.validation.every)
    stop, watch = SignalStop(), LoaderWatch(keeper)
    targets = module.model.config.target_ratios
    callbacks: list[L.Callback] = [
        log,
        ProgressDisplay(trainer.max_steps, log, options.progress_bar, options.plain_log_every),
        watch,
        stop,
        CollapseGuard(targets, options.collapse_patience, options.collapse_factor, keeper),
        keeper,
        MissedValidation(log),
    ]
    # A run that is resumed after its last step still validates, for which Lightning must enter its loop.
    is_over = resume_step == trainer.max_steps
    return _Parts(
        module,
        datamodule,
        L.Trainer(
            accelerator=kind,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=build_strategy(trainer, kind),
            plugins=build_plugins(),
            precision=precision.lightning,  # pyright: ignore[reportArgumentType]
            max_steps=trainer.max_steps + is_over,
            max_epochs=-1,
            accumulate_grad_batches=plan.accumulation,
            logger=False,  # _open_records does it
            callbacks=callbacks,
            default_root_dir=settings.folder,
            deterministic=trainer.deterministic,
            enable_checkpointing=False,  # CheckpointKeeper does it
            enable_progress_bar=False,  # ProgressDisplay does it
            enable_model_summary=False,
            use_distributed_sampler=False,  # the data module deals out the ranks' shares
            num_sanity_val_steps=0,
            val_check_interval=NEVER,  # MetricLog says when
            check_val_every_n_epoch=None,
            log_every_n_steps=options.log_every,
        ),
        keeper,
        log,
        stop,
        watch,
        plan,
        precision,
        resume_step,
    )


def _open_records(settings: PretrainSettings, parts: _Parts) -> None:
    """Begin the logs (or go on with them), and write down what the run is."""
    values = dataclasses.asdict(settings)
    parts.trainer.loggers = build_loggers(
        settings.folder / "logs", settings.logger, settings.experiment_name, values, parts.resume_step
    )
    _write_configs(settings, parts)


def _write_configs(settings: PretrainSettings, parts: _Parts) -> None:
    """What the run is: its settings, code, data and machine."""
    if rank_zero_only.rank != 0:
        return
    folder = settings.folder / "configs"
    with open_text(folder / "config.yaml") as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(settings))))
    environment = describe_environment(parts.datamodule.describe())
    write_environment(folder, {**environment, "precision": parts.precision.lightning, "batch": str(parts.plan)})


def _finish(settings: PretrainSettings, parts: _Parts, seconds: float) -> PretrainResult:
    trainer, module = parts.trainer, parts.module
    if settings.trainer.strategy == "fsdp":
        model = _model_of_checkpoint(module.model.config, settings.folder / "checkpoints" / LAST)
    else:
        model = module.model.eval()
        torch.nn.Module.to(model, "cpu")
    # A signal in the last step leaves no time for the validation; a resume makes up for it.
    is_finished = parts.log.validated_step == settings.trainer.max_steps
    status = FINISHED if is_finished else f"stopped by {_signal_name(parts.stop.stopped_by)}"
    paths = _written_paths(settings)
    if trainer.is_global_zero and is_finished:
        paths["model"] = str(export_model(model, settings.folder / "checkpoints" / "hf", settings.init))
    parts.datamodule.trainer = None  # from here on its loaders serve whole splits, not one rank's share
    history = next(each for each in trainer.loggers if isinstance(each, HistoryLogger))
    summary = RunSummary(
        status=status,
        step=trainer.global_step,
        max_steps=settings.trainer.max_steps,
        seconds=seconds,
        bases_per_second=parts.log.bases_per_second,
        precision=parts.precision.lightning,
        batch=str(parts.plan),
        parameters=model.count_parameters(),
        train=parts.log.last_step,
        validation=parts.log.last_validation,
        best_bits=parts.keeper.best_value if math.isfinite(parts.keeper.best_value) else math.nan,
        paths=paths,
    )
    if trainer.is_global_zero:
        _write_summary(settings.folder / "logs" / "summary.json", summary)
    files = {part: history.path(part) for part in (TRAIN, VALIDATION)}
    return PretrainResult(summary, model, parts.datamodule, files, trainer.is_global_zero)


def export_model(model: HNetNTV2ForMaskedLM, folder: Path, started_from: str | None = None) -> Path:
    """Write a folder that ``from_pretrained`` reads, tokenizer included; an older one is replaced when it is complete.

    Args:
        model: What to write.
        folder: Where.
        started_from: Folder of the first weights, whose model card and graft ledger go along.

    Raises:
        CheckpointError: It cannot be written.
    """
    from ..tokenization_hnet_ntv2 import HNetNTV2Tokenizer

    with (
        explained(f"model folder {folder} could not be saved", "The checkpoints are complete: --resume tries it again"),
        appearing_folder(folder) as temporary,
    ):
        model.save_pretrained(temporary)
        HNetNTV2Tokenizer().save_pretrained(temporary)
        if started_from is not None:
            _keep_card(Path(started_from), temporary)
            keep_origin(Path(started_from), temporary)
    return folder


def _keep_card(start: Path, folder: Path) -> None:
    """A descendant of a grafted model inherits its licence, so it carries the card that names it."""
    card = start / "README.md"
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8").replace(UNTRAINED, "**Trained further** from the weights described here.")
    (folder / "README.md").write_text(text, encoding="utf-8")


def _model_of_checkpoint(config: HNetNTV2Config, path: Path) -> HNetNTV2ForMaskedLM:
    """The whole model from a checkpoint, where every process holds a shard only."""
    state = read_checkpoint(path)["state_dict"]
    model = HNetNTV2ForMaskedLM(config)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    return model.eval()


def _written_paths(settings: PretrainSettings) -> dict[str, str]:
    folder = settings.folder
    candidates = {
        "last": folder / "checkpoints" / LAST,
        "best": folder / "checkpoints" / BEST,
        "train log": folder / "logs" / "train.csv",
        "valid log": folder / "logs" / "validation.csv",
        "tensorboard": folder / "logs" / "tensorboard",
        "config": folder / "configs" / "config.yaml",
        "environment": folder / "configs" / "environment.json",
    }
    return {name: str(path) for name, path in candidates.items() if path.exists()}


def _write_summary(path: Path, summary: RunSummary) -> None:
    plain = dataclasses.asdict(summary)
    text = json.dumps(_without_nan(plain), indent=2, ensure_ascii=False)
    with open_text(path) as file:
        file.write(text + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _signal_name(number: int) -> str:
    import signal

    return signal.Signals(number).name if number else "the trainer"


@contextmanager
def _without_expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield
