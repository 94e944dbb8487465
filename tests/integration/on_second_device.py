"""Everything that touches a device, on a second one that is strict (``tests/second_device.py``), against the CPU.

Run by ``test_second_device.py`` in a process of its own; by hand: ``pytest tests/integration/on_second_device.py``.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import SingleDeviceStrategy

from hnet_ntv2.configuration_ntv2 import NTv2Config
from hnet_ntv2.conversion.calibrate import boundary_rates, calibrate_routers
from hnet_ntv2.conversion.graft import graft, random_start
from hnet_ntv2.conversion.saving import save_start
from hnet_ntv2.conversion.source import open_source
from hnet_ntv2.embedding import NamedSequence, embed_sequences
from hnet_ntv2.embedding.embed import EmbedSettings
from hnet_ntv2.evaluation.speed import measure_speed, our_model, single_nucleotides, source_model
from hnet_ntv2.genome import Variant, encode, open_genome
from hnet_ntv2.inference.model import load_model
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForSequenceClassification
from hnet_ntv2.segmentation import segment_sequences
from hnet_ntv2.segmentation.segment import SegmentSettings
from hnet_ntv2.training import devices
from hnet_ntv2.training.devices import Precision, measure_micro_batch
from hnet_ntv2.training.display import read_history
from hnet_ntv2.training.run import pretrain
from hnet_ntv2.variant_effect import score_variants
from tests import second_device
from tests.builders import ids, random_dna, random_letters, tiny_config, tiny_model
from tests.integration.tiny_training import tiny_settings
from tests.unit.conversion.sources import any_sequence, write_random_source

DEVICE = torch.device(second_device.NAME, 0)


class StrictAccelerator(Accelerator):
    """Lightning's door to the second device."""

    def setup_device(self, device):
        pass

    def teardown(self):
        pass

    def get_device_stats(self, device):
        return {}

    @staticmethod
    def parse_devices(devices):
        return devices

    @staticmethod
    def get_parallel_devices(devices):
        return [DEVICE]

    @staticmethod
    def auto_device_count():
        return 1

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def name():
        return second_device.NAME


AcceleratorRegistry.register(second_device.NAME, StrictAccelerator)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows with masks, an N and padding."""
    shown = ids(random_letters(96, 0), random_letters(40, 1) + "N" + random_letters(30, 2))
    labels = torch.full_like(shown, -100)
    labels[:, 20:26], shown[:, 20:26] = shown[:, 20:26], 3
    return shown, labels


def loss_after_steps(device: str | torch.device, steps: int = 2, **options) -> list[float]:
    model = tiny_model(spread=0.05).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    shown, labels = (tensor.to(device) for tensor in batch())
    losses = []
    for _ in range(steps):
        loss = model(shown, labels=labels, **options).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_the_device_is_strict():
    there, here = torch.ones(3, device=DEVICE), torch.ones(3)
    assert (there + here.sum()).tolist() == [4, 4, 4]
    with pytest.raises(RuntimeError, match="CPU tensors of shapes"):
        there + here
    with pytest.raises(RuntimeError, match="CPU tensors of shapes"):
        there[torch.tensor([0, 1])]
    with pytest.raises(RuntimeError, match="list"):
        there[[0, 1]]


@pytest.mark.parametrize(
    "options", [{}, {"strands": "both"}, {"anchors": True}, {"on_grid": True}, {"only_targets": True}], ids=str
)
def test_training_steps_are_those_of_the_cpu(options):
    assert loss_after_steps(DEVICE, **options) == pytest.approx(loss_after_steps("cpu", **options), rel=1e-6)


@pytest.mark.parametrize("changes", [{"position_mode": "rank"}, {"d_base": 16}], ids=str)
def test_other_architectures_run(changes):
    models = [tiny_model(spread=0.05, **changes).to(device) for device in ("cpu", DEVICE)]
    logits = [model(batch()[0].to(model.device)).logits.cpu() for model in models]
    torch.testing.assert_close(*logits)


def test_a_forward_pass_asks_the_host_for_little():
    model, shown = tiny_model(spread=0.05).to(DEVICE), batch()[0].to(DEVICE)
    second_device.transfers.clear()
    with torch.no_grad():
        model(shown, strands="forward")
    # Nothing goes to the device; to the host go the checks of the input, chunk counts, and the lengths of the rows.
    assert second_device.transfers.count("aten::copy_") == 0
    assert len(second_device.transfers) <= 8


def test_classification_trains():
    losses = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        model = HNetNTV2ForSequenceClassification(tiny_config(num_labels=3)).to(device)
        output = model(batch()[0].to(device), labels=torch.tensor([0, 2]).to(device))
        output.loss.backward()
        losses.append(output.loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_calibration_takes_windows_from_the_cpu():
    """Measuring the micro-batch leaves the model on its device; calibration's windows come from the data module."""
    windows = [random_dna(200, torch.Generator().manual_seed(0), 2)]
    found = []
    for device in ("cpu", DEVICE):
        model = tiny_model(spread=0.05).to(device).model
        found.append((calibrate_routers(model, windows), boundary_rates(model, windows)))
    for here, there in zip(*((offsets, *rates) for offsets, rates in found), strict=True):
        assert there == pytest.approx(here, abs=1e-6)


def test_the_micro_batch_is_measured_and_the_model_trains_on():
    model = tiny_model(spread=0.05).train()
    assert measure_micro_batch(model, 48, Precision("32-true", ""), DEVICE, 4) == 4
    assert model.device == DEVICE


