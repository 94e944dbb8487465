"""Every command of the READMEs, the how-tos and the tutorial runs, at a tiny size and on a tiny genome."""

import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hnet_ntv2.genome import encode
from hnet_ntv2.levels import BoundaryReason
from scripts.make_demo_data import write_twobit
from tests.builders import tiny_model
from tests.integration.test_scripts import table_of_options

REPOSITORY = Path(__file__).resolve().parents[2]
READMES = ("README.md", "scripts/README_hnet_ntv2.md")
HOW_TOS = tuple(sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("docs/how-to/*.md")))
TUTORIAL = "docs/tutorial.md"
USES = ("hnet-ntv2 embed", "hnet-ntv2 segment", "hnet-ntv2 variants")
DOCUMENTS = (
    *READMES,
    "CONTRIBUTING.md",
    *sorted(str(p.relative_to(REPOSITORY)) for p in REPOSITORY.glob("docs/**/*.md")),
)

TINY_MODEL = {"d_model": 32, "n_head": 2, "intermediate_size": 64, "n_main_layer": 1, "kmer_size": 4, "window": 16}
ENDS = ("GCGCGCGCGC,no\n", "TATAAATATA,yes\n")
TINY_RUN = (
    "trainer.accelerator=cpu trainer.max_steps=2 batch.global_size=4 batch.micro_batch_size=2 data.num_workers=0 "
    "data.seq_length=128 validation.windows=4 validation.every=2 callbacks.checkpoint_every=1 "
    "callbacks.progress_bar=false"
)
# What makes a documented command small: pattern -> replacement, applied to every command in this order.
SMALLER = {
    r"^(\./scripts/test\.sh tests/.*)$": r"\1 --collect-only -q",
    r"^\./scripts/test\.sh$": "./scripts/test.sh tests/unit/evaluation/test_context_counts.py --collect-only -q",
    r"--max-steps \d+": "--max-steps 2",
    r"--batch-size \d+": "--batch-size 4",
    r"micro_batch_size=\d+": "micro_batch_size=2",
    r"--seq-length \d+": "--seq-length 128",
    r"--devices \d+": "--devices 1",
    r"--num-nodes \d+": "--num-nodes 1",
    r"model=hnet_ntv2_fast": "model=hnet_ntv2_fast model.d_base=16",
    r"--random-trunk": "--random-trunk --config tiny_model.yaml",
    r"(init_hnet_ntv2_weights\.py) --save-model": r"\1 --ntv2-model ntv2_500m --save-model",
    r"(hnet-ntv2 init) --output-dir": r"\1 --ntv2-model ntv2_500m --output-dir",
    r"(hnet-ntv2 (?:embed|segment|variants)) ": r"\1 --model tiny_hnet ",
    r"(hnet-ntv2 finetune) ": r"\1 --model tiny_hnet --epochs 1 ",
    r"(hnet-ntv2 evaluate) ": r"\1 --models tiny_hnet --baselines majority --finetune epochs=1 --layers last ",
    r"warm_start\.teacher=\S+": "warm_start.teacher=ntv2_500m",
    r"(--resume)$": r"\1 -- trainer.max_steps=4 allow_changed_max_steps=true",
    r"\./\.venv/bin/python": f"'{sys.executable}'",
    r"\./\.venv/bin/hnet-ntv2": f"'{sys.executable}' -m hnet_ntv2.cli.main",
    r"(?:\./|(?<= ))scripts/(?=\w+\.(?:py|sh))": f"'{REPOSITORY}'/scripts/",
}


