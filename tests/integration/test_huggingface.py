"""The model as a citizen of Hugging Face: round trips, Auto classes, strict loading, remote code in a bare process."""

import dataclasses
import json
import subprocess
import sys
import textwrap
import typing

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import hnet_ntv2
from hnet_ntv2 import (
    HNetNTV2Config,
    HNetNTV2ForMaskedLM,
    HNetNTV2ForSequenceClassification,
    HNetNTV2ForTokenClassification,
    HNetNTV2Model,
    HNetNTV2Tokenizer,
)
from hnet_ntv2.configuration_hnet_ntv2 import REMOVED_SETTINGS
from hnet_ntv2.errors import ConfigError, InputError, WeightsError
from hnet_ntv2.levels import BoundaryReason
from hnet_ntv2.pooling import ClassifierPooling
from hnet_ntv2.vocabulary import is_clean_base
from tests.builders import ids, lively_model, random_dna, tiny_config, tiny_model

CLASS_OF = {
    AutoModel: HNetNTV2Model,
    AutoModelForMaskedLM: HNetNTV2ForMaskedLM,
    AutoModelForSequenceClassification: HNetNTV2ForSequenceClassification,
    AutoModelForTokenClassification: HNetNTV2ForTokenClassification,
}

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
    for auto, own in CLASS_OF.items():
        assert type(auto.from_pretrained(folder)) is own
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


def test_misshapen_tensors_start_anew_only_if_asked_to(saved, tmp_path):
    _, folder = saved
    HNetNTV2ForSequenceClassification.from_pretrained(folder, num_labels=2).save_pretrained(tmp_path / "two")
    with pytest.raises(WeightsError, match=r"misshapen.*classifier\.1"):
        HNetNTV2ForSequenceClassification.from_pretrained(tmp_path / "two", num_labels=3)
    three = HNetNTV2ForSequenceClassification.from_pretrained(
        tmp_path / "two", num_labels=3, ignore_mismatched_sizes=True
    )
    assert three.classifier[1].weight.shape == (3, 32)
    assert torch.equal(three.model.embeddings.kmer.weight, saved[0].model.embeddings.kmer.weight)


def test_the_buffer_of_earlier_versions_is_accepted_and_ignored(saved):
    model, folder = saved
    former = {"boundary_shares": torch.tensor([0.25, 0.45])}
    weights = load_file(folder / "model.safetensors")
    save_file(weights | former, folder / "model.safetensors", metadata={"format": "pt"})
    for own in CLASS_OF.values():
        own.from_pretrained(folder)
    holder = torch.nn.ModuleDict({"model": tiny_model()})  # as in a training checkpoint
    holder.load_state_dict({f"model.{name}": tensor for name, tensor in (weights | former).items()})
    assert torch.equal(holder["model"].head.residual.output.weight, model.head.residual.output.weight)


def test_settings_of_the_base_class_and_of_other_tools_do_not_stop_loading(saved, caplog):
    _, folder = saved
    path = folder / "config.json"
    others = {"use_cache": False, "bos_token_id": 2, "_private_of_some_tool": 1, "unsloth_version": "1"}
    path.write_text(json.dumps(json.loads(path.read_text()) | others))
    HNetNTV2ForMaskedLM.from_pretrained(folder)
    assert [record.message for record in caplog.records] == [
        "the saved config has settings that this model does not know: unsloth_version"
    ]
    with pytest.raises(ConfigError, match="unsloth_version"):
        tiny_config(unsloth_version="1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_modle": 32}, "'d_modle' is probably 'd_model'"),
        ({"hidden_size": 32}, "'hidden_size' is probably 'd_model'"),
        ({"dropout": 0.1}, "'dropout'; the model knows: bidirectional, "),
        ({"classification_strands": "reverse"}, "classification_strands"),
        ({"classification_pooling": "median"}, "classification_pooling"),
        ({"classification_bins": 0}, "classification_bins=0 must be positive"),
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
        ({"n_main_layer": -1}, "must not be negative"),
        ({"local_mixer": "ssm"}, "local_mixer='ssm' was removed: version 0.1.0 .* the last"),
        ({"state_size": 32}, "state_size=32 was removed"),
        ({"tokenizer_type": "bpe"}, "tokenizer_type='bpe' was removed"),
    ],
)
def test_config_refuses(settings, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(**settings)


def test_a_saved_config_with_an_unknown_key_is_refused(saved):
    _, folder = saved
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"windw": 3}))
    with pytest.raises(ConfigError, match="'windw' is probably 'window'"):
        HNetNTV2ForMaskedLM.from_pretrained(folder)


