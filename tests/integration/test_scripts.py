"""The shell scripts: mistakes are told before anything heavy begins, and the environment is made once, safely."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hnet_ntv2.cli.pretrain_options import OPTIONS

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = REPOSITORY / "scripts" / "run_pretrain_hnet_ntv2.sh"
INIT = REPOSITORY / "scripts" / "init_hnet_ntv2_weights.py"
# As the installed command starts: its name keeps the package from importing what a verb may not need.
COMMAND = (
    sys.executable,
    "-c",
    "import sys; sys.argv[0] = 'hnet-ntv2'; from hnet_ntv2.cli.main import main; main(sys.argv[1:])",
)
TOOLS = ("bash", "cat", "dirname", "ls", "mkdir", "mv", "rm", "sleep")


def run(command: list, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command without the variables that could give it an environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HNET_NTV2_", "COV_", "PYTEST_"))}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept | variables, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def bare_path(tmp_path) -> Path:
    """A PATH that has a few tools and no Python."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if found is None:
            pytest.skip(f"{tool} is not on this machine")
        (folder / tool).symlink_to(found)
    if flock := shutil.which("flock"):
        (folder / "flock").symlink_to(flock)
    return folder


@pytest.fixture
def lone_python(bare_path) -> Path:
    """A PATH that has a few tools and a Python without any package."""
    executable(bare_path / "python3", f'exec "{sys.executable}" -S "$@"\n')
    return bare_path


def executable(path: Path, text: str) -> Path:
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)
    return path


