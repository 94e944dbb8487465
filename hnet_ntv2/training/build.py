"""Build everything a pre-training run needs from its settings: model, data, phases, teacher, callbacks, trainer."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import OmegaConf

from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..conversion.calibrate import TEXT_BASES, calibrate_routers
from ..data.datamodule import HG38DataModule, default_num_workers
from ..errors import CheckpointError, ConfigError
from ..inference.model import load_model
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..parameter_names import GRAFTED_GROUPS
from ..resources import bundled_genome, bundled_split
from ..storage import open_text
from . import devices, identity
from .checkpoint_format import read_structure
from .checkpoints import CheckpointKeeper, MissedValidation
from .display import NEVER, MetricLog, ProgressDisplay
from .module import PretrainingModule
from .optimizer import describe_groups
from .phases import PHASES, PhasePlan
from .settings import PretrainSettings
from .stopping import CollapseGuard, LoaderWatch, SignalStop
from .teachers import HiddenStateTeacher, load_teacher

logger = logging.getLogger(__name__)

# Learning rate of grafted parts, as a share of the peak, above which a graft can lose what it started with.
_FAST = 0.5
# Windows that pass through the model at once during calibration.
_CALIBRATION_BATCH = 8


@dataclass
class Run:
    """The objects of one run.

    Attributes:
        kind: "cpu" or "cuda".
        resume_step: Finished optimiser steps of the checkpoint ``resume_from``; None for a new run.
    """

    settings: PretrainSettings
    module: PretrainingModule
    datamodule: HG38DataModule
    plan: devices.BatchPlan
    precision: devices.Precision
    kind: str
    resume_from: Path | None
    resume_step: int | None

    def __post_init__(self) -> None:
        options, folder = self.settings.callbacks, self.settings.folder / "checkpoints"
        sizes = (options.checkpoint_every, options.keep_checkpoints, self.plan.global_batch_size)
        self.keeper = CheckpointKeeper(folder, *sizes, resumed_from=self.resume_from)
        self.log = MetricLog(options.log_every, self.settings.validation.every)
        self.stop, self.watch = SignalStop(), LoaderWatch(self.keeper)
        self.trainer = self._build_trainer()

    def take_plan(self, plan: devices.BatchPlan) -> None:
        """Change to the plan that all ranks agreed on."""
        self.plan = plan
        self.datamodule.set_micro_batch_size(plan.micro_batch_size)
        self.write_configs()

    def write_configs(self) -> None:
        """Write ``configs/config.yaml`` and ``configs/environment.json``: settings, code, data and machine."""
        if rank_zero_only.rank != 0:
            return
        folder = self.settings.folder / "configs"
        with open_text(folder / "config.yaml") as file:
            file.write(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(self.settings))))
        environment = identity.describe_environment(self.datamodule.describe())
        identity.write_environment(
            folder, {**environment, "precision": self.precision.lightning, "batch": str(self.plan)}
        )

    def _build_callbacks(self) -> list[L.Callback]:
        options, targets = self.settings.callbacks, self.module.model.config.target_ratios
        return [
            self.log,
            ProgressDisplay(self.module.max_steps, self.log, options.progress_bar, options.plain_log_every),
            self.watch,
            self.stop,
            CollapseGuard(targets, options.collapse_patience, keeper=self.keeper),
            self.keeper,
            MissedValidation(self.log),  # behind those that take the validation's outcome
            devices.PlanAgreement(self.plan, self.take_plan),
        ]

    def _build_trainer(self) -> L.Trainer:
        settings, trainer = self.settings, self.settings.trainer
        return L.Trainer(
            accelerator=self.kind,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=devices.build_strategy(trainer, self.kind),
            plugins=devices.build_plugins(),
            precision=self.precision.lightning,  # pyright: ignore[reportArgumentType]
            # A run that is resumed after its last step still validates, for which Lightning must enter its loop.
            max_steps=trainer.max_steps + (self.resume_step == trainer.max_steps),
            max_epochs=-1,
            accumulate_grad_batches=self.plan.accumulation,
            logger=False,  # set by pretrain, once the folder is clear
            callbacks=self._build_callbacks(),
            default_root_dir=settings.folder,
            enable_checkpointing=False,  # CheckpointKeeper does it
            enable_progress_bar=False,  # ProgressDisplay does it
            enable_model_summary=False,
            use_distributed_sampler=False,  # the data module gives each rank its own windows
            num_sanity_val_steps=0,
            val_check_interval=NEVER,  # MetricLog says when
            check_val_every_n_epoch=None,
            log_every_n_steps=settings.callbacks.log_every,
        )


def build_run(settings: PretrainSettings, resume_from: Path | None) -> Run:
    """Everything that a run needs, from its settings; nothing is written yet but the genome's cache.

    Args:
        settings: The whole run.
        resume_from: Checkpoint that the run goes on from; None for a new run.

    Raises:
        ConfigError, DataError, WeightsError, CheckpointError: A setting that cannot be; the functions below name it.
    """
    kind = devices.device_type(settings.trainer)
    precision = devices.resolve_precision(settings.trainer.precision, kind)
    model = build_model(settings)
    plan = _plan_batch(settings, model, precision, kind)
    phases = build_phases(settings)
    teacher = build_teacher(settings, model, phases)
    datamodule = build_datamodule(settings, plan.micro_batch_size, phases, model.config.kmer_size)
    datamodule.prepare_data()
    datamodule.setup()
    own = identity.run_identity(settings, model.config, datamodule.fingerprint(), plan, precision, kind)
    resume_step = None
    if resume_from is not None:
        resume_step = _check_resume(settings, resume_from, own)
        datamodule.set_position(resume_step * plan.global_batch_size)
    elif settings.init is None and settings.calibration_windows:
        # A model from ``init`` keeps its offsets. Every rank sees the same windows and gets the same offsets.
        windows = datamodule.plain_windows("train", settings.calibration_windows).long()
        text = None
        if model.config.counts_kmers:
            text = datamodule.plain_windows("train", TEXT_BASES // settings.data.seq_length).long()
        calibrate_routers(model.model, list(windows.split(_CALIBRATION_BATCH)), text)
    module = PretrainingModule(model, settings, phases, teacher, own)
    run = Run(settings, module, datamodule, plan, precision, kind, resume_from, resume_step)
    if rank_zero_only.rank == 0:
        _log_overview(run)
    return run


def _plan_batch(
    settings: PretrainSettings, model: HNetNTV2ForMaskedLM, precision: devices.Precision, kind: str
) -> devices.BatchPlan:
    batch, trainer = settings.batch, settings.trainer
    world = (trainer.devices, trainer.num_nodes)
    if batch.micro_batch_size is not None:
        return devices.BatchPlan(batch.global_size, batch.micro_batch_size, *world)
    most = batch.cpu_micro_batch_size
    if kind != "cpu":
        device = torch.device(kind, devices.local_rank())
        most = devices.measure_micro_batch(model, settings.data.seq_length, precision, device, batch.cuda_start)
    return devices.plan_batch_up_to(batch.global_size, most, *world)


def _check_resume(settings: PretrainSettings, path: Path, own: dict[str, Any]) -> int:
    """Finished steps of a checkpoint, after comparing its run with this one."""
    structure = read_structure(path)
    if "run" not in structure or "global_step" not in structure:
        raise CheckpointError(f"checkpoint {path} is not of a pre-training run")
    identity.check_identity(structure["run"], own, path, settings.allow_changed_max_steps)
    step = int(structure["global_step"])
    if step > settings.trainer.max_steps:
        raise CheckpointError(f"checkpoint {path} has {step} steps, the run ends after {settings.trainer.max_steps}")
    logger.info("resuming from %s after step %d", path, step)
    return step


def _log_overview(run: Run) -> None:
    counts = run.module.model.count_parameters()
    rows = [f"  {part:<22} {count:>13,}" for part, count in [*counts.items(), ("total", sum(counts.values()))]]
    logger.info("parameters:\n%s", "\n".join(rows))
    logger.info("precision: %s", run.precision.explanation)
    logger.info("batch: %s", run.plan)
    logger.info("learning rates:\n%s", describe_groups(run.module.optimizer_groups()))
    logger.info("phases:\n%s", run.module.phases.table())
    logger.info("output: %s", run.settings.folder)


def build_model(settings: PretrainSettings) -> HNetNTV2ForMaskedLM:
    """A model to be trained: random weights from the seed, or those in the folder that ``init`` names.

    Its config takes the length of the run's windows.

    Raises:
        WeightsError: The folder is not that of a model that can be loaded.
        ConfigError: A model setting that disagrees with the folder's.
    """
    asked = HNetNTV2Config(**settings.model)
    if settings.init is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            model = HNetNTV2ForMaskedLM(asked)
    else:
        model = load_model(settings.init, "cpu")
        for name in settings.model:
            wanted, found = getattr(asked, name), getattr(model.config, name)
            if identity.plain(wanted) != identity.plain(found):
                raise ConfigError(f"model.{name}={wanted!r}, but the model in --init {settings.init} has {found!r}")
    model.config.training_length = settings.data.seq_length
    if settings.trainer.gradient_checkpointing:
        # transformers 5.23 renamed it
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model.train()  # loading leaves it in evaluation mode, in which it would run both strands


def build_phases(settings: PretrainSettings) -> PhasePlan:
    """The phases of the run: those of the warm start if it is one, else a single one.

    Raises:
        ConfigError: A phase that cannot be.
    """
    warm = settings.warm_start
    wanted = warm.when == "always" or (warm.when == "graft" and identity.is_graft(settings.init))
    if wanted:
        plan = PhasePlan.of(warm, settings.trainer.max_steps, settings.optimizer.multipliers)
    else:
        _refuse_idle_teacher(settings)
        plan = PhasePlan.single(settings.trainer.max_steps)
    if identity.graft_source(settings.init) is not None:
        _warn_of_fast_graft(settings, plan)
    return plan


def _refuse_idle_teacher(settings: PretrainSettings) -> None:
    warm = settings.warm_start
    reason = "no --init" if settings.init is None else f"--init {settings.init} is no fresh graft"
    if warm.when == "never":
        reason = "warm_start.when=never"
    for phase in PHASES:
        weights = getattr(warm, phase).hidden_state_weight
        if max(weights, default=0.0) > 0:
            raise ConfigError(
                f"warm_start.{phase}.hidden_state_weight={list(weights)} asks for a teacher, but this run has no warm "
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


def build_teacher(
    settings: PretrainSettings, model: HNetNTV2ForMaskedLM, phases: PhasePlan
) -> HiddenStateTeacher | None:
    """The teacher, if its weight is above 0 in some phase.

    Raises:
        ConfigError: It has no source, or one that the model was not grafted from.
    """
    if not phases.uses_teacher():
        return None
    if settings.warm_start.teacher is None or settings.init is None:
        raise ConfigError(
            "hidden_state_weight is above 0: warm_start.teacher=FOLDER must name the source model and --init the model "
            "grafted from it"
        )
    return load_teacher(settings.warm_start, Path(settings.init), model.config.kmer_size)


def build_datamodule(
    settings: PretrainSettings, micro_batch_size: int, phases: PhasePlan | None = None, grid_k: int = 6
) -> HG38DataModule:
    """The windows that the settings describe; ``phases`` says which of NTv2's cells are forced."""
    data = settings.data
    fasta, intervals = (bundled_genome(), bundled_split()) if data.bundled else (data.fasta, data.intervals)
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