def test_a_saved_config_with_removed_settings_loads_silently_at_their_old_defaults_only(saved, caplog):
    _, folder = saved
    path = folder / "config.json"
    old = {
        **{"local_mixer": "attention", "state_size": 64, "bidirectional_strategy": "add", "tokenizer_type": "default"},
        **{"chunk_pooling": "first", "forced_probability": "one"},
    }
    assert old == {name: value for name, (value, _) in REMOVED_SETTINGS.items()}
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | old))
    loaded = HNetNTV2ForMaskedLM.from_pretrained(folder)
    assert not caplog.records
    assert not old.keys() & loaded.config.to_dict()
    for name, value in (("local_mixer", "ssm"), ("chunk_pooling", "mean")):
        path.write_text(json.dumps(written | old | {name: value}))
        with pytest.raises(ConfigError, match=rf"config.json: .*{name}='{value}' was removed: version 0\.1\.0"):
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
    assert [field.shape for field in plain] == [(), (1, 60, 16)]
    assert torch.equal(plain[0], output.loss)
    assert torch.equal(plain[1], output.logits)
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
    assert states[-1] is states["stage1_decoder"]
    assert states[0] is states["embeddings"]
    with pytest.raises(KeyError, match=r"'trunk' is no state; there are embeddings, stage1_encoder"):
        states["trunk"]


def test_other_tools_see_the_loss_and_what_begins_with_the_batch(rng):
    """Trainer gathers an output's items, pipelines split them into rows; what they cannot handle has its name only."""
    model, input_ids = tiny_model(), random_dna(60, rng, batch=2)
    output = model(input_ids)
    assert list(output) == ["logits"]
    assert list(model(input_ids, labels=input_ids)) == ["loss", "logits"]
    assert list(model.model(input_ids)) == ["last_hidden_state"]
    assert len(output.stages) == len(output.reverse_stages) == 2
    assert output["stages"] is output.stages
    assert torch.equal(output["ratio_loss"], output.ratio_losses.sum())
    rebuilt = dataclasses.replace(model(input_ids, output_hidden_states=True))  # as FSDP does
    assert list(rebuilt) == ["logits", "hidden_states"]
    assert torch.equal(rebuilt.hidden_states[-1], rebuilt.hidden_states["stage1_decoder"])
    assert len(rebuilt.stages) == 2


@pytest.mark.parametrize("own", CLASS_OF.values())
def test_keywords_that_scripts_for_other_models_pass(own, rng):
    model, input_ids = own(tiny_config()).eval(), random_dna(30, rng)
    mask = torch.ones_like(input_ids)
    plain = model(input_ids)[0]
    from_elsewhere = {
        "inputs_embeds": None,
        "head_mask": None,
        "output_attentions": False,
        "encoder_attention_mask": mask,
        "token_type_ids": torch.zeros_like(input_ids),
        "num_items_in_batch": 4,
    }
    assert torch.equal(model(input_ids, attention_mask=mask, **from_elsewhere)[0], plain)
    for name, value in {"inputs_embeds": torch.zeros(1, 30, 32), "output_attentions": True, "strand": "both"}.items():
        with pytest.raises(InputError, match=rf"no argument '{name}'"):
            model(input_ids, **{name: value})


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


