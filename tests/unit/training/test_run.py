"""What a finished run leaves for others: a folder that loads, and the card of the weights that it started from."""

from hnet_ntv2.conversion.graft import graft
from hnet_ntv2.conversion.saving import render_card
from hnet_ntv2.conversion.source import open_source
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.training.run import export_model
from tests.unit.conversion.sources import TINY, any_sequence


def test_descendants_of_a_graft_carry_its_licence(tmp_path):
    model, ledger = graft(open_source(str(TINY)), any_sequence(), settings={"window": 16})
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "README.md").write_text(render_card(ledger))
    folder = export_model(model, tmp_path / "hf", str(tmp_path / "start"))
    card = (folder / "README.md").read_text()
    assert "license: cc-by-nc-sa-4.0" in card
    assert "**Trained further**" in card
    assert "Not trained further" not in card
    assert HNetNTV2ForMaskedLM.from_pretrained(folder).config.d_model == 64


def test_without_a_start_there_is_no_card(tmp_path):
    model, _ = graft(open_source(str(TINY)), any_sequence(), settings={"window": 16})
    assert not (export_model(model, tmp_path / "hf") / "README.md").exists()
