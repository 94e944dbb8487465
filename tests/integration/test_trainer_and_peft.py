"""The Hugging Face Trainer, its collators, PEFT and pipelines do with the model what they do with any other."""

import numpy as np
import pytest
import torch
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)

from hnet_ntv2 import (
    HNetNTV2ForMaskedLM,
    HNetNTV2ForSequenceClassification,
    HNetNTV2ForTokenClassification,
    HNetNTV2Model,
    HNetNTV2Tokenizer,
)
from hnet_ntv2.conversion.sequence import read_sequence
from tests.builders import random_dna, random_letters, tiny_config, tiny_model

TOKENIZER = HNetNTV2Tokenizer()
SEQUENCES = [random_letters(20 + 7 * index, seed=index) + "NNN" + "ACGT" * index for index in range(8)]
# The base class sets them in the environment of the whole process otherwise, or needs a package for reports.
QUIET = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_strategy": "no"}

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


def rows(kind: str) -> list[dict]:
    encoded = [dict(TOKENIZER(sequence)) for sequence in SEQUENCES]
    if kind == "sequences":
        return [row | {"labels": index % 2} for index, row in enumerate(encoded)]
    if kind == "bases":
        return [row | {"labels": [letter % 2 for letter in row["input_ids"]]} for row in encoded]
    return encoded


