"""The model as a citizen of Hugging Face: round trips, Auto classes, strict loading, remote code in a bare process."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from hnet_ntv2 import (
    HNetNTV2Config,
    HNetNTV2ForMaskedLM,
    HNetNTV2ForSequenceClassification,
    HNetNTV2Model,
    HNetNTV2Tokenizer,
)
from hnet_ntv2.errors import ConfigError, InputError, WeightsError
from tests.builders import random_dna, tiny_config, tiny_model

# What a saved folder must do without: this package, and everything that is only needed around the model.
NOT_NEEDED = ["hnet_ntv2", "jaxtyping", "beartype", "lightning", "pytorch_lightning", "hydra", "omegaconf", "py2bit"]


@pytest.fixture
def saved(tmp_path):
    model = tiny_model(spread=0.05)
    model.model.hierarchy.router.beta.fill_(0.125)
    model.save_pretrained(tmp_path / "model")
    HNetNTV2Tokenizer().save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_round_trip_is_bit_exact(saved, rng):
    model, folder = saved
    loaded = HNetNTV2ForMaskedLM.from_pretrained(folder)
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    input_ids = random_dna(100, rng)
    assert torch.equal(model(input_ids).logits, loaded(input_ids).logits)
    assert loaded.config.to_dict() | {"dtype": None} == model.config.to_dict() | {
        "dtype": None,
        "architectures": ["HNetNTV2ForMaskedLM"],
        "_name_or_path": str(folder),
        "auto_map": loaded.config.auto_map,
    }


def test_only_safetensors_are_written_and_read(saved):
    _, folder = saved
    assert not [path for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="never loaded"):
        HNetNTV2ForMaskedLM.from_pretrained(folder)


def test_auto_classes_know_the_model(saved, rng):
    model, folder = saved
    assert isinstance(AutoConfig.from_pretrained(folder), HNetNTV2Config)
    assert isinstance(AutoModelForMaskedLM.from_pretrained(folder), HNetNTV2ForMaskedLM)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, HNetNTV2Tokenizer)
    batch = tokenizer(["ACGTACGT", "acg"], padding=True, return_tensors="pt")
    assert model(**batch).logits.shape == (2, 8, 16)
    assert isinstance(AutoModelForMaskedLM.from_config(tiny_config()), HNetNTV2ForMaskedLM)


def test_a_classifier_starts_from_the_masked_model(saved, rng):
    _, folder = saved
    classifier = HNetNTV2ForSequenceClassification.from_pretrained(folder, num_labels=3)
    backbone = HNetNTV2ForMaskedLM.from_pretrained(folder).model
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, classifier.model.state_dict()[name]), name
    output = classifier(random_dna(60, rng, batch=2), labels=torch.tensor([0, 2]))
    assert output.logits.shape == (2, 3)
    output.loss.backward()
    assert isinstance(AutoModelForSequenceClassification.from_pretrained(folder), HNetNTV2ForSequenceClassification)


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification", "single_label_classification"])
def test_classifier_losses(problem, rng):
    labels = {
        "regression": torch.tensor([0.5, -1.0]),
        "multi_label_classification": torch.tensor([[1, 0, 1], [0, 0, 1]]),
        "single_label_classification": torch.tensor([0, 2]),
    }[problem]
    config = tiny_config(num_labels=1 if problem == "regression" else 3, problem_type=problem)
    assert torch.isfinite(HNetNTV2ForSequenceClassification(config)(random_dna(40, rng, 2), labels=labels).loss)


@pytest.mark.parametrize("damage", ["missing", "superfluous", "misshapen"])
def test_tensors_that_do_not_fit_are_named(saved, damage):
    _, folder = saved
    weights = load_file(folder / "model.safetensors")
    name = "model.hierarchy.router.query.weight"
    if damage == "missing":
        del weights[name]
    elif damage == "misshapen":
        weights[name] = weights[name][:, :5].contiguous()
    else:
        weights["model.extra.weight"] = torch.zeros(2)
        name = "model.extra.weight"
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=rf"{damage}.*{name}"):
        HNetNTV2ForMaskedLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_modle": 32}, "d_modle"),
        ({"d_model": "true,"}, "d_model='true,' must be int"),
        ({"bidirectional": "yes"}, "bidirectional"),
        ({"bidirectional": 1}, "bidirectional"),
        ({"n_head": 3}, "multiple"),
        ({"target_ratio_stage1": 1.5}, "between 0 and 1"),
        ({"guard_stage1": [0.5, 0.6]}, "enclose"),
        ({"guard_stage1": "0.5"}, "guard_stage1"),
        ({"max_chunk_length": 3}, "kmer_size"),
        ({"position_mode": "absolute"}, "position_mode"),
        ({"target_ratio_stage2": None, "target_ratio_stage3": 0.5}, "needs target_ratio_stage2"),
        ({"d_base": 24}, "d_base"),
        ({"n_main_layer": 0}, "positive"),
    ],
)
def test_config_refuses(settings, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(**settings)


def test_a_saved_config_with_an_unknown_key_is_refused(saved):
    _, folder = saved
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"windw": 3}))
    with pytest.raises(ConfigError, match="windw"):
        HNetNTV2ForMaskedLM.from_pretrained(folder)


def test_saved_config_holds_every_setting(saved):
    written = json.loads((saved[1] / "config.json").read_text())
    assert {"window", "ratio_loss_weight", "max_chunk_length", "d_base"} <= set(written)


def test_tuple_output_and_hidden_states_by_resolution(rng):
    model = tiny_model()
    input_ids = random_dna(60, rng)
    labels = torch.where(torch.arange(60) < 6, input_ids, -100)
    output = model(input_ids, labels=labels, output_hidden_states=True, strands="forward")
    plain = model(input_ids, labels=labels, return_dict=False, strands="forward")
    assert torch.equal(plain[0], output.loss)
    states = output.hidden_states
    outer, inner = (int(stage.is_boundary.sum()) for stage in output.stages)
    assert list(states) == [
        "embeddings",
        "stage1_encoder",
        "stage2_encoder",
        "trunk_0",
        "trunk_1",
        "trunk_2",
        "stage2_decoder",
        "stage1_decoder",
    ]
    assert [states[name].shape[1] for name in states] == [60, 60, outer, inner + 1, inner + 1, inner + 1, outer, 60]
    assert model(input_ids).hidden_states is None


def test_loss_weights_and_denominator(rng):
    model = tiny_model(spread=0.05)
    input_ids = random_dna(60, rng)
    labels = torch.full_like(input_ids, -100)
    labels[0, 10:14], labels[0, 40:42] = 7, 9
    plain = model(input_ids, labels=labels)
    log_probs = plain.logits[0, :, 7:11].log_softmax(-1)
    entropies = torch.stack([-log_probs[t, labels[0, t] - 7] for t in (10, 11, 12, 13, 40, 41)])
    assert torch.allclose(plain.task_loss, entropies.mean())
    assert torch.allclose(plain.loss, plain.task_loss + 0.03 * plain.ratio_loss)
    weights = torch.ones(1, 60)
    weights[0, 40:] = 0.1
    weighted = model(input_ids, labels=labels, loss_weights=weights, loss_denominator=3.0)
    assert torch.allclose(weighted.task_loss, (entropies[:4].sum() + 0.1 * entropies[4:].sum()) / 3)


@pytest.mark.parametrize("strands", ["forward", "both"])
def test_sparing_the_source_head_changes_no_loss_and_no_target(strands, rng):
    model = tiny_model(spread=0.05)
    input_ids = random_dna(80, rng, batch=2)
    input_ids[:, 20:26], labels = 3, torch.where((torch.arange(80) // 5 == 4), input_ids, -100)
    labels[1, 60] = 9
    full = model(input_ids, labels=labels, strands=strands)
    spared = model(input_ids, labels=labels, strands=strands, only_targets=True)
    is_target = labels != -100
    assert torch.allclose(spared.loss, full.loss)
    assert torch.allclose(spared.logits[is_target], full.logits[is_target])
    assert not torch.allclose(spared.logits, full.logits)


def test_labels_that_are_no_base_are_refused(rng):
    labels = torch.full((1, 20), -100)
    labels[0, 7] = 11
    with pytest.raises(InputError, match=r"labels\[0, 7\] = 11"):
        tiny_model()(random_dna(20, rng), labels=labels)


def test_only_bases_can_be_predicted(rng):
    probability = tiny_model()(random_dna(20, rng)).logits.softmax(-1)
    assert torch.allclose(probability[..., 7:11].sum(-1), torch.ones(1, 20))


def test_gradient_checkpointing_changes_no_gradient(rng):
    input_ids = random_dna(80, rng)
    labels = torch.where(torch.arange(80) < 6, input_ids, -100)

    def gradients(checkpointing: bool):
        model = tiny_model(spread=0.05).train()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable()
        model(input_ids, labels=labels).loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        assert torch.allclose(plain, recomputed, atol=1e-7)


def test_default_model_has_432m_parameters():
    with torch.device("meta"):
        model = HNetNTV2ForMaskedLM(HNetNTV2Config())
    counts = model.count_parameters()
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(counts.values()) == total
    assert abs(total / 432e6 - 1) < 0.02
    assert counts["trunk"] == 335_708_160 + 2 * 1024  # NTv2's 20 blocks and its final norm


def test_base_model_alone_embeds(rng):
    model = HNetNTV2Model(tiny_config()).eval()
    output = model(random_dna(40, rng))
    assert output.last_hidden_state.shape == (1, 40, 32)
    assert output.final_chunks.hidden.shape[-1] == 32


REMOTE_USE = """
    import json, sys

    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in json.loads(sys.argv[2]):
                raise ImportError(f"{name} is blocked")

    sys.meta_path.insert(0, Blocked())
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer
    folder = sys.argv[1]
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval()
    batch = tokenizer(["ACGTTGCATT", "ACGnu"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    print(json.dumps(logits[0, :, 7:11].tolist()))
"""


@pytest.mark.slow
def test_a_saved_folder_runs_as_remote_code_without_this_package(saved, tmp_path):
    model, folder = saved
    script = tmp_path / "use.py"
    script.write_text(textwrap.dedent(REMOTE_USE))
    environment = {
        "PATH": "/usr/bin:/bin",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(folder), json.dumps(NOT_NEEDED)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    expected = model(HNetNTV2Tokenizer()(["ACGTTGCATT"], return_tensors="pt")["input_ids"]).logits[0, :, 7:11]
    assert torch.allclose(torch.tensor(json.loads(result.stdout.splitlines()[-1])), expected, atol=1e-5)
