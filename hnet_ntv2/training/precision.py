"""Choose the arithmetic that ``--precision`` stands for on the device at hand, and say which it is."""

import platform
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import ConfigError


class Precision(NamedTuple):
    """What runs: Lightning's name for it, and a sentence for the user."""

    lightning: str
    explanation: str

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Type of the matrix products, None for float32 throughout."""
        return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.lightning)


_ALIASES = {"16": "16", "16-mixed": "16", "bf16": "bf16", "bf16-mixed": "bf16", "32": "32", "32-true": "32"}


def resolve_precision(requested: str | int, device_type: str) -> Precision:
    """Resolve ``16`` (half, whichever kind the device is good at), ``bf16`` or ``32``.

    On CUDA 16 means bf16 where the hardware has it (emulation not counted), else fp16 with loss scaling. On a CPU 16
    and bf16 mean bf16 where its instructions exist, else float32: emulating them would only be slower.

    Raises:
        ConfigError: Any other value, or bf16 on a CUDA device without it.
    """
    wanted = _ALIASES.get(str(requested))
    if wanted is None:
        raise ConfigError(f"precision={requested!r} is none of 16, bf16, 32")
    if wanted == "32":
        return Precision("32-true", "float32, as asked for")
    if device_type == "cuda":
        return _on_cuda(wanted)
    if cpu_has_bf16():
        return Precision("bf16-mixed", f"bf16 mixed precision (precision={requested}; this CPU has bf16 instructions)")
    return Precision("32-true", f"float32 (precision={requested}, but this CPU has no bf16 instructions)")


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware (AVX-512 BF16, AMX, or the Arm extension)."""
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        supported = getattr(torch.cpu, probe, None)
        if supported is not None and supported():
            return True
    return "bf16" in _cpu_flags() or "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()


def _on_cuda(wanted: str) -> Precision:
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision("bf16-mixed", f"bf16 mixed precision (precision={wanted}; native on this GPU)")
    if wanted == "bf16":
        raise ConfigError(
            "precision=bf16: this GPU only emulates bf16, slowly; use --precision 16 (fp16 with loss scaling)"
        )
    return Precision("16-mixed", "fp16 mixed precision with loss scaling (precision=16; this GPU has no native bf16)")


def _cpu_flags() -> frozenset[str]:
    """Feature words of the first CPU on Linux; nothing elsewhere (Apple's CPUs run in float32)."""
    path = Path("/proc/cpuinfo")
    if platform.system() != "Linux" or not path.is_file():
        return frozenset()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, words = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return frozenset(words.split())
    return frozenset()
