"""Imports go down only, the flat model files ship alone, and the tree holds nothing that must not be published."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "hnet_ntv2"
NO_MODEL_FILES = ("__init__.py", "api.py", "errors.py", "shapes.py")  # api.py is the verbs as functions
FLAT_FILES = sorted(path for path in PACKAGE.glob("*.py") if path.name not in NO_MODEL_FILES)
ALLOWED_OUTSIDE = {"torch", "transformers", "safetensors", "numpy"}
TEXT_SUFFIXES = {".py", ".sh", ".md", ".yaml", ".yml", ".toml", ".txt", ".cff", ".svg", ""}


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name(name)), *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def files_of_the_tree() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [REPOSITORY / name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file()]


def test_layers_hold():
    result = tool("lint-imports", "--no-cache", "--no-logo")
    assert result.returncode == 0, result.stdout + result.stderr


def test_code_is_formatted_and_linted():
    for arguments in (("format", "--check", "."), ("check", ".")):
        result = tool("ruff", *arguments, "--no-cache")
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", FLAT_FILES, ids=lambda path: path.name)
def test_flat_file_ships_alone(path):
    siblings = {other.stem for other in PACKAGE.glob("*.py")}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"{path.name}:{node.lineno} leaves the folder"
            assert node.module in siblings, f"{path.name}:{node.lineno} imports .{node.module}, no flat file"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            roots = {name.split(".")[0] for name in names}
            strangers = roots - ALLOWED_OUTSIDE - set(sys.stdlib_module_names)
            assert not strangers, f"{path.name}:{node.lineno} needs {strangers} on a machine that only loads the model"


# Written so that this file does not contain what it looks for.
FORBIDDEN_EVERYWHERE = {
    "a path of one machine": re.compile(r"(?<![\w.~$}{/-])/(?:root|work|home/\w+|Users/\w+|mnt/\w+)/\w"),
    "the host of a package registry": re.compile(
        r"pypi\.or" + r"g|pythonho" + r"sted|npmjs\.|deb\.debian|download\.pytorch"
    ),
    "an unfinished note": re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
}
FORBIDDEN_IN_PACKAGE = {
    "remote code": re.compile(r"trust_remote_code\s*=\s*True"),
    "a pickle": re.compile(r"^\s*(?:import|from)\s+(?:pickle|dill|cloudpickle|joblib)\b", re.MULTILINE),
    "torch.load of a pickle": re.compile(r"torch\.load\((?![^)]*weights_only=True)"),
    "a bare except": re.compile(r"except\s*:"),
    "a swallowed exception": re.compile(r"except[^\n]*Exception[^\n]*:\s*\n?\s*pass\b"),
}


def test_tree_holds_nothing_forbidden():
    found = []
    for path in files_of_the_tree():
        if path.suffix not in TEXT_SUFFIXES or path.name == "LICENSE":
            continue
        rules = dict(FORBIDDEN_EVERYWHERE)
        if PACKAGE in path.parents:
            rules |= FORBIDDEN_IN_PACKAGE
        text = path.read_text()
        for what, pattern in rules.items():
            for match in pattern.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{path.relative_to(REPOSITORY)}:{line} holds {what}: {match.group()!r}")
    assert not found, "\n".join(found)


def test_print_only_in_the_command_line():
    found = []
    for path in PACKAGE.rglob("*.py"):
        if PACKAGE / "cli" in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert not found, f"print outside cli: {found}"


def test_every_file_says_what_it_owns():
    silent = [
        str(path.relative_to(REPOSITORY))
        for path in PACKAGE.rglob("*.py")
        if path.read_text().strip() and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert not silent, f"no opening docstring: {silent}"
