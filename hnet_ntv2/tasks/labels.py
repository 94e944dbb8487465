"""What the labels of a task mean, and the labels of a table as numbers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, shown
from .table import LabelKind, LabelScheme, Table

KINDS = ("auto", *get_args(LabelKind))
PROBLEM_TYPES: dict[LabelKind, str] = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
"""transformers' name of each kind in a model's config."""
VALUE = "value"
"""Name of the only column of a regression."""
_MOST_CLASSES = 100
# Digits that a float holds exactly; "1.0" is how pandas writes a class beside a missing one.
_WHOLE = re.compile(r"([+-]?[0-9]{1,15})(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


def label_scheme(tables: Sequence[Table], kind: str = "auto") -> LabelScheme:
    """What the labels of tables mean; the first table, the one to train on, says which classes there are.

    ``auto`` takes several label columns of 0 and 1, or ``;`` in a label, as multilabel; numbers of which one is not
    whole, and several columns of them, as regression; whole numbers, in their order, and texts, in the alphabet's, as
    classes.

    Args:
        tables: Train first, then those that must agree with it.
        kind: auto, classification, multilabel or regression.

    Raises:
        ConfigError: The kind is unknown.
        DataError: Labels are missing, do not fit the kind, have one value only, or occur outside the first table only.
    """
    if kind not in KINDS:
        raise ConfigError(f"the kind of task is {kind!r}; use {', '.join(KINDS)}")
    for table in tables:
        if table.label_columns != tables[0].label_columns:
            raise DataError(
                f"{tables[0].source} and {table.source} have labels in different columns, {tables[0].label_columns} "
                f"and {table.label_columns}; both need the same"
            )
    found: Any = _kind_of(tables) if kind == "auto" else kind
    scheme = LabelScheme(found, _names(tables[0], found))
    for table in tables:
        encode_labels(table, scheme)
    _check_varied(tables[0], scheme)
    if kind == "auto" and found == "classification" and len(scheme.names) > _MOST_CLASSES:
        raise DataError(
            f"{tables[0].source} has {len(scheme.names):,} different labels, such as {scheme.names[0]!r}: say whether "
            "they are classes or numbers, with --task classification or --task regression"
        )
    return scheme


def encode_labels(table: Table, scheme: LabelScheme) -> NDArray:
    """Labels as int64 [rows] class indices, float32 [rows, labels] of 0 and 1, or float32 [rows, columns] of numbers.

    Raises:
        DataError: A label does not belong to the scheme; the message names its row.
    """
    labels = _texts(table)
    if scheme.kind == "classification":
        return _class_indices(table, labels, scheme.names)
    if scheme.kind == "multilabel" and table.label_columns is None:
        return _memberships(table, labels, scheme.names)
    values = np.array(
        [_numbers(place, text, len(scheme.names)) for place, text in zip(table.places, labels, strict=True)],
        dtype=np.float64,
    )
    with np.errstate(over="ignore"):  # told below
        targets = values.astype(np.float32)
    is_bad = ~np.isfinite(targets) if scheme.kind == "regression" else ~np.isin(targets, (0, 1))
    if is_bad.any():
        row = int(np.argmax(is_bad.any(1)))
        wanted = "a finite number" if scheme.kind == "regression" else "0 or 1 in each label column"
        raise DataError(f"{table.places[row]}: the label is {shown(labels[row])}; it must be {wanted}")
    return targets


def scheme_from_config(config: Mapping[str, Any] | Any) -> LabelScheme:
    """What the outputs of a fine-tuned model mean, as its config says (a transformers config, or its dictionary).

    Raises:
        ConfigError: It has no label names, or a problem type that is unknown.
    """
    values = config if isinstance(config, Mapping) else config.to_dict()
    names = {int(index): str(name) for index, name in (values.get("id2label") or {}).items()}
    if sorted(names) != list(range(len(names))) or not names:
        raise ConfigError(f"id2label of the model's config is {values.get('id2label')!r}; it must name each output")
    # As transformers reads a config without a problem type.
    problem = values.get("problem_type") or PROBLEM_TYPES["regression" if len(names) == 1 else "classification"]
    kinds: dict[str, LabelKind] = {problem_type: kind for kind, problem_type in PROBLEM_TYPES.items()}
    if problem not in kinds:
        raise ConfigError(f"problem_type of the model's config is {problem!r}; use {', '.join(kinds)}")
    return LabelScheme(kinds[problem], tuple(names[index] for index in range(len(names))))


def check_same_labels(table: Table, scheme: LabelScheme, folder: str) -> None:
    """Check that the labels of a table are among those of a model.

    Args:
        table: With labels.
        scheme: Of the model, as ``scheme_from_config``.
        folder: The model's, for the message.

    Raises:
        DataError: They are not, with both lists.
    """
    try:
        encode_labels(table, scheme)
    except DataError as error:
        own = sorted(set(_texts(table)), key=_class_order)
        raise DataError(
            f"{error}. The labels of {table.source} are {_listed(own)}; {folder} was trained for {scheme.kind} with "
            f"{_listed(scheme.names)}: give a table with its labels, or fine-tune on this one"
        ) from None


def count_missing_labels(table: Table, scheme: LabelScheme) -> str | None:
    """A warning that counts the classes or labels without a row in the table; None where each has one."""
    if scheme.kind == "regression":
        return None
    targets = encode_labels(table, scheme)
    counts = np.bincount(targets, minlength=len(scheme.names)) if targets.ndim == 1 else targets.sum(0)
    missing = [name for name, count in zip(scheme.names, counts, strict=True) if not count]
    if not missing:
        return None
    return f"{table.source} lacks {len(missing)} of {len(scheme.names)} labels: {_listed(missing)}"


def _texts(table: Table) -> tuple[str, ...]:
    if table.labels is None:
        raise DataError(f"{table.source} has no labels; name their column with --label-column")
    for place, text in zip(table.places, table.labels, strict=True):
        if not text:
            raise DataError(f"{place}: the label is empty; remove the row or fill it in")
    return table.labels


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more


def _kind_of(tables: Sequence[Table]) -> LabelKind:
    rows = [row for table in tables for row in zip(table.places, _texts(table), strict=True)]
    if tables[0].label_columns is not None:
        is_binary = all(_class_name(value) in ("0", "1") for _, text in rows for value in text.split(","))
        return "multilabel" if is_binary else "regression"
    if any(";" in text for _, text in rows):
        return "multilabel"
    numbers = [row for row in rows if _NUMBER.fullmatch(row[1])]
    names = [row for row in rows if not _NUMBER.fullmatch(row[1])]
    if numbers and names:
        (name_place, name), (number_place, number) = names[0], numbers[0]
        raise DataError(
            f"{name_place}: the label is the text {shown(name)}, but the number {number} in {number_place}; mend the "
            "rows, or say --task classification if both are classes"
        )
    return "classification" if names or all(_WHOLE.fullmatch(text) for _, text in numbers) else "regression"


def _names(table: Table, kind: LabelKind) -> tuple[str, ...]:
    if kind == "classification" and table.label_columns is not None:
        raise DataError(f"{table.source}: classification takes one label column, not {len(table.label_columns)}")
    if kind != "classification" and table.label_columns is not None:
        return table.label_columns
    if kind == "regression":
        return (VALUE,)
    labels = _texts(table)
    names = set(map(_class_name, labels)) if kind == "classification" else {n for t in labels for n in _members(t)}
    for place, text in zip(table.places, labels, strict=True):
        if kind == "classification" and _NUMBER.fullmatch(text) and not _WHOLE.fullmatch(text):
            raise DataError(f"{place}: the label {text} is no class; say --task regression, or use whole numbers")
    return tuple(sorted(names, key=_class_order))


def _class_name(text: str) -> str:
    """The text, a whole number without its point: ``1.0`` and ``1`` are one class."""
    match = _WHOLE.fullmatch(text)
    return match[1] if match else text


def _class_order(text: str) -> tuple[float, str]:
    """Whole numbers in their order, then texts in the alphabet's."""
    return (float(text) if _WHOLE.fullmatch(text) else np.inf, text)


