"""The documentation site builds without a warning, and holds every page and the functions that users call."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hnet_ntv2

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted(path.relative_to(DOCS) for suffix in ("md", "rst") for path in DOCS.rglob(f"*.{suffix}"))


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", str(DOCS), str(tmp_path)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert [str(page) for page in PAGES if not (tmp_path / page.with_suffix(".html")).is_file()] == []
    verbs = (tmp_path / "api" / "verbs.html").read_text()
    functions = [name for name, home in hnet_ntv2._HOME_OF.items() if home == "api"]
    assert len(functions) > 6
    assert [name for name in functions if f'id="hnet_ntv2.api.{name}"' not in verbs] == []
    # Pages for files outside docs/ show those files, and links to the files lead to the pages.
    assert "<h1>HNet-NTv2<" in (tmp_path / "repository" / "readme.html").read_text()
    assert 'href="repository/readme.html"' in (tmp_path / "tutorial.html").read_text()
    assert not re.findall(r'href="[^"]*\.md[#"]', "".join(path.read_text() for path in tmp_path.rglob("*.html")))


def test_every_page_is_in_a_table_of_contents():
    listed = re.findall(r"^([\w/.-]+)$", (DOCS / "index.md").read_text(), re.MULTILINE)
    pages = [str(page.with_suffix("")) for page in PAGES if not re.match(r"index|decisions/\d", str(page))]
    assert sorted(page for page in listed if page in pages or "/" in page) == sorted(pages)
