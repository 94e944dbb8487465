"""The old place of ``storage.appearing_file``, for the tracks and the table of variants until they move."""

from ..storage import appearing_file

__all__ = ["appearing_file"]