def blocks(document: str, language: str) -> list[str]:
    text = (REPOSITORY / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[str]:
    lines = "\n".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def smaller(command: str) -> str:
    for pattern, replacement in SMALLER.items():
        command = re.sub(pattern, replacement, command)
    if "run_pretrain" in command and "--help" not in command:
        model = "" if "--init" in command else " ".join(f"model.{name}={value}" for name, value in TINY_MODEL.items())
        own, _, overrides = command.partition(" -- ")
        # Later overrides win: what the command itself says of the sizes above is replaced, the rest is kept.
        given = {override.partition("=")[0] for override in overrides.split()}
        added = [each for each in f"{TINY_RUN} {model}".split() if each.partition("=")[0] not in given]
        command = " ".join([own, "--", *overrides.split(), *added])
    return command


@pytest.fixture
def workplace(tmp_path) -> Path:
    """The files that the documented commands name, tiny."""
    generator = np.random.default_rng(1)
    contigs = {"chr1": 30_000, "chr20": 5_000, "chr21": 5_000}
    bases = {name: "".join(generator.choice(list("ACGTacgt"), length)) for name, length in contigs.items()}
    fasta = "".join(f">{name}\n{sequence}\n" for name, sequence in bases.items())
    with gzip.open(tmp_path / "hg38.fa.gz", "wt") as file:
        file.write(fasta)
    write_twobit(tmp_path / "hg38.2bit", {name: encode(sequence.encode()) for name, sequence in bases.items()})
    (tmp_path / "human-sequences.bed").write_text(
        "chr1\t0\t30000\ttrain\nchr21\t0\t5000\tvalid\nchr20\t0\t5000\ttest\n"
    )
    with gzip.open(tmp_path / "hg38.fa.out.gz", "wt") as file:
        file.write("   SW   perc\nscore   div.\n\n 463 1.3 0.6 1.7 chr1 101 900 (1) C L1 LINE/L1 1 463 (0) 1\n")
    chr20 = generator.choice(np.frombuffer(b"ACGT", np.uint8), 8_400_000).tobytes()
    (tmp_path / "hg38.fa").write_bytes(b">chr20\n" + chr20 + b"\n")
    (tmp_path / "tiny_model.yaml").write_text("".join(f"{name}: {value}\n" for name, value in TINY_MODEL.items()))
    shutil.copytree(REPOSITORY / "tests" / "data" / "ntv2_tiny", tmp_path / "ntv2_500m")
    tiny_model().save_pretrained(tmp_path / "tiny_hnet")
    (tmp_path / "regions.bed").write_text("chr20\t1000\t1100\n20\t5000000\t5000200\n")
    first = chr20[:1].decode()
    with gzip.open(tmp_path / "variants.vcf.gz", "wt") as file:
        file.write(f"#CHROM\tPOS\tID\tREF\tALT\nchr20\t1\t.\t{first}\t{first}A,<DEL>\n")
    for name, rows in {"train": 48, "dev": 16, "test": 16}.items():
        text = "".join("".join(generator.choice(list("ACGT"), 40)) + ENDS[row % 2] for row in range(rows))
        for folder in ("", "tasks/motif", "GUE/prom/prom_core_tata"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f"{name}.csv").write_text(f"sequence,label\n{text}")
    for yaml in blocks("scripts/README_hnet_ntv2.md", "yaml"):
        (tmp_path / "my_experiment.yaml").write_text(yaml)
    return tmp_path


def environment(workplace: Path) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HNET_NTV2_", "PYTEST_", "WANDB_"))
    }
    return kept | {
        "HNET_NTV2_PYTHON": sys.executable,
        "HNET_NTV2_CACHE": str(workplace / "cache"),
        "PYTHONPATH": str(REPOSITORY),
        "WANDB_MODE": "offline",
        "HOME": str(workplace),
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.slow
@pytest.mark.parametrize("document", [*READMES, "docs/index.md", *HOW_TOS])
def test_every_command_runs(document, workplace):
    run_commands(workplace, commands(document))
    for program in blocks(document, "python"):
        run_in(workplace, [sys.executable, "-c", program])


@pytest.mark.parametrize("document", [*READMES, *HOW_TOS, TUTORIAL])
def test_commands_use_options_that_exist(document):
    options = table_of_options()
    found = commands(document)
    assert found
    for command in found:
        if "run_pretrain" in command:
            own = command.partition(" -- ")[0]
            assert set(re.findall(r"--[a-z][a-z-]*", own)) <= set(options), command


@pytest.mark.slow
def test_programs_of_the_tutorial_run_after_the_uses_of_a_model(workplace):
    """What the README promises of a trained model, and the tutorial's commands and Python after it."""
    uses = [command for command in commands("README.md") if any(use in command for use in USES)]
    assert len(uses) == 3
    run_commands(workplace, [*uses, *commands(TUTORIAL)])
    programs = blocks(TUTORIAL, "python")
    assert len(programs) == 2
    for program in programs:
        run_in(workplace, [sys.executable, "-c", program.replace("load_model()", 'load_model("tiny_hnet")')])


def run_commands(workplace: Path, found: list[str]) -> None:
    for command in found:
        run_in(workplace, ["bash", "-c", smaller(command)])
        if match := re.search(r"run_pretrain.*--output-dir (\S+)", command):
            assert (workplace / match.group(1) / "checkpoints" / "hf" / "config.json").is_file(), command


def run_in(workplace: Path, command: list[str]) -> None:
    result = subprocess.run(command, cwd=workplace, env=environment(workplace), capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


def test_table_has_every_option():
    rows = re.findall(r"^\| `(--[a-z-]+)` \|", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(table_of_options())


def test_every_decision_is_in_the_list():
    folder = REPOSITORY / "docs" / "decisions"
    listed = re.findall(r"^\| \[\d{4}\]\((.+?)\) \|", (folder / "README.md").read_text(), re.MULTILINE)
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))


def test_every_file_of_the_tour_exists():
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    match = re.search(r"^## The path of a base\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert match is not None
    files = re.findall(r"`([\w/]+(?:\.py|/))`", match.group(1))
    assert len(set(files)) > 30
    assert [name for name in files if not (REPOSITORY / "hnet_ntv2" / name.removeprefix("hnet_ntv2/")).exists()] == []


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_python_file_that_is_named_exists(document):
    text = (REPOSITORY / document).read_text()
    names = {name.split("/")[-1] for name in re.findall(r"`([\w/]+\.py)`", text)}
    found = {path.name for folder in ("hnet_ntv2", "scripts", "tests") for path in (REPOSITORY / folder).rglob("*.py")}
    assert names - found == set()


def test_glossary_has_every_reason_of_a_boundary():
    text = (REPOSITORY / "docs" / "glossary.md").read_text()
    words = [word.strip() for row in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE) for word in row.split(",")]
    assert len(words) == len(set(words)) + words.count("word") - 1
    missing = {reason.name.lower().replace("_", " ") for reason in BoundaryReason} - {"mask", *words}
    assert not missing  # of a mask it is "protection"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    path = REPOSITORY / document
    for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", path.read_text()):
        if target.startswith("http"):
            continue
        found = path.parent / target if target else path
        assert found.exists(), f"{document} links to {target}"
        assert not heading or heading in headings(found), f"{document} links to {target}#{heading}"


def headings(path: Path) -> set[str]:
    """The names under which the headings of a page can be linked to."""
    lines = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}