def test_the_offsets_move_as_on_the_cpu():
    moved = []
    for device in ("cpu", DEVICE):
        model = tiny_model(2, spread=0.05, router_offset_rate=0.25, chunker="learned").train().to(device)
        shown, labels = batch()
        model(shown.to(device), labels=labels.to(device))
        moved.append([float(router.beta) for router in model.model.routers])
    assert moved[1] == pytest.approx(moved[0])
    assert all(moved[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("second")


@pytest.fixture
def runs_on_second_device(monkeypatch):
    monkeypatch.setattr(devices, "device_type", lambda settings: second_device.NAME)
    monkeypatch.setattr(devices, "build_strategy", lambda settings, kind: SingleDeviceStrategy(DEVICE))


SHORT = {"validation__every": None, "validation__windows": 2, "callbacks__checkpoint_every": 2}


def assert_same_run(there, here):
    for part in ("train", "validation"):
        for left, right in zip(*(read_history(run.history[part]) for run in (there, here)), strict=True):
            for name in left:
                if "second" not in name and "memory" not in name:
                    assert left[name] == pytest.approx(right[name], rel=1e-3, abs=1e-5, nan_ok=True), name
    assert_same_weights(there.model, here.model)


def assert_same_weights(there, here):
    state = there.state_dict()
    for name, tensor in here.state_dict().items():
        torch.testing.assert_close(state[name].cpu(), tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_a_run_from_random_weights(folder, runs_on_second_device, monkeypatch):
    """The README's main command: the micro-batch is measured, the routers are calibrated, it trains and validates."""
    options = {**SHORT, "trainer__max_steps": 2, "batch__micro_batch_size": None, "calibration_windows": 8}
    there = pretrain(tiny_settings(folder, "there", **options, batch__cuda_start=4))
    assert "4 per micro-batch" in there.summary.batch
    monkeypatch.undo()
    assert_same_run(there, pretrain(tiny_settings(folder, "here", **options)))


def test_a_warm_start_with_teachers_and_its_resumption(folder, runs_on_second_device, monkeypatch):
    source = open_source(str(write_random_source(folder / "source", num_layers=3)))
    settings = {"n_main_layer": 2, "window": 16}
    start = graft(source, any_sequence(), settings=settings, device=DEVICE)
    assert_same_weights(start.model, graft(source, any_sequence(), settings=settings).model)
    save_start(start, folder / "start")
    options = {
        **SHORT,
        "model": {},
        "init": str(folder / "start"),
        "trainer__max_steps": 3,
        "batch__micro_batch_size": 4,
        "trainer__gradient_checkpointing": True,
        "warm_start__align": {"steps": 1, "grid_share": [1.0], "hidden_state_weight": [1.0]},
        "warm_start__release": {"steps": 1, "grid_share": [1.0, 0.0], "hidden_state_weight": [1.0]},
        "warm_start__teacher": str(folder / "source"),
        "warm_start__teacher_layer": 1,
    }
    there = pretrain(tiny_settings(folder, "warm_there", **options))
    after_two = str(folder / "warm_there" / "checkpoints" / "step=000002.ckpt")
    resumed = pretrain(tiny_settings(folder, "warm_resumed", **options, resume=after_two))
    monkeypatch.undo()
    assert_same_run(there, pretrain(tiny_settings(folder, "warm_here", **options)))
    for name, tensor in there.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_a_start_from_random_weights():
    here, there = (random_start(tiny_config(), any_sequence(), device=device) for device in ("cpu", DEVICE))
    assert_same_weights(there.model, here.model)


@pytest.fixture(scope="module")
def models(folder):
    tiny_model(spread=0.02).save_pretrained(folder / "model")
    return [load_model(folder / "model", name) for name in ("cpu", second_device.NAME)]


SEQUENCES = [NamedSequence(f"s{length}", encode(random_letters(length, length).encode())) for length in (50, 300)]


def test_embedding(models):
    for layer in ("stage2_encoder", "trunk_1", "last"):
        settings = EmbedSettings(layers=(layer,), per_base=True, window=128)
        here, there = (list(embed_sequences(model, SEQUENCES, settings)) for model in models)
        for left, right in zip(here, there, strict=True):
            np.testing.assert_allclose(right.per_base, left.per_base, atol=1e-4)
            np.testing.assert_allclose(right.vector, left.vector, atol=1e-4)


@pytest.mark.parametrize("strands", ["forward", "both"])
def test_segmentation(models, strands):
    settings = SegmentSettings(strands=strands, window=128)
    here, there = (list(segment_sequences(model, SEQUENCES, settings)) for model in models)
    for (_, left), (_, right) in zip(here, there, strict=True):
        for stage, other in zip(left.starts, right.starts, strict=True):
            np.testing.assert_array_equal(stage, other)
        np.testing.assert_allclose(right.probability, left.probability, atol=1e-5)


def test_variants(models, tmp_path):
    text = random_letters(200, 3)
    (tmp_path / "genome.fa").write_text(f">c\n{text}\n")
    genome = open_genome(tmp_path / "genome.fa", tmp_path / "cache")
    listed = [Variant(1, "c", 90, ".", text[90], other) for other in "ACGT" if other != text[90]]
    here, there = (score_variants(model, genome, listed) for model in models)
    np.testing.assert_allclose(np.array(there, float), np.array(here, float), atol=1e-4)


def test_bench():
    config = tiny_config(n_main_layer=2)
    source = NTv2Config(
        vocab_size=config.kmer_vocab_size,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=32,
        num_hidden_layers=2,
        max_position_embeddings=2050,
    )
    report = measure_speed(
        [our_model("ours", config), source_model("theirs", source, config.kmer_size), single_nucleotides(config, 2)],
        num_bases=128,
        rounds=1,
        device=DEVICE,
        precision="fp32",
        report_progress=lambda line: None,
    )
    assert all(measured.timed_depths == (2,) for measured in report.measurements)
    assert len(report.measurements) == 3
