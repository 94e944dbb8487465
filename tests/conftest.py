"""Shape checks for the whole package, fixtures that several test folders share."""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from jaxtyping import install_import_hook

_DOWNSTREAM = Path(__file__).resolve().parents[1] / "hnet_ntv2" / "downstream"

# Not the configurations: they check their own values, with messages for users, and must be tested doing so.
_CHECKED = (
    *(
        "attention",
        "backbone",
        "chunkers",
        "chunking",
        "forced_boundaries",
        "hierarchy",
        "kmers",
        "pooling",
        "upsampling",
    ),
    *("base_embeddings", "heads", "outputs", "strands", "modeling_hnet_ntv2", "modeling_ntv2"),
    "tasks",
    # Not finetune_settings, as with the configurations.
    *(f"downstream.{path.stem}" for path in _DOWNSTREAM.glob("[a-z]*.py") if path.stem != "finetune_settings"),
    *("conversion", "data", "embedding", "evaluation", "inference", "segmentation", "training", "variant_effect"),
)
_HOOK = install_import_hook([f"hnet_ntv2.{module}" for module in _CHECKED], "beartype.beartype")

import pytest  # noqa: E402  (what it imports must be checked)
import torch  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real genomes beside the repository; tests that need it skip visibly without."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"real data not found beside the repository ({path.name}/ missing)")
    return path


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(2222)


def pytest_make_parametrize_id(val, argname):
    """Bytes are named by their argument: gzip stamps them, and xdist needs the same names in each worker."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(no_gpu)
