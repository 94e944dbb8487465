"""Check what a user passes to ``forward``: ids, padding, labels, keywords."""

from collections.abc import Mapping
from typing import Any

from .configuration_hnet_ntv2 import HNetNTV2Config
from .errors import InputError
from .shapes import Bool, Int, Tensor
from .vocabulary import FIRST_BASE, LAST_BASE

# Keywords that scripts for other models pass, and that say nothing here: the model is no decoder, sequence pairs are
# refused by the tokenizer, and the loss does not depend on the number of micro-batches.
_WITHOUT_EFFECT = frozenset(["encoder_attention_mask", "token_type_ids", "use_cache", "num_items_in_batch"])


def refuse_unknown_keywords(keywords: Mapping[str, Any]) -> None:
    """Stop at a keyword that ``forward`` does not know, unless it has no effect or is None or False.

    Raises:
        InputError: With the first name that would be expected to do something.
    """
    for name, value in keywords.items():
        # PEFT passes None or False for many keywords.
        if name not in _WITHOUT_EFFECT and value is not None and value is not False:
            raise InputError(f"forward() has no argument {name!r}; leave it out, or pass None")


def check_input(
    input_ids: Tensor, attention_mask: Tensor | None, config: HNetNTV2Config
) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """The ids as int64, and which positions are valid.

    Args:
        input_ids: Character ids of any integer type.
        attention_mask: Non-zero at valid positions; None takes all but padding ids.
        config: Of the model.

    Raises:
        InputError: For a wrong shape, padding in front of a valid position, or an id outside the vocabulary.
    """
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        raise InputError(f"input_ids has shape {tuple(input_ids.shape)}; expected [batch, length], both at least 1")
    input_ids = input_ids.long()
    if attention_mask is None:
        is_valid = input_ids != config.pad_token_id
    elif attention_mask.shape != input_ids.shape:
        shapes = f"{tuple(attention_mask.shape)}, input_ids {tuple(input_ids.shape)}"
        raise InputError(f"attention_mask has shape {shapes}; they must be the same")
    else:
        is_valid = attention_mask.bool()
    gap_rows = (is_valid[:, 1:] & ~is_valid[:, :-1]).any(1)
    if bool(gap_rows.any()):
        row = int(gap_rows.nonzero()[0, 0])
        raise InputError(f"row {row} has padding in front of real positions; pad on the right (padding_side='right')")
    is_foreign = (input_ids < 0) | (input_ids >= config.vocab_size)
    if bool(is_foreign.any()):
        row, column = is_foreign.nonzero()[0].tolist()
        value = int(input_ids[row, column])
        raise InputError(f"input_ids[{row}, {column}] = {value} is outside the vocabulary of {config.vocab_size}")
    return input_ids, is_valid


def check_labels(labels: Tensor, config: HNetNTV2Config) -> Int[Tensor, "batch length"]:
    """The labels of the masked language model as int64.

    Raises:
        InputError: A label is neither -100 nor an id of the vocabulary.
    """
    labels = labels.long()
    is_foreign = (labels != -100) & ((labels < 0) | (labels >= config.vocab_size))
    if bool(is_foreign.any()):
        row, column = is_foreign.nonzero()[0].tolist()
        targets = f"targets are A, C, G, T ({FIRST_BASE} to {LAST_BASE}), -100 elsewhere"
        raise InputError(f"labels[{row}, {column}] = {int(labels[row, column])} is no token id; {targets}")
    return labels
