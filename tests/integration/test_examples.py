"""The notebooks of examples/ run from top to bottom, and say what their texts claim."""

import json
from pathlib import Path

import nbformat
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_has_no_outputs_and_begins_with_its_title(name):
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count is not None] == []


def values(name: str, expression: str, folder: Path, monkeypatch) -> dict:
    """What an expression gives behind the last cell of a notebook that was executed in a folder."""
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    monkeypatch.setenv("HNET_NTV2_CACHE", str(folder / "cache"))
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(folder / variable.lower()))
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({expression}))"))
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return json.loads(notebook.cells[-1].outputs[-1]["text"])


@pytest.mark.slow
def test_masked_bases(tmp_path, monkeypatch):
    found = values("masked_bases.ipynb", "{'bits': bits, 'by_letters': composition_bits}", tmp_path, monkeypatch)
    assert found["bits"] < found["by_letters"] <= 2


@pytest.mark.slow
def test_embed_and_classify(tmp_path, monkeypatch):
    found = values("embed_and_classify.ipynb", "{k: float(v) for k, v in accuracies.items()}", tmp_path, monkeypatch)
    assert found["1-mer counts"] < 0.6  # both classes have the same letters
    assert found["last_mean"] > 0.85
    assert abs(found["last_bins"] - found["3-mer counts"]) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "share"),
    [("finetune_with_trainer.ipynb", "1"), ("lora.ipynb", "num_trainable / num_parameters")],
)
def test_fine_tuning(name, share, tmp_path, monkeypatch):
    right = "sum((each == 'genome') == bool(label) for each, label in zip(predictions.classes, labels))"
    expression = f"{{'before': before, 'after': after, 'right': {right}, 'share': {share}}}"
    found = values(name, expression, tmp_path, monkeypatch)
    assert found["before"] < 0.7
    assert found["after"] > 0.75
    assert found["right"] >= 14  # of 20
    assert found["share"] == 1 or round(found["share"], 3) == 0.016  # as the notebook says