KINDS = {
    "masked": (HNetNTV2ForMaskedLM, lambda: DataCollatorForLanguageModeling(TOKENIZER)),
    "sequences": (HNetNTV2ForSequenceClassification, lambda: DataCollatorWithPadding(TOKENIZER)),
    "bases": (HNetNTV2ForTokenClassification, lambda: DataCollatorForTokenClassification(TOKENIZER)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_train_evaluate_predict_save_and_load(kind, tmp_path):
    torch.manual_seed(0)
    own, collator = KINDS[kind]
    model = own(tiny_config(num_labels=2, bidirectional=False))
    settings = TrainingArguments(
        str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=4, per_device_eval_batch_size=3, **QUIET
    )
    seen = []
    trainer = Trainer(
        model,
        settings,
        data_collator=collator(),
        train_dataset=rows(kind),
        eval_dataset=rows(kind),
        processing_class=TOKENIZER,
        compute_metrics=lambda result: seen.append(result) or {"shape": result.predictions.shape[-1]},
    )
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    assert np.isfinite(trainer.train().training_loss)
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.named_parameters())
    assert trainer.evaluate()["eval_shape"] == (16 if kind == "masked" else 2)
    predictions = trainer.predict(rows(kind)).predictions
    longest = max(map(len, SEQUENCES))
    assert predictions.shape == {"masked": (8, longest, 16), "sequences": (8, 2), "bases": (8, longest, 2)}[kind]
    assert np.array_equal(predictions, seen[0].predictions) or kind == "masked"  # masks are drawn anew
    trainer.save_model(str(tmp_path / "saved"))
    loaded, batch = own.from_pretrained(tmp_path / "saved"), TOKENIZER(SEQUENCES[0], return_tensors="pt")
    assert torch.equal(loaded(**batch).logits, model.eval()(**batch).logits)
    assert HNetNTV2Tokenizer.from_pretrained(tmp_path / "saved").model_max_length == 131_072


def test_accumulated_batches_weigh_as_much_as_one(tmp_path):
    """Trainer must not hand the loss over to the model, whose forward takes any keyword."""
    trainer = Trainer(tiny_model(), TrainingArguments(str(tmp_path), **QUIET))
    assert trainer.model_accepts_loss_kwargs is False


def test_the_default_collator_works_on_plain_lists_with_n():
    """Such batches have no attention mask, and a random replacement may be [PAD]."""
    torch.manual_seed(0)
    examples = [
        torch.tensor(TOKENIZER(random_letters(200, seed=seed, letters="ACGTN"))["input_ids"]) for seed in (0, 1)
    ]
    collator = DataCollatorForLanguageModeling(TOKENIZER, mask_replace_prob=0.0, random_replace_prob=1.0)
    batch = collator(examples)
    assert "attention_mask" not in batch
    assert (batch["input_ids"] == 4).any()
    assert (batch["labels"] == 11).any()
    tiny_model().train()(**batch).loss.backward()


@pytest.mark.parametrize("pools", [True, False])
def test_pipelines_take_batches(pools, tmp_path):
    short, long = "ACGT[MASK]ACGTTACGGA", "ACGTTTTAGCAT[MASK]AGCNNATCATTTACGGACTA"
    masked, plain = [short, long] * 5, [text.replace("[MASK]", "A") for text in (short, long)] * 5
    options = {"tokenizer": TOKENIZER, "device": "cpu", "batch_size": 8 if pools else 1}
    model = tiny_model()
    filled = pipeline("fill-mask", model=model, **options)(masked)
    assert [{entry["token_str"] for entry in each[:4]} for each in filled] == [set("ACGT")] * 10
    alone = model(**TOKENIZER(short, return_tensors="pt")).logits[0, 4].softmax(-1)
    assert filled[8][0]["score"] == pytest.approx(float(alone.detach().max()), abs=1e-5)

    vectors = pipeline("feature-extraction", model=model.model, **options)(plain)
    expected = model.model(**TOKENIZER(plain[9], return_tensors="pt")).last_hidden_state
    assert torch.allclose(torch.tensor(vectors[9])[:, : len(plain[9])], expected, atol=1e-5)

    classifier = HNetNTV2ForSequenceClassification(tiny_config(num_labels=3)).eval()
    classes = pipeline("text-classification", model=classifier, **options)(plain, top_k=3)
    expected = classifier(**TOKENIZER(plain[9], return_tensors="pt")).logits[0].softmax(-1)
    found = {entry["label"]: entry["score"] for entry in classes[9]}
    assert [found[f"LABEL_{index}"] for index in range(3)] == pytest.approx(expected.tolist(), abs=1e-5)

    tagger = HNetNTV2ForTokenClassification(tiny_config(num_labels=3)).eval()
    assert len(pipeline("token-classification", model=tagger, **options)(plain)) == 10


TASKS = {
    "SEQ_CLS": (HNetNTV2ForSequenceClassification, torch.tensor([0, 1])),
    "TOKEN_CLS": (HNetNTV2ForTokenClassification, torch.tensor([[0, 1] * 20] * 2)),
    "FEATURE_EXTRACTION": (HNetNTV2Model, None),
    None: (HNetNTV2ForMaskedLM, torch.tensor([[7, 8] * 20] * 2)),
}


CHECKPOINTING = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"  # peft asks for it


@pytest.mark.slow  # peft alone takes seconds to import
@pytest.mark.filterwarnings(CHECKPOINTING)
@pytest.mark.parametrize("how", ["attention", "convolution"])
def test_lora_trains_and_saves_a_learned_pooling(how, tmp_path, rng):
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(0)
    model = HNetNTV2ForSequenceClassification(tiny_config(num_labels=2, classification_pooling=how))
    model.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])).train()
    batch = {"input_ids": random_dna(40, rng, batch=2)}
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    adapted(**batch, labels=torch.tensor([0, 1])).loss.backward()
    assert {"pooling", "lora_A"} <= {
        part for n, p in adapted.named_parameters() if p.requires_grad for part in n.split(".")
    }
    optimizer.step()
    adapted.save_pretrained(tmp_path / "adapter")
    base = HNetNTV2ForSequenceClassification.from_pretrained(tmp_path / "base")
    before = base(**batch).logits
    again = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    expected = adapted.eval()(**batch).logits
    assert torch.allclose(again(**batch).logits, expected, atol=1e-6)
    assert torch.allclose(again.merge_and_unload()(**batch).logits, expected, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings(CHECKPOINTING)
@pytest.mark.parametrize("targets", [["query", "value"], "all-linear"])
@pytest.mark.parametrize("task", TASKS)
def test_lora_trains_saves_and_loads(task, targets, tmp_path, rng):
    from peft import LoraConfig, PeftModel, get_peft_model

    own, labels = TASKS[task]
    torch.manual_seed(0)
    model = own(tiny_config(num_labels=2))
    model.save_pretrained(tmp_path / "base")
    offset = model.get_buffer(next(name for name, _ in model.named_buffers() if name.endswith("router.beta"))).clone()
    # peft cannot both adapt and save the classifier, as it would under TOKEN_CLS with "all-linear", for BERT either.
    excluded = ["classifier.1"] if task == "TOKEN_CLS" else None
    lora = LoraConfig(task_type=task, r=2, target_modules=targets, exclude_modules=excluded)
    adapted = get_peft_model(model, lora).train()
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    input_ids = random_dna(40, rng, batch=2)
    batch = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    for _ in range(2):
        optimizer.zero_grad()
        output = adapted(**batch) if labels is None else adapted(**batch, labels=labels)
        (output.last_hidden_state.square().mean() if labels is None else output.loss).backward()
        optimizer.step()
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad and p.grad.abs().sum() > 0]
    assert any("lora_B" in name for name in trained)
    assert any("classifier" in name for name in trained) == ("CLS" in str(task))
    # Adapters hold no buffers: a router that is frozen must not move in training.
    name = next(name for name, _ in adapted.named_buffers() if name.endswith("router.beta"))
    assert torch.equal(adapted.get_buffer(name), offset)
    adapted.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(own.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    assert torch.allclose(again(**batch)[0], adapted.eval()(**batch)[0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("learning_rate", [1e-3, 5e-5])
def test_the_default_collator_keeps_the_ratios(learning_rate, tmp_path):
    """200 steps from random weights, whose routers nobody calibrated; without masks, as a user of the model cuts."""
    windows = read_sequence(length=256, count=1360, cache_dir=tmp_path / "cache").calibration
    is_held_out = torch.arange(len(windows)) % 51 == 0
    held_out, training = windows[is_held_out], [{"input_ids": row} for row in windows[~is_held_out].tolist()]
    torch.manual_seed(0)
    model = HNetNTV2ForMaskedLM(tiny_config(kmer_size=6, n_main_layer=1, chunker="learned"))
    before = [float(stage.achieved_ratio) for stage in model.model.chunk(held_out)]
    settings = TrainingArguments(
        str(tmp_path / "run"), max_steps=200, per_device_train_batch_size=8, learning_rate=learning_rate, **QUIET
    )
    Trainer(model, settings, DataCollatorForLanguageModeling(TOKENIZER), train_dataset=training).train()
    ratios = [float(stage.achieved_ratio) for stage in model.model.chunk(held_out)]
    assert max(abs(ratio / target - 1) for ratio, target in zip(before, (0.3, 0.5), strict=True)) > 0.2
    assert max(abs(ratio / target - 1) for ratio, target in zip(ratios, (0.3, 0.5), strict=True)) < 0.2
