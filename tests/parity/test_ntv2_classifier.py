"""NTv2 as a sequence classifier: from a masked model to a saved folder, in transformers' Trainer, with LoRA."""

import json
import typing
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from hnet_ntv2 import NTv2Config, NTv2ForMaskedLM, NTv2ForSequenceClassification, NTv2Tokenizer
from hnet_ntv2.errors import ConfigError, InputError, WeightsError
from hnet_ntv2.pooling import ClassifierPooling
from tests.builders import random_letters
from tests.unit.conversion.sources import TINY, copy_tiny

SOURCE = Path(__file__).parents[2] / "benchmarks/results/2026-11-25-learning-shares-cpu/source"
POOLINGS = typing.get_args(ClassifierPooling)


@pytest.fixture(scope="module")
def tokenizer() -> NTv2Tokenizer:
    return NTv2Tokenizer(k=NTv2Config.from_json_file(TINY / "config.json").vocab_size.bit_length() // 2)


def read(tokenizer, *sequences: str) -> dict[str, torch.Tensor]:
    return dict(tokenizer(list(sequences), padding=True, return_tensors="pt"))


def classifier(**settings) -> NTv2ForSequenceClassification:
    torch.manual_seed(0)
    return NTv2ForSequenceClassification.from_pretrained(TINY, **settings)


@pytest.mark.parametrize("how", POOLINGS)
def test_a_classifier_starts_from_the_masked_model_and_is_saved(how, tokenizer, tmp_path):
    fresh = classifier(num_labels=3, classification_pooling=how, classification_bins=2)
    body = NTv2ForMaskedLM.from_pretrained(TINY).esm.state_dict()
    assert all(torch.equal(tensor, body[name]) for name, tensor in fresh.esm.state_dict().items())
    fresh.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    batch = read(tokenizer, random_letters(50, 0), random_letters(33, 1))
    for loaded in (
        NTv2ForSequenceClassification.from_pretrained(tmp_path / "saved"),
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved"),
    ):
        assert type(loaded) is NTv2ForSequenceClassification
        assert torch.equal(loaded(**batch).logits, fresh(**batch).logits)
    loaded(**batch, labels=torch.tensor([0, 2])).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in loaded.classifier.parameters())
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path / "saved"), NTv2Tokenizer)


def test_only_kmers_and_letters_count(tokenizer):
    model = classifier()
    batch = read(tokenizer, "ACGTACGTNNACGTA<mask>CCGTTGCA", "ACG")
    hidden = model.encode(**batch).last_hidden_state
    tokens = [tokenizer.convert_ids_to_tokens(row) for row in batch["input_ids"].tolist()]
    for row, names in enumerate(tokens):
        places = [place for place, name in enumerate(names) if set(name) <= set("ACGT")]
        assert 0 < len(places) < len(names)
        expected = model.classifier(hidden[row, places].mean(0))
        assert torch.allclose(model(**batch).logits[row], expected, atol=1e-5)
    with pytest.raises(InputError, match="row 0 holds no A, C, G or T"):
        model(**read(tokenizer, "NNN"))


def test_a_head_of_another_shape_starts_anew_only_if_asked_to(tmp_path):
    classifier(num_labels=2, classification_pooling="attention").save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"misshapen: classifier\.1"):
        NTv2ForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    config = NTv2Config.from_json_file(tmp_path / "config.json", num_labels=3, classification_pooling="bins")
    anew = NTv2ForSequenceClassification.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    assert anew.classifier[1].weight.shape == (3, 8 * config.hidden_size)
    assert all(parameter.isfinite().all() and not parameter.is_meta for parameter in anew.parameters())
    with pytest.raises(WeightsError, match="missing: lm_head"):
        NTv2ForMaskedLM.from_pretrained(tmp_path)


def test_a_new_head_is_drawn_from_the_seed(tokenizer):
    batch = read(tokenizer, random_letters(50, 0))
    assert torch.equal(classifier()(**batch).logits, classifier()(**batch).logits)
    assert float(classifier().classifier[1].weight.detach().std()) == pytest.approx(0.02, rel=0.3)
    attention = classifier(classification_pooling="attention").classifier
    assert not attention.pooling.importance.weight.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classification_pooling": "median"}, "classification_pooling='median' must be one of mean, max"),
        ({"classification_bins": 0}, "classification_bins=0 must lie between"),
        ({"num_lables": 3}, "unknown NTv2 setting"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        classifier(**settings)


def test_the_source_of_the_evaluations_survives_saving(tmp_path):
    model = NTv2ForMaskedLM.from_pretrained(SOURCE)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(SOURCE).save_pretrained(tmp_path)
    again, tokenizer = AutoModelForMaskedLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is NTv2ForMaskedLM
    batch = read(tokenizer, random_letters(70, 0))
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert json.loads((tmp_path / "config.json").read_text())["classification_pooling"] == "mean"


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_trainer_trains_evaluates_and_saves(tokenizer, tmp_path):
    model = classifier(num_labels=2, classification_pooling="convolution")
    rows = [dict(tokenizer(random_letters(30 + 5 * row, row))) | {"labels": row % 2} for row in range(8)]
    settings = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    collator = DataCollatorWithPadding(tokenizer)
    trainer = Trainer(model, settings, collator, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)
    assert trainer.model_accepts_loss_kwargs is False
    trainer.train()
    assert trainer.predict(rows).predictions.shape == (8, 2)
    trainer.save_model(str(tmp_path / "saved"))
    loaded, batch = NTv2ForSequenceClassification.from_pretrained(tmp_path / "saved"), read(tokenizer, "ACGTTGCA" * 3)
    assert torch.equal(loaded(**batch).logits, model.eval()(**batch).logits)


@pytest.mark.slow  # peft alone takes seconds to import
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("targets", [["query", "value"], "all-linear"])
@pytest.mark.parametrize("how", ["mean", "attention", "convolution"])
def test_lora_trains_saves_and_loads(how, targets, tokenizer, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    folder = copy_tiny(tmp_path)
    model = classifier(classification_pooling=how)
    model.save_pretrained(folder)
    # peft cannot both adapt and save a head.
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=targets, exclude_modules=r".*classifier.*")
    adapted = get_peft_model(model, lora).train()
    batch = read(tokenizer, random_letters(50, 0), random_letters(33, 1))
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    adapted(**batch, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    adapted.save_pretrained(tmp_path / "adapter")
    expected = adapted.eval()(**batch).logits
    again = PeftModel.from_pretrained(
        NTv2ForSequenceClassification.from_pretrained(folder), tmp_path / "adapter"
    ).eval()
    assert torch.allclose(again(**batch).logits, expected, atol=1e-6)
    assert torch.allclose(again.merge_and_unload()(**batch).logits, expected, atol=1e-5)
