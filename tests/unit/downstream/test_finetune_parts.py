"""Parts of fine-tuning: groups of parameters, batches, settings, the learning curve."""

import numpy as np
import pytest
import torch
from torch import nn

from hnet_ntv2 import HNetNTV2ForSequenceClassification
from hnet_ntv2.downstream.classifier import model_inputs
from hnet_ntv2.downstream.finetune import _Scale
from hnet_ntv2.downstream.finetune_output import epoch_rows, json_text
from hnet_ntv2.downstream.finetune_settings import FinetuneSettings
from hnet_ntv2.downstream.trainer import Collator, group_of, micro_batch
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.modeling_ntv2 import NTv2Config
from hnet_ntv2.tokenization_hnet_ntv2 import NTv2Tokenizer
from hnet_ntv2.vocabulary import encode, reverse_complement, source_kmer_size
from tests.builders import tiny_config
from tests.unit.conversion.sources import TINY


def test_every_parameter_has_the_group_of_its_part():
    model = HNetNTV2ForSequenceClassification(tiny_config(num_labels=2, classification_pooling="attention"))
    groups = {name: group_of(name) for name, _ in model.named_parameters()}
    assert {name for name in groups if groups[name] == "head"} == {name for name in groups if "classifier" in name}
    assert groups["model.hierarchy.main.main.layers.blocks.0.attention.self.query.weight"] == "trunk"
    assert groups["model.embeddings.kmer.weight"] == "trunk"
    assert groups["model.embeddings.base.weight"] == "outer"
    assert groups["model.hierarchy.router.query.weight"] == "outer"
    assert groups["model.hierarchy.decoder.blocks.0.mlp_input.weight"] == "outer"
    # As peft names them.
    assert group_of("base_model.model.classifier.modules_to_save.default.1.weight") == "head"
    assert group_of("base_model.model.model.hierarchy.main.main.layers.blocks.0.output.dense.lora_A.weight") == "trunk"
    assert group_of("esm.encoder.layer.0.output.dense.weight") == "trunk"


@pytest.mark.parametrize(("size", "longest", "expected"), [(32, 70, 32), (32, 1000, 16), (6, 6000, 2), (8, 10**6, 1)])
def test_a_micro_batch_divides_the_batch_and_fits(size, longest, expected):
    assert micro_batch(size, longest) == expected


def test_only_training_flips_and_only_to_the_reverse_complement():
    rows = [encode(text) for text in (b"ACGTTT", b"GGa", b"CCCCA")] * 20
    examples = [{"input_ids": row, "labels": np.int64(number)} for number, row in enumerate(rows)]
    torch.manual_seed(0)
    plain, drawn = (Collator(tiny_config(), flips)(examples) for flips in (False, True))
    flipped = model_inputs(tiny_config(), [reverse_complement(row) for row in rows], torch.device("cpu"))
    assert plain["input_ids"].shape == (60, 6)
    assert plain["attention_mask"].sum(1).tolist() == [6, 3, 5] * 20
    is_flipped = (drawn["input_ids"] != plain["input_ids"]).any(1)
    assert 15 < is_flipped.sum() < 45
    assert torch.equal(drawn["input_ids"][is_flipped], flipped["input_ids"][is_flipped])
    assert torch.equal(drawn["labels"], torch.arange(60))


def test_ntv2_reads_the_tokens_of_its_tokenizer():
    config = NTv2Config.from_json_file(TINY / "config.json")
    texts = ["ACGTACGTNNACGTACGTTAG", "ACGTACG", "GN"]
    expected = NTv2Tokenizer(k=source_kmer_size(config.vocab_size))(texts, padding=True, return_tensors="pt")
    found = model_inputs(config, [encode(text.lower().encode()) for text in texts], torch.device("cpu"))
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert torch.equal(found["attention_mask"], expected["attention_mask"])


def test_numbers_are_learned_standardised_and_given_in_their_unit():
    targets = np.array([[100, 7], [300, 7], [200, 7]], np.float32)
    scale = _Scale.of(targets, "regression")
    standard = scale.apply(targets)
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(standard.std(0), [1, 0], atol=1e-6)
    layer, hidden = nn.Linear(3, 2), torch.randn(5, 3)
    before = layer(hidden).detach()
    scale.undo(layer)
    expected = before * torch.from_numpy(scale.spread) + torch.from_numpy(scale.center)
    torch.testing.assert_close(layer(hidden).detach(), expected)
    classes = np.array([0, 1])
    assert _Scale.of(classes, "classification").apply(classes) is classes


def test_the_learning_curve_has_a_row_per_epoch():
    log = [
        {"loss": 0.7, "learning_rate": 1e-3, "grad_norm": 2.0, "epoch": 1.0, "step": 4},
        {"eval_loss": 0.6, "eval_mcc": 0.1, "eval_runtime": 1.0, "epoch": 1.0, "step": 4},
        {"loss": 0.5, "learning_rate": 0.0, "grad_norm": 1.0, "epoch": 2.0, "step": 8},
        {"train_runtime": 3.0, "train_loss": 0.6, "epoch": 2.0, "step": 8},
    ]
    first, second = epoch_rows(log, "mcc")
    assert first == {"epoch": 1, "train_loss": 0.7, "learning_rate": 1e-3, "gradient_norm": 2.0, "dev_loss": 0.6,
                     "dev_mcc": 0.1}  # fmt: skip
    assert second["epoch"] == 2
    assert second["train_loss"] == 0.5
    assert '"auroc": null' in json_text({"dev": {"auroc": float("nan")}})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strands": "triple"}, "strands='triple' is unknown; choose forward, both"),
        ({"pooling": "sum"}, "pooling='sum' is unknown; choose mean, max, first, bins, attention, convolution"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must be a number from 0 on"),
        ({"trunk_rate": float("inf")}, "trunk_rate=inf"),
        ({"warmup": 1.0}, "warmup=1.0 must lie between 0 and 1"),
        ({"mode": "lora", "routers": "ratio"}, "adapters hold none"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        FinetuneSettings(**wrong)