def _members(text: str) -> list[str]:
    """The labels that stand in one field; a lone ``;`` holds none."""
    return [name.strip() for name in text.split(";") if name.strip()]


def _check_varied(table: Table, scheme: LabelScheme) -> None:
    targets = encode_labels(table, scheme)
    is_varied = bool((targets != targets[0]).any())
    if not is_varied:
        raise DataError(f"{table.source}: all labels are {shown(_texts(table)[0])}; there is nothing to learn")


def _class_indices(table: Table, labels: Iterable[str], names: Sequence[str]) -> NDArray[np.int64]:
    index = {name: place for place, name in enumerate(names)}
    found = [index.get(text, index.get(_class_name(text), -1)) for text in labels]
    if -1 in found:
        _refuse_unknown(table, found.index(-1), _texts(table)[found.index(-1)], names)
    return np.array(found, dtype=np.int64)


def _memberships(table: Table, labels: Iterable[str], names: Sequence[str]) -> NDArray[np.float32]:
    index = {name: place for place, name in enumerate(names)}
    targets = np.zeros((len(table), len(names)), dtype=np.float32)
    for row, text in enumerate(labels):
        for name in _members(text):
            if name not in index:
                _refuse_unknown(table, row, name, names)
            targets[row, index[name]] = 1
    return targets


def _refuse_unknown(table: Table, row: int, name: str, names: Sequence[str]) -> None:
    raise DataError(
        f"{table.places[row]}: the label {shown(name)} is none of those to learn, {_listed(names)}; mend it, or train "
        "on rows that have it"
    )


def _numbers(place: str, text: str, count: int) -> list[float]:
    values = text.split(",") if count > 1 else [text]
    if len(values) != count or not all(_NUMBER.fullmatch(value) for value in values):
        wanted = "a number" if count == 1 else f"{count} numbers"
        raise DataError(f"{place}: the label is {shown(text)}, not {wanted}; mend it, or say --task classification")
    return [float(value) for value in values]