# Options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--foo"], "unknown option '--foo'"),
        (["--max-step", "3"], "unknown option '--max-step'"),
        (["--demo", "-x"], "unknown option '-x'"),
        (["--max-steps"], "--max-steps needs a value"),
        (["--data", "--demo"], "--data needs a value"),
        (["--data", "--", "trainer.max_steps=2"], "--data needs a value"),
        (["--max-steps", "many"], "--max-steps takes a whole number of at least 1, not 'many'"),
        (["--max-steps=0"], "--max-steps takes a whole number of at least 1, not '0'"),
        (["--batch-size", "2.5"], "--batch-size takes a whole number of at least 1, not '2.5'"),
        (["--devices", "-1"], "--devices takes a whole number of at least 1, not '-1'"),
        (["--learning-rate", "fast"], "--learning-rate takes a positive number, not 'fast'"),
        (["--precision", "8"], "--precision takes 16, bf16 or 32, not '8'"),
        (["--output-dir="], "--output-dir needs a value"),
        (["--demo=yes"], "--demo takes no value"),
        (["model.n_head=4"], "unexpected argument 'model.n_head=4'; Hydra overrides come after --"),
        (["--demo", "--", "--max-steps"], "after -- come Hydra overrides"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_named_before_an_environment_is_made(arguments, message, tmp_path, lone_python):
    result = run([RUN, *arguments], cwd=tmp_path, PATH=str(lone_python), HNET_NTV2_VENV=str(tmp_path / "venv"))
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "--help" in result.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_needs_no_environment(flag, tmp_path, lone_python):
    started = time.monotonic()
    result = run([RUN, "--demo", flag], cwd=tmp_path, PATH=str(lone_python), HNET_NTV2_VENV=str(tmp_path / "venv"))
    assert result.returncode == 0, result.stderr
    for option in table_of_options():
        assert f"  {option} " in result.stdout
    assert not (tmp_path / "venv").exists()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("arguments", [[], ["--max-steps", "3"], ["--seq-length", "2048", "--", "model.n_head=4"]])
def test_without_data_it_says_what_is_needed(arguments, tmp_path, lone_python):
    result = run([RUN, *arguments], cwd=tmp_path, PATH=str(lone_python), HNET_NTV2_VENV=str(tmp_path / "venv"))
    assert result.returncode == 2
    for wanted in ("--data FASTA", "hg38", "GB", "human-sequences.bed", "nucleotide-transformer-v2-500m", "--demo"):
        assert wanted in result.stderr
    assert not (tmp_path / "venv").exists()


def table_of_options() -> set[str]:
    """The options of the script and of the command."""
    return set(OPTIONS)


# Environment


@pytest.fixture
def clone(tmp_path) -> Path:
    """What the environment needs of the repository, in a folder with a space in its name."""
    folder = tmp_path / "a clone"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(REPOSITORY / "scripts" / "_environment.sh", folder / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


@pytest.fixture
def fake_python(bare_path, tmp_path) -> Path:
    """A PATH with a python3 whose environments only write down what pip was asked to install."""
    inner = executable(
        tmp_path / "inner-python",
        'if [ "$1 $2" = "-m pip" ]; then\n  sleep 0.2\n'
        f'  echo "$PWD: $*" >>"{tmp_path}/pip.log"; exit "${{FAKE_PIP:-0}}"\nfi\n'
        f'exec "{sys.executable}" "$@"\n',
    )
    executable(
        bare_path / "python3",
        f'if [ "$1 $2 $3" = "-I -m venv" ]; then\n  rm -rf "$5"; mkdir -p "$5/bin"; echo >"$5/pyvenv.cfg"\n'
        f'  cat "{inner}" >"$5/bin/python"; /bin/chmod +x "$5/bin/python"; exit 0\nfi\nexec "{sys.executable}" "$@"\n',
    )
    return bare_path


def prepare(clone: Path, path: Path, extras: str = "run", cwd: Path | None = None, **variables: str):
    script = f'set -euo pipefail; . "{clone}/scripts/_environment.sh"; hnet_prepare {extras}; echo "got $HNET_PYTHON"'
    return run(["bash", "-c", script], cwd=cwd or clone.parent, PATH=str(path), **variables)


def installs(clone: Path) -> list[str]:
    log = clone.parent / "pip.log"
    return log.read_text().splitlines() if log.exists() else []


def test_environment_is_made_once(clone, fake_python):
    for _ in range(2):
        result = prepare(clone, fake_python)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == f"got {clone}/.venv/bin/python"
    assert len(installs(clone)) == 1
    assert installs(clone)[0].startswith(f"{clone}: ")
    assert installs(clone)[0].endswith("-c constraints.txt -e .")


def test_tests_need_more_and_keep_it(clone, fake_python):
    for extras in ("run", "dev", "run", "dev"):
        assert prepare(clone, fake_python, extras).returncode == 0
    assert [line.rsplit(" ", 1)[1] for line in installs(clone)] == [".", ".[dev]"]


def test_changed_pins_are_installed(clone, fake_python):
    prepare(clone, fake_python)
    with (clone / "constraints.txt").open("a") as file:
        file.write("numpy==2.0.0\n")
    prepare(clone, fake_python)
    assert len(installs(clone)) == 2


def test_failed_installation_is_taken_up_again(clone, fake_python):
    result = prepare(clone, fake_python, FAKE_PIP="1")
    assert result.returncode == 1
    assert "pip could not install the dependencies" in result.stderr
    assert prepare(clone, fake_python).returncode == 0
    assert len(installs(clone)) == 2


@pytest.mark.parametrize("damage", ["no python", "dead python", "nothing but folders"])
def test_half_made_environment_is_repaired(damage, clone, fake_python):
    prepare(clone, fake_python)
    python = clone / ".venv" / "bin" / "python"
    python.unlink()
    if damage == "dead python":
        executable(python, "exit 127\n")
    elif damage == "nothing but folders":
        (clone / ".venv" / "pyvenv.cfg").unlink()
    result = prepare(clone, fake_python)
    assert result.returncode == 0, result.stderr
    assert "repairing" in result.stderr
    assert len(installs(clone)) == 2


@pytest.mark.skipif(shutil.which("flock") is None, reason="no flock on this machine")
def test_two_at_once_install_once(clone, fake_python):
    script = f'. "{clone}/scripts/_environment.sh"; hnet_prepare run'
    both = [
        subprocess.Popen(["bash", "-c", script], env={"PATH": str(fake_python)}, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert len(installs(clone)) == 1


def test_folder_that_is_no_environment_is_left_alone(clone, fake_python):
    place = clone.parent / "precious"
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")
    result = prepare(clone, fake_python, HNET_NTV2_VENV=str(place))
    assert result.returncode == 1
    assert "is not a Python environment" in result.stderr
    assert (place / "thesis.txt").read_text() == "years of work"


def test_environment_elsewhere_relative_to_the_caller(clone, fake_python):
    elsewhere = clone.parent / "else where"
    elsewhere.mkdir()
    result = prepare(clone, fake_python, cwd=elsewhere, HNET_NTV2_VENV="my env")
    assert result.stdout.strip() == f"got {elsewhere}/my env/bin/python", result.stderr


def find_python(path: Path) -> subprocess.CompletedProcess[str]:
    script = f'set -euo pipefail; . "{REPOSITORY}/scripts/_environment.sh"; hnet_find_python'
    return run(["bash", "-c", script], PATH=str(path))


def test_python_that_only_prints_an_error_is_passed_over(bare_path):
    executable(bare_path / "python3.12", 'echo "python3.12: command not found" >&2; exit 127\n')
    executable(bare_path / "python3.13", "echo 2.7\n")
    executable(bare_path / "python3.11", "echo hello\n")
    good = executable(bare_path / "python3", f'exec "{sys.executable}" "$@"\n')
    result = find_python(bare_path)
    assert result.returncode == 0
    assert result.stdout.strip() == str(good)


def test_broken_name_may_have_a_working_one_behind_it(bare_path, tmp_path):
    shims = tmp_path / "shims"
    shims.mkdir()
    executable(shims / "python3", "exit 127\n")
    good = executable(bare_path / "python3", f'exec "{sys.executable}" "$@"\n')
    script = f'. "{REPOSITORY}/scripts/_environment.sh"; hnet_find_python'
    assert run(["bash", "-c", script], PATH=f"{shims}:{bare_path}").stdout.strip() == str(good)


def test_missing_venv_module_is_named_with_its_package(bare_path):
    executable(bare_path / "python3", f'case "$*" in *ensurepip*) exit 1 ;; esac\nexec "{sys.executable}" "$@"\n')
    result = find_python(bare_path)
    assert result.returncode == 1
    assert f"install python3.{sys.version_info.minor}-venv" in result.stderr


def test_no_python_at_all(bare_path):
    executable(bare_path / "python3", "exit 1\n")
    result = find_python(bare_path)
    assert result.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 that runs was found" in result.stderr
    assert str(bare_path / "python3") in result.stderr


def test_given_python_must_run_and_know_this_clone(tmp_path):
    dead = executable(tmp_path / "dead", "exit 127\n")
    result = run([RUN, "--demo"], cwd=tmp_path, HNET_NTV2_PYTHON=str(dead))
    assert result.returncode == 1
    assert "does not run, or is not Python 3.11 to 3.13" in result.stderr
    stranger = executable(tmp_path / "stranger", f'exec "{sys.executable}" -I -S "$@"\n')
    result = run([RUN, "--demo"], cwd=tmp_path, HNET_NTV2_PYTHON=str(stranger))
    assert result.returncode == 1
    assert "pip install -e" in result.stderr


# The other scripts and the command


def test_command_and_script_have_the_same_options(tmp_path, lone_python):
    of_script = run([RUN, "--help"], PATH=str(lone_python), HNET_NTV2_VENV=str(tmp_path / "venv"))
    of_command = run([*COMMAND, "pretrain", "--help"], PYTHONPATH=str(REPOSITORY))
    assert of_command.returncode == 0, of_command.stderr
    assert of_script.stdout == of_command.stdout
    assert set(re.findall(r"^  (--[a-z-]+) ", of_command.stdout, re.MULTILINE)) == table_of_options()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--random-trunk", "--layers", "auto"], "--layers auto and --random-trunk contradict each other"),
        (["--random-trunk", "--save-model"], "--save-model needs --output-dir"),
        (["--random-trunk", "--seed", "x"], "Invalid value for '--seed'"),
        (["--ntv2", "weights"], "No such option"),
    ],
)
def test_init_script_takes_the_options_of_the_verb(arguments, message, tmp_path):
    result = run([sys.executable, INIT, *arguments], cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())


def test_command_answers_at_once_and_imports_nothing_heavy():
    program = (
        "import sys, time; sys.argv[0] = 'hnet-ntv2'; started = time.monotonic()\n"
        "from hnet_ntv2.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'lightning', 'transformers', 'hydra', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert time.monotonic() - started < 2\n"
    )
    result = run([sys.executable, "-c", program], PYTHONPATH=str(REPOSITORY))
    assert result.returncode == 0, result.stderr
    for verb in ("init", "pretrain", "repeats"):
        assert re.search(rf"^  {verb}  ", result.stdout, re.MULTILINE)


def test_errors_of_the_user_have_no_traceback(tmp_path):
    result = run(
        [*COMMAND, "repeats", tmp_path / "no.out", tmp_path / "b.bed"],
        PYTHONPATH=str(REPOSITORY),
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "no.out" in result.stderr
    assert "Traceback" not in result.stderr


def test_repeats_are_converted_on_both_strands(tmp_path):
    header = "   SW   perc perc perc  query  position in query  matching repeat\n score   div. del. ins.\n\n"
    row = " 463 1.3 0.6 1.7 chr1 {begin} {end} (248945) {strand} L1 LINE/L1 1 463 (0) 1\n"
    (tmp_path / "a.out").write_text(
        header + row.format(begin=11, end=20, strand="+") + row.format(begin=31, end=40, strand="C")
    )
    result = run(
        [*COMMAND, "repeats", tmp_path / "a.out", tmp_path / "a.bed"],
        PYTHONPATH=str(REPOSITORY),
    )
    assert result.returncode == 0, result.stderr
    assert "2 repeats" in result.stdout
    rows = [line.split("\t") for line in (tmp_path / "a.bed").read_text().splitlines()]
    assert [(row[1], row[2], row[5]) for row in rows] == [("10", "20", "+"), ("30", "40", "-")]
