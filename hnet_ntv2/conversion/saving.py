"""Write a start to its folder: model, tokenizer, ledger, the ledger as a table, and the model card."""

import logging
import os
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import ConfigError, WeightsError
from ..storage import appearing_folder
from ..tokenization_hnet_ntv2 import HNetNTV2Tokenizer
from . import UNTRAINED
from .graft import Start
from .ledger import KINDS, LEDGER_FILE, TABLE_FILE, Ledger, verify

logger = logging.getLogger(__name__)

LICENSE_TITLE = "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 (CC BY-NC-SA 4.0)"


def require_empty(folder: Path) -> None:
    """Check that the output folder is empty or absent.

    Raises:
        ConfigError: It is not.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--output-dir {folder} exists and is not an empty folder; name another one")


def save_start(start: Start, folder: str | os.PathLike[str]) -> None:
    """Save a start; the folder takes its name only after the files in it were read again and verified.

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
        try:
            verify(partial)  # reads the bytes that were written, not the tensors in memory
        except WeightsError as error:
            raise WeightsError(f"the saved model could not be verified: {error}") from error
    logger.info("every tensor verified from the saved files")


def render_summary(ledger: Ledger) -> str:
    """Source, kept blocks, parameters per part and boundary rates, as lines of text."""
    return "\n".join([*_source_lines(ledger), *_parameter_lines(ledger), *_calibration_lines(ledger.calibration)])


def render_table(ledger: Ledger) -> str:
    """The ledger as text: the summary, then one line per tensor of the source and of the model."""
    lines = [render_summary(ledger), "", "Source tensors"]
    for entry in ledger.source_tensors:
        place = f"-> {entry.target}" if entry.target else f"left: {entry.reason}"
        lines.append(f"  {entry.name:<60} {_shape(entry.shape):<14} {entry.sha256[:12]}  {place}")
    lines += ["", "Model tensors"]
    for entry in ledger.model_tensors:
        origin = f"{entry.kind} <- {entry.source}" if entry.source else entry.kind
        lines.append(f"  {entry.name:<66} {_shape(entry.shape):<14} {entry.sha256[:12]}  {origin}")
    return "\n".join(lines) + "\n"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _source_lines(ledger: Ledger) -> list[str]:
    if ledger.source is None or ledger.layers is None:
        return [f"No source: all weights are random (seed {ledger.seed})"]
    source, layers = ledger.source, ledger.layers
    lines = [
        f"Source: {_origin(source)}, {source['num_hidden_layers']} blocks, {source['kmer_size']}-mers",
        f"Kept blocks ({layers['method']}): {', '.join(map(str, layers['kept']))}",
        "Angular distance between input and output of each block (0 same direction, 0.5 orthogonal):",
    ]
    kept = set(layers["kept"])
    for entry in layers["similarities"]:
        mark = "" if entry["block"] in kept else "  dropped"
        lines.append(
            f"  block {entry['block']:>2}  {entry['angular_distance']:.4f}  (cosine {entry['cosine']:.4f}){mark}"
        )
    # One line for all blocks that were not chosen: each one's reason has its own number.
    left = Counter(
        "of a block that was not chosen" if entry.reason.startswith("block ") else entry.reason
        for entry in ledger.source_tensors
        if entry.target is None
    )
    copied = len(ledger.source_tensors) - left.total()
    lines.append(f"{copied} of {len(ledger.source_tensors)} source tensors copied; left:")
    lines += [f"  {count:>4}  {reason}" for reason, count in left.items()]
    return lines


def _origin(source: dict[str, Any]) -> str:
    return f"{source['name']}, revision {source['revision'] or 'unknown (a local folder)'}"


