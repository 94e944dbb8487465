"""Write a start to its folder all at once: nothing is there until the saved files were verified by another process."""

import logging
import os
import subprocess
import sys
from pathlib import Path

from ..errors import ConfigError, WeightsError
from ..storage import appearing_folder
from ..tokenization_hnet_ntv2 import HNetNTV2Tokenizer
from .graft import Start
from .ledger import LEDGER_FILE, TABLE_FILE
from .report import render_card, render_table

logger = logging.getLogger(__name__)

# The name keeps the package from importing torch and transformers, which verification does not need.
_VERIFY = """
import sys
sys.argv[0] = "hnet-ntv2"
from hnet_ntv2.conversion.ledger import verify
from hnet_ntv2.errors import HNetNTV2Error
try:
    verify(sys.argv[1])
except HNetNTV2Error as error:
    sys.exit(str(error))
"""


def require_empty(folder: Path) -> None:
    """Stop if the output folder holds something.

    Raises:
        ConfigError: With what is in the way.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--output-dir {folder} exists and is not an empty folder; name another one")


def save_start(start: Start, folder: str | os.PathLike[str]) -> None:
    """Save model, tokenizer, ledger, table and model card; verify the files in a fresh process; then show the folder.

    Args:
        start: What to save.
        folder: Must be empty or absent.

    Raises:
        ConfigError: The folder holds something or cannot be written.
        WeightsError: The saved files are not what the ledger says.
    """
    folder = Path(folder).absolute()
    require_empty(folder)
    with appearing_folder(folder) as partial:
        start.model.save_pretrained(partial)
        HNetNTV2Tokenizer().save_pretrained(partial)
        (partial / LEDGER_FILE).write_text(start.ledger.to_json(), encoding="utf-8")
        (partial / TABLE_FILE).write_text(render_table(start.ledger), encoding="utf-8")
        (partial / "README.md").write_text(render_card(start.ledger), encoding="utf-8")
        verify_in_fresh_process(partial)
    logger.info("every tensor verified from the saved files")


def verify_in_fresh_process(folder: Path) -> None:
    """Run ``ledger.verify`` on a folder in a process of its own.

    Raises:
        WeightsError: With what it found.
    """
    package_home = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (package_home, os.environ.get("PYTHONPATH"))))
    result = subprocess.run(
        [sys.executable, "-P", "-c", _VERIFY, str(folder)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise WeightsError(f"the saved model could not be verified: {result.stderr.strip()}")