def masked(input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    is_target = (torch.arange(input_ids.shape[1]) // 6 % 5 == 1).expand_as(input_ids)
    return {"input_ids": input_ids.masked_fill(is_target, 3), "labels": input_ids.masked_fill(~is_target, -100)}


def test_the_ratio_loss_counts_each_window_by_itself(rng):
    """F of a window is its share of boundaries without masks, G the mean p of what the router was given."""
    model, input_ids = lively_model(chunker="learned").train(), random_dna(200, rng, batch=3)
    clean = model.model.chunk(input_ids)
    output = model(**masked(input_ids))
    for number, target in enumerate((0.3, 0.5)):
        stage, losses = output.stages[number], []
        assert not (clean[number].reason == BoundaryReason.GUARD).any()
        for row in range(3):
            share = clean[number].is_boundary[row][clean[number].is_counted[row]].float().mean()
            mean = stage.probability[row][stage.is_counted[row]].mean()
            losses.append(share * mean / target + (1 - share) * (1 - mean) / (1 - target))
        assert torch.allclose(output.ratio_losses[number], torch.stack(losses).mean(), atol=1e-5)


@pytest.mark.parametrize(("offset", "sign"), [(0.2, 1), (-0.2, -1)])
def test_the_ratio_loss_and_the_offsets_pull_towards_the_target(offset, sign, rng):
    """With any trainer: nothing but forward and backward is called."""
    model = lively_model(chunker="learned").train()
    router = model.model.routers[0]
    router.beta.add_(offset)
    before = float(router.beta)
    output = model(**masked(random_dna(400, rng, batch=2)))
    probability = output.stages[0].probability
    (gradient,) = torch.autograd.grad(output.ratio_losses[0], probability, retain_graph=True)
    assert float(gradient[output.stages[0].is_counted].sum()) * sign > 0
    assert (before - float(router.beta)) * sign > 0.005
    output.loss.backward()
    assert router.query.weight.grad.abs().sum() > 0


def test_the_offsets_move_by_the_share_without_masks(rng):
    model, input_ids = lively_model(chunker="learned").train(), random_dna(400, rng, batch=2)
    stages = model.model.chunk(input_ids)
    shares = [float((s.is_boundary & s.is_counted).sum() / s.is_counted.sum()) for s in stages]
    before = [float(router.beta) for router in model.model.routers]
    model(**masked(input_ids))
    for router, offset, share, target in zip(model.model.routers, before, shares, (0.3, 0.5), strict=True):
        assert float(router.beta) - offset == pytest.approx(0.1 * (target - share), abs=1e-6)


@pytest.mark.parametrize("case", ["eval", "no labels", "no gradient", "rate 0", "frozen", "our own loop"])
def test_the_offsets_stay_unless_the_model_is_trained_by_others(case, rng):
    model, batch = lively_model(chunker="learned"), masked(random_dna(200, rng))
    model.train(case != "eval")
    model.config.router_offset_rate = 0.0 if case == "rate 0" else 0.1
    model.requires_grad_(case != "frozen")
    if case == "no labels":
        del batch["labels"]
    if case == "our own loop":
        model.moves_offsets = False
    before = [float(router.beta) for router in model.model.routers]
    with torch.set_grad_enabled(case != "no gradient"):
        model(**batch)
    assert [float(router.beta) for router in model.model.routers] == before


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


def test_n_and_special_tokens_are_no_targets(rng):
    """The default collator of transformers masks N too, and its random letters are drawn from all tokens."""
    model, input_ids = tiny_model(spread=0.05), random_dna(20, rng)
    labels = torch.full((1, 20), -100)
    labels[0, 3] = input_ids[0, 3]
    plain = model(input_ids, labels=labels)
    labels[0, 7], labels[0, 8] = 11, 4
    assert torch.equal(model(input_ids, labels=labels).loss, plain.loss)
    assert torch.equal(model(input_ids, labels=labels, only_targets=True).loss, plain.loss)


def test_a_target_shown_as_padding_is_a_base(rng):
    model, input_ids = tiny_model(spread=0.05), random_dna(20, rng)
    labels = torch.full((1, 20), -100)
    labels[0, 7], labels[0, 15] = input_ids[0, 7], 11
    input_ids[0, [7, 15]] = 4
    expected = model(input_ids, attention_mask=torch.ones_like(input_ids), labels=labels)
    assert torch.equal(model(input_ids, labels=labels).logits, expected.logits)


@pytest.mark.parametrize("label", [16, -1])
def test_labels_that_are_no_token_are_refused(label, rng):
    labels = torch.full((1, 20), -100)
    labels[0, 7] = label
    with pytest.raises(InputError, match=rf"labels\[0, 7\] = {label} is no token id"):
        tiny_model()(random_dna(20, rng), labels=labels)


def classifier(own=HNetNTV2ForSequenceClassification, **settings):
    """One whose strands disagree, with a classifier that is not the same for all."""
    model = own(tiny_config(num_labels=3, **settings))
    model.model.load_state_dict(lively_model().model.state_dict())
    return model.eval()


@pytest.mark.parametrize("strands", ["forward", "both"])
def test_a_classifier_sees_the_same_strands_in_training_and_evaluation(strands, rng):
    model, input_ids = classifier(classification_strands=strands), random_dna(60, rng, batch=2)
    evaluated = model(input_ids)
    trained = model.train()(input_ids)
    assert torch.equal(trained.logits, evaluated.logits)
    assert torch.equal(trained.logits, model(input_ids, strands=strands).logits)
    assert (evaluated.reverse_stages is None) == (strands == "forward")
    other = {"forward": "both", "both": "forward"}[strands]
    assert not torch.allclose(model(input_ids, strands=other).logits, evaluated.logits, atol=1e-4)


def test_the_strands_of_a_classifier_are_saved_with_it(tmp_path):
    assert tiny_config().classification_strands == "forward"
    classifier(classification_strands="both").save_pretrained(tmp_path)
    loaded = HNetNTV2ForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.classification_strands == "both"


@pytest.mark.parametrize("strands", ["forward", "both"])
def test_a_classifier_pools_a_c_g_t_only(strands):
    model = classifier(classification_strands=strands)
    input_ids = ids("ACGTTNNACGGATMTTACAGGC", "ACGGTSACC")
    logits = model(input_ids).logits
    for row, (letters, is_pooled) in enumerate(zip(input_ids, (input_ids >= 7) & (input_ids <= 10), strict=True)):
        alone = letters[letters != 4][None]
        vectors = {
            "forward": model.model(alone, strands="forward").last_hidden_state[0],
            "both": model.model(alone, strands="both").last_hidden_state[0],
        }
        mean = vectors["forward"][is_pooled[letters != 4]].mean(0)
        if strands == "forward":
            assert torch.allclose(logits[row], model.classifier(mean), atol=1e-5)
        else:  # the classifier is not linear, so that each strand's logits are needed
            reverse = 2 * vectors["both"][is_pooled[letters != 4]].mean(0) - mean
            expected = (model.classifier(mean) + model.classifier(reverse)) / 2
            assert torch.allclose(logits[row], expected, atol=1e-5)


@pytest.mark.parametrize("how", typing.get_args(ClassifierPooling))
def test_each_strand_is_pooled_in_the_forward_frame(how):
    model = classifier(classification_pooling=how, classification_bins=3, classification_strands="both")
    input_ids = ids("ACGTTNNACGGATTTACAGGC")
    is_pooled = is_clean_base(input_ids)
    forward = model.model(input_ids, strands="forward").last_hidden_state
    reverse = 2 * model.model(input_ids, strands="both").last_hidden_state - forward  # in the forward frame
    expected = (model.classifier(forward, is_pooled) + model.classifier(reverse, is_pooled)) / 2
    assert torch.allclose(model(input_ids).logits, expected, atol=1e-5)
    padded = torch.nn.functional.pad(input_ids, (0, 5), value=4)
    assert torch.allclose(model(padded).logits, expected, atol=1e-5)


@pytest.mark.parametrize("how", typing.get_args(ClassifierPooling))
def test_a_classifier_with_any_pooling_starts_from_the_masked_model_and_is_saved(how, saved, tmp_path, rng):
    fresh = HNetNTV2ForSequenceClassification.from_pretrained(saved[1], num_labels=3, classification_pooling=how)
    fresh.save_pretrained(tmp_path / "saved")
    loaded, input_ids = HNetNTV2ForSequenceClassification.from_pretrained(tmp_path / "saved"), random_dna(60, rng, 2)
    assert loaded.config.classification_pooling == how
    assert torch.equal(loaded(input_ids).logits, fresh(input_ids).logits)
    loaded.train()(input_ids, labels=torch.tensor([0, 2])).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in loaded.classifier.parameters())


def test_a_classifier_saved_before_poolings_could_be_chosen_takes_the_mean(tmp_path, rng):
    model = classifier()
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    del settings["classification_pooling"], settings["classification_bins"]
    path.write_text(json.dumps(settings))
    input_ids = random_dna(60, rng, 2)
    assert torch.equal(
        HNetNTV2ForSequenceClassification.from_pretrained(tmp_path)(input_ids).logits, model(input_ids).logits
    )


def test_a_row_without_any_base_cannot_be_classified():
    with pytest.raises(InputError, match="row 1 holds no A, C, G or T"):
        classifier()(ids("ACGTA", "NNMN"))


def test_bases_are_classified_in_the_forward_frame(rng):
    model = classifier(HNetNTV2ForTokenClassification, classification_strands="both")
    input_ids = random_dna(40, rng, batch=2)
    input_ids[1, 30:] = 4
    labels = torch.randint(3, (2, 40), generator=rng).masked_fill(input_ids == 4, -100)
    output = model(input_ids, labels=labels)
    assert output.logits.shape == (2, 40, 3)
    log_probs = output.logits.log_softmax(-1)
    expected = [-log_probs[b, t, labels[b, t]] for b in (0, 1) for t in range(40) if labels[b, t] != -100]
    assert torch.allclose(output.loss, torch.stack(expected).mean())
    flipped = model(17 - input_ids[:1].flip(1)).logits  # ids 7 to 10 of A, C, G, T
    assert torch.allclose(flipped.flip(1), output.logits[:1], atol=1e-5)


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
    import torch, transformers
    folder = sys.argv[1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    batch = tokenizer(["ACGTTGCATT", "ACGnu"], padding=True, return_tensors="pt")
    for name in sys.argv[3:]:
        model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True).eval()
        assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
        with torch.no_grad():
            output = model(**batch)
        if name == "AutoModelForMaskedLM":
            print(json.dumps(output.logits[0, :, 7:11].tolist()))
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
        [
            *[sys.executable, "-W", "ignore", str(script), str(folder), json.dumps(NOT_NEEDED)],
            *[auto.__name__ for auto in CLASS_OF],
        ],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    expected = model(HNetNTV2Tokenizer()(["ACGTTGCATT"], return_tensors="pt")["input_ids"]).logits[0, :, 7:11]
    assert torch.allclose(torch.tensor(json.loads(result.stdout.splitlines()[-1])), expected, atol=1e-5)


def test_a_saved_folder_names_all_its_classes(saved, tmp_path):
    classifier().save_pretrained(tmp_path)
    for folder in (saved[1], tmp_path):
        auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
        for auto, own in CLASS_OF.items():
            assert auto_map[auto.__name__] == f"modeling_hnet_ntv2.{own.__name__}"
        assert auto_map["AutoConfig"] == "configuration_hnet_ntv2.HNetNTV2Config"
    assert set(auto_map) == {"AutoConfig", *(auto.__name__ for auto in CLASS_OF)}


@pytest.mark.parametrize(
    ("argv", "original", "expected"),
    [
        (["/usr/bin/hnet-ntv2", "embed"], ["python", "/usr/bin/hnet-ntv2", "embed"], True),
        (["-m", "embed", "-m"], ["python", "-P", "-m", "hnet_ntv2.cli.main", "embed", "-m"], True),
        (["-m"], ["python", "-mhnet_ntv2.cli.main"], True),
        (["-m"], ["python", "-m", "theirs.train"], False),
        (["-m", "hnet_ntv2.cli"], ["python", "-W", "ignore", "-m", "theirs.train", "hnet_ntv2.cli"], False),
        (["train.py"], ["python", "train.py"], False),
        ([], ["python"], False),
    ],
)
def test_only_our_own_command_imports_the_package_without_registering_it(argv, original, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert hnet_ntv2._is_command_line() is expected


@pytest.mark.slow
def test_auto_classes_know_the_model_in_a_module_of_the_users(saved, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("import hnet_ntv2\n")
    (tmp_path / "theirs" / "use.py").write_text(
        "import sys, transformers\nprint(type(transformers.AutoModel.from_pretrained(sys.argv[1])).__name__)\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "theirs.use", str(saved[1])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert result.stdout == "HNetNTV2Model\n", result.stderr[-2000:]


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, :UserWarning")
def test_linear_layers_can_be_quantized_dynamically(rng):
    model, input_ids = lively_model(), random_dna(60, rng)
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    with torch.inference_mode():
        log_probs = [
            each(input_ids, strands="forward").logits[..., 7:11].log_softmax(-1) for each in (model, quantized)
        ]
    assert not torch.equal(*log_probs)
    assert float((log_probs[0] - log_probs[1]).abs().mean().detach()) < 0.1
