"""The length of the training windows in the config: kept, checked, and missing in configs of before."""

import json

import pytest

from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from tests.builders import ids, random_letters, tiny_config, tiny_model


def test_it_is_saved_and_configs_without_it_load(tmp_path):
    tiny_model(training_length=96).save_pretrained(tmp_path)
    assert HNetNTV2ForMaskedLM.from_pretrained(tmp_path).config.training_length == 96
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["training_length"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert HNetNTV2Config.from_pretrained(tmp_path).training_length is None
    with pytest.raises(ConfigError, match="training_length=0 must be positive"):
        tiny_config(training_length=0)


@pytest.mark.parametrize("use", ["__call__", "chunk"])
def test_a_longer_row_warns_once(use, caplog):
    model, row = tiny_model(training_length=50).model, ids(random_letters(51, 1))
    getattr(model, use)(row[:, :50])
    assert caplog.messages == []
    for _ in range(2):
        getattr(model, use)(row)
    assert len(caplog.messages) == 1
    assert "a row of 51 bases: this model was trained on windows of 50" in caplog.text
    getattr(tiny_model().model, use)(row)
    assert len(caplog.messages) == 1, "nothing is known of the other model's training"
