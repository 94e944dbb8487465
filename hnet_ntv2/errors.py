"""Every error a user of this package can cause. Each message names the value, the place and the way out."""

_MOST_SHOWN = 60


def escaped(text: str) -> str:
    """The text with control characters written out: a terminal could obey those in a name from a file."""
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


def shown(value: str) -> str:
    """A value from a file in quotes, for a message: escaped, and cut where it is long."""
    if len(value) <= _MOST_SHOWN:
        return repr(value)
    return f"{value[:_MOST_SHOWN]!r}... ({len(value):,} characters)"


class HNetNTV2Error(Exception):
    """Base class: the command line prints these without a traceback and exits with status 2."""

    def __str__(self) -> str:
        return escaped(super().__str__())


class ConfigError(HNetNTV2Error, ValueError):
    """A setting that is unknown, of the wrong type, or in conflict with another one."""


class InputError(HNetNTV2Error, ValueError):
    """Model or tokenizer input that cannot be used (wrong shape, left padding, foreign ids)."""


class GenomeError(HNetNTV2Error, ValueError):
    """A sequence or annotation file that cannot be read as what it claims to be."""


class ContigNotFound(GenomeError, KeyError):  # noqa: N818
    """A contig name that the genome does not know."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return escaped(str(self.args[0])) if self.args else ""


class IntervalError(GenomeError):
    """An interval that is malformed, reversed, or lies outside its contig."""


class DataError(HNetNTV2Error, ValueError):
    """Training or evaluation data from which nothing can be drawn."""


class WeightsError(HNetNTV2Error, ValueError):
    """Weights that are missing, superfluous, misshapen or in a format that is never loaded."""


class CheckpointError(HNetNTV2Error, RuntimeError):
    """A training checkpoint that is truncated, foreign, or does not fit the run that wants to resume it."""


class TrainingStopped(HNetNTV2Error, RuntimeError):  # noqa: N818
    """Training cannot go on (NaN loss, collapsed chunk ratio); the last state was saved first."""
