"""The documentation site: Sphinx reads the pages of docs/ and the docstrings. ``make docs`` builds it, offline."""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from hnet_ntv2 import __version__  # noqa: E402  (the line above makes it importable)

project, author, release = "HNet-NTv2", "The HNet-NTv2 contributors", __version__
project_copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4  # links to headings as code hosts write them
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # transformers' are written for another parser
napoleon_use_ivar = True  # an attribute is described in its class's docstring, and once
html_theme = "furo"
html_title = project
html_copy_source = False

# Pages of the site that are files of the repository outside docs/.
REPOSITORY = {
    "README.md": "repository/readme",
    "CHANGELOG.md": "repository/changelog",
    "CONTRIBUTING.md": "repository/contributing",
    "scripts/README_hnet_ntv2.md": "repository/scripts",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def read_page(app, docname: str, source: list[str]) -> None:
    """Fill the pages that stand for files of the repository, and lead links that leave docs/ to these pages."""
    file = next((ROOT / name for name, page in REPOSITORY.items() if page == docname), None)
    if file is not None:
        source[0] = file.read_text(encoding="utf-8")
    file = file or Path(app.env.doc2path(docname))
    source[0] = _LINK.sub(lambda match: _link(match, file.parent), source[0])
    if docname == "decisions/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"


def _link(match: re.Match[str], folder: Path) -> str:
    image, text, target, heading = match.groups("")
    path = (folder / target).resolve()
    if target.startswith("http") or not path.exists():
        return match.group()
    if path.is_relative_to(DOCS):
        return f"{image}[{text}](/{path.relative_to(DOCS).as_posix()}{heading})"
    name = path.relative_to(ROOT).as_posix()
    return f"[{text}](/{REPOSITORY[name]}.md{heading})" if name in REPOSITORY else f"{text} (`{name}`)"


def skip_field(app, what: str, name: str, member: object, is_skipped: bool, options: object) -> bool:
    """Leave out what Python writes itself ("Alias for field number 0"): the class's docstring describes its fields."""
    return is_skipped or type(member).__name__ == "_tuplegetter"


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read_page)
    app.connect("autodoc-skip-member", skip_field)
