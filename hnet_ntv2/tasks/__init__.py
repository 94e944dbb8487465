"""Labelled sequences: tables, labels, and the benchmark suites of the field."""

from .labels import check_same_labels, encode_labels, label_scheme, scheme_from_config
from .reading import read_table
from .splits import check_splits, load_tables
from .suites import Task, open_suite
from .table import LabelKind, LabelScheme, Split, Table, TaskData

__all__ = [
    "LabelKind",
    "LabelScheme",
    "Split",
    "Table",
    "Task",
    "TaskData",
    "check_same_labels",
    "check_splits",
    "encode_labels",
    "label_scheme",
    "load_tables",
    "open_suite",
    "read_table",
    "scheme_from_config",
]
