"""Small models and sequences that many tests need."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.conversion.calibrate import calibrate_routers
from hnet_ntv2.levels import BoundaryReason, Level
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM

LETTER_IDS = {"M": 3, "P": 4, "A": 7, "C": 8, "G": 9, "T": 10, "N": 11, "U": 6, "S": 0}


def ids(*rows: str) -> torch.Tensor:
    """Character ids of rows over A C G T N, M = [MASK], S = [CLS], U = [UNK]; shorter rows are padded on the right."""
    length = max(len(row) for row in rows)
    return torch.tensor([[LETTER_IDS[letter] for letter in row.ljust(length, "P")] for row in rows])


def valid(input_ids: torch.Tensor) -> torch.Tensor:
    return input_ids != 4


def random_dna(length: int, generator: torch.Generator, batch: int = 1) -> torch.Tensor:
    return torch.randint(7, 11, (batch, length), generator=generator)


def tiny_config(**changes) -> HNetNTV2Config:
    settings = {
        "d_model": 32,
        "n_head": 2,
        "intermediate_size": 64,
        "n_main_layer": 2,
        "kmer_size": 4,
        "window": 16,
        "layer_norm_eps": 1e-5,
    }
    return HNetNTV2Config(**(settings | changes))


def tiny_model(seed: int = 0, spread: float = 0.0, **changes) -> HNetNTV2ForMaskedLM:
    """A small random model in eval mode; ``spread`` > 0 replaces every zero-initialised matrix by random ones."""
    torch.manual_seed(seed)
    model = HNetNTV2ForMaskedLM(tiny_config(**changes)).eval()
    if spread:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=spread)
    return model


def lively_model(seed: int = 0, **changes) -> HNetNTV2ForMaskedLM:
    """A small random model whose two strands disagree and whose routers cut at about the rates of a trained one."""
    model = tiny_model(seed, spread=0.05, **changes)
    calibrate_routers(model.model, [random_dna(400, torch.Generator().manual_seed(seed), batch=2)])
    return model


def random_letters(length: int, seed: int, letters: str = "ACGT") -> str:
    generator = torch.Generator().manual_seed(seed)
    return "".join(letters[index] for index in torch.randint(len(letters), (length,), generator=generator).tolist())


def level_of(is_valid, forced_boundary, forced_reason, first_base=None, num_bases=None, hidden=None) -> Level:
    """A level with one stage of forced decisions; without ``hidden`` it has vectors of no width."""
    batch, length = is_valid.shape
    return Level(
        hidden=torch.zeros(batch, length, 0) if hidden is None else hidden,
        is_valid=is_valid,
        first_base=torch.arange(length).expand(batch, length) if first_base is None else first_base,
        num_bases=is_valid.sum(1) if num_bases is None else num_bases,
        is_masked=torch.zeros_like(is_valid),
        is_clear=torch.ones_like(is_valid),
        forced_boundary=forced_boundary[..., None],
        forced_reason=forced_reason[..., None],
    )


def free_level(is_valid, hidden=None) -> Level:
    """A level on which nothing but the row start is forced."""
    reason = torch.zeros(is_valid.shape, dtype=torch.int8)
    reason[:, 0] = BoundaryReason.ROW_START
    return level_of(is_valid, reason == BoundaryReason.ROW_START, reason, hidden=hidden)


def finish_packaged_run(work: Path) -> None:
    """A run of the packaged model in an experiment's folder: without training it is done once its result is there."""
    run = work / "runs" / "packaged" / "seed1"
    run.mkdir(parents=True)
    (run / "result.json").write_text("{}", encoding="utf-8")


@contextmanager
def piped(content: bytes) -> Iterator[str]:
    """The path of a pipe that gives ``content``, a few bytes first, as bash's ``<(...)`` makes one."""
    reader, writer = os.pipe()

    def write() -> None:
        try:
            with os.fdopen(writer, "wb", buffering=0) as file:
                file.write(content[:2])
                file.write(content[2:])
        except BrokenPipeError:
            pass  # the reader had enough

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield f"/dev/fd/{reader}"
    finally:
        os.close(reader)
        thread.join()