def _parameter_lines(ledger: Ledger) -> list[str]:
    parts = ledger.parameters_per_part()
    kinds = [kind for kind in KINDS if any(kind in counts for counts in parts.values())]
    lines = [f"{'Parameters':<22}{'total':>14}" + "".join(f"{kind:>14}" for kind in kinds)]
    total = {kind: sum(counts.get(kind, 0) for counts in parts.values()) for kind in ("total", *kinds)}
    for part, counts in [*parts.items(), ("total", total)]:
        values = "".join(f"{counts.get(kind, 0):>14,}" for kind in ("total", *kinds))
        lines.append(f"  {part:<20}{values}")
    return lines


def _calibration_lines(calibration: dict[str, Any]) -> list[str]:
    lines = [
        f"Offsets (where the chunker has them) calibrated on {calibration['windows']} windows of "
        f"{calibration['length']:,} bases of {calibration['sequence']}; on as many held-out windows, anchors off:"
    ]
    for stage, target in enumerate(calibration["targets"]):
        free, masked = calibration["held_out"], calibration["held_out_masked"]
        lines.append(
            f"  stage {stage + 1}: target {target:.2f}, offset {calibration['offsets'][stage]:+.4f}; router "
            f"{free['router'][stage]:.3f} without masks, {masked['router'][stage]:.3f} with; chunks per position "
            f"{free['achieved'][stage]:.3f} and {masked['achieved'][stage]:.3f}"
        )
    return lines


def render_card(ledger: Ledger) -> str:
    """The model card in Markdown: front matter for the Hub, origin and licence of the weights, and the summary."""
    if ledger.source is not None:
        return _grafted_card(ledger, ledger.source)
    text = f"Randomly initialised HNet-NTv2 without weights of any other model. {UNTRAINED}"
    front = "license: apache-2.0"
    return _CARD.format(front=front, title="HNet-NTv2, random", text=text, summary=render_summary(ledger))


_CARD = """\
---
{front}
library_name: transformers
pipeline_tag: fill-mask
tags:
- dna
- genomics
- hnet-ntv2
---
# {title}

{text}

## How it came to be

```text
{summary}
```

`ntv2_graft.json` lists every tensor with its origin and SHA-256; `ntv2_graft.txt` is the same as a table.
"""

_GRAFT_TEXT = """\
HNet-NTv2, a DNA language model that reads single nucleotides, cuts them into learned chunks, and runs blocks of the
Nucleotide Transformer v2 on the chunks. {untrained} At the start, on the forced grid of whole
k-mers, its trunk computes what the source's kept blocks compute.

## Licence and attribution

{licence}

- Source: {origin}
- Attribution: the Nucleotide Transformer by InstaDeep, NVIDIA and TUM; Dalla-Torre et al., "Nucleotide Transformer:
  building and evaluating robust foundation models for human genomics", Nature Methods (2024).
- Changes: blocks {layers} of {num_blocks} were kept; everything around them was added (see below)."""


def _grafted_card(ledger: Ledger, source: dict[str, Any]) -> str:
    assert ledger.layers is not None
    # base_model must be a name on the Hub.
    front = "license: cc-by-nc-sa-4.0" + ("" if source["is_local"] else f"\nbase_model: {source['name']}")
    holds = "It holds weights of the Nucleotide Transformer v2, published by InstaDeep."
    if source["is_local"]:
        holds = (
            f"It holds weights from a local folder ({source['name']}), taken to be the Nucleotide Transformer v2 as "
            "published by InstaDeep."
        )
    licence = (
        f"{holds} They are licensed {LICENSE_TITLE}: attribution, no commercial use, and the same licence for whatever "
        "is made from them. This model and every model trained from it inherit that licence, whatever the licence of "
        "the code is."
    )
    text = _GRAFT_TEXT.format(
        untrained=UNTRAINED,
        licence=textwrap.fill(licence, 120),
        origin=_origin(source),
        layers=", ".join(map(str, ledger.layers["kept"])),
        num_blocks=source["num_hidden_layers"],
    )
    return _CARD.format(front=front, title="HNet-NTv2, grafted", text=text, summary=render_summary(ledger))
