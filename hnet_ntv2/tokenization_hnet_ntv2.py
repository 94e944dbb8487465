"""DNA to token ids: one token per base for HNet-NTv2, and NTv2's own k-mers."""

import itertools
import os
import re
from pathlib import Path
from typing import Any, ClassVar

from transformers import BatchEncoding, PreTrainedTokenizer

from .errors import InputError
from .vocabulary import (
    AMBIGUITY_CODES,
    BASE_BITS,
    BASE_VOCABULARY,
    DECODE,
    ENCODE,
    KMER_LETTERS,
    NUM_SOURCE_SPECIALS,
    SOURCE_SPECIALS,
)

_NO_LIMIT = 10**20  # transformers writes 1e30 where a tokenizer has no limit
_ID_OF_LETTER = (ENCODE & BASE_BITS).tobytes()  # 0, the id of [CLS], marks letters that are no base
_BASE_OF_ID = DECODE.tobytes()


def encode_bases(sequence: str, first_position: int = 0) -> bytes:
    """Character ids of a sequence, one byte each (A 7, C 8, G 9, T 10, N 11).

    Lower case is read as upper case, U as T, and the IUPAC codes of several bases as N.

    Args:
        sequence: Letters only, no special tokens.
        first_position: Added to the position that an error names.

    Raises:
        InputError: At the first letter that stands for no base.
    """
    ids = sequence.encode("latin-1", errors="replace").translate(_ID_OF_LETTER)
    wrong = ids.find(0)
    if wrong >= 0:
        raise InputError(
            f"{sequence[wrong]!r} at position {first_position + wrong} (from 0) is not a base; accepted are "
            f"A, C, G, T, U, the IUPAC codes {AMBIGUITY_CODES} (read as N) in either case, and tokens such as [MASK]"
        )
    return ids


class _SequenceTokenizer(PreTrainedTokenizer):
    """A fixed vocabulary. Special tokens written in a sequence are kept whole, ``_cut`` cuts the rest."""

    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]
    padding_side = "right"
    longest_input: ClassVar[int]  # ``model_max_length`` unless it is given

    def __init__(self, vocabulary: tuple[str, ...], **kwargs: Any):
        # Only a real limit: files saved without one hold transformers' 1e30.
        if (kwargs.get("model_max_length") or _NO_LIMIT) >= _NO_LIMIT:
            kwargs["model_max_length"] = self.longest_input
        self._tokens = vocabulary
        self._ids = {token: index for index, token in enumerate(vocabulary)}
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    def get_vocab(self) -> dict[str, int]:
        return self._ids | self._added_tokens_encoder

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """Cut a sequence into tokens; special tokens written in it are kept whole."""
        if kwargs.pop("split_special_tokens", self.split_special_tokens):
            return self._cut(text, 0)
        # Longest first, so that no token is cut by another that is its beginning.
        longest_first = sorted(self._added_tokens_encoder, key=len, reverse=True)
        pieces = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
        tokens, position = [], 0
        for index, piece in enumerate(pieces):
            is_special = index % 2 == 1
            tokens.extend([piece] if is_special else self._cut(piece, position))
            position += len(piece)
        return tokens

    def _cut(self, piece: str, first_position: int) -> list[str]:
        raise NotImplementedError

    def prepare_for_model(self, ids: list[int], pair_ids: list[int] | None = None, **kwargs: Any) -> BatchEncoding:
        """As the base class does, for one sequence.

        Raises:
            InputError: For a pair of sequences.
        """
        if pair_ids is not None:
            raise InputError("the model takes one sequence at a time, not pairs; give a batch as a list of strings")
        return super().prepare_for_model(ids, None, **kwargs)

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Ids of tokens; a list is looked up at once, since a window has up to 131,072 of them."""
        if not isinstance(tokens, list):
            return super().convert_tokens_to_ids(tokens)
        known = self.get_vocab()
        unknown = known[str(self.unk_token)]
        return [known.get(token, unknown) for token in tokens]

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, self._ids[str(self.unk_token)])

    def _convert_id_to_token(self, index: int) -> str:
        if not 0 <= index < len(self._tokens):
            raise InputError(f"token id {index} is outside the vocabulary of {len(self._tokens)} tokens")
        return self._tokens[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        return ()  # the vocabulary is this file's own


class HNetNTV2Tokenizer(_SequenceTokenizer):
    """One token per base, with the character ids of Caduceus; no special token is added to a sequence.

    Lower case is read as upper case, U as T, IUPAC codes of several bases as N; any other letter raises ``InputError``,
    and so does a pair of sequences.
    """

    longest_input = 131_072  # the longest window that the models are made for

    def __init__(self, **kwargs: Any):
        for name in ("cls", "sep", "bos", "mask", "pad", "unk"):
            kwargs.setdefault(f"{name}_token", f"[{name.upper()}]")
        kwargs.setdefault("extra_special_tokens", ["[RESERVED]"])
        super().__init__(BASE_VOCABULARY, **kwargs)

    def _cut(self, piece: str, first_position: int) -> list[str]:
        return list(encode_bases(piece, first_position).translate(_BASE_OF_ID).decode("ascii"))


class NTv2Tokenizer(_SequenceTokenizer):
    """Nucleotide Transformer v2's k-mers: ``<cls>`` in front, pieces between Ns cut from their left end.

    What is left of a piece after its last whole k-mer becomes single letters, and every N is a token. Upper case only,
    as in the original; ids follow ``itertools.product("ATCG", repeat=k)`` after the six special tokens.

    Args:
        vocab_file: A ``vocab.txt`` of the published form; its k is used.
        k: Letters per token; 6 unless the file says otherwise.

    Raises:
        InputError: If the file is not the vocabulary of any k, or of another k than the one asked for.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "vocab.txt"}
    longest_input = 2048  # positions that NTv2 was trained on

    def __init__(self, vocab_file: str | os.PathLike[str] | None = None, k: int | None = None, **kwargs: Any):
        if vocab_file is not None:
            k = _kmer_size_of_file(Path(vocab_file), k)
        self.k = 6 if k is None else k
        if not 1 < self.k <= 8:
            raise InputError(f"k={self.k} must be at least 2 and at most 8")
        for name in ("unk", "pad", "mask", "cls", "eos", "bos"):
            kwargs.setdefault(f"{name}_token", f"<{name}>")
        super().__init__(kmer_vocabulary(self.k), k=self.k, **kwargs)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        if token_ids_1:
            raise InputError("NTv2 takes one sequence at a time; encode the two sequences of a pair separately")
        return [self._ids[str(self.cls_token)], *token_ids_0]

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        if already_has_special_tokens:
            return super().get_special_tokens_mask(token_ids_0, token_ids_1, already_has_special_tokens=True)
        return [1] + [0] * len(token_ids_0)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write ``vocab.txt`` as published: one token a line, no line end after the last."""
        name = f"{filename_prefix}-vocab.txt" if filename_prefix else "vocab.txt"
        path = Path(save_directory) / name
        path.write_text("\n".join(self._tokens), encoding="utf-8")
        return (str(path),)

    def _cut(self, piece: str, first_position: int) -> list[str]:
        wrong = re.search("[^ACGTN]", piece)
        if wrong:
            place = f"position {first_position + wrong.start()} (from 0)"
            raise InputError(
                f"{wrong.group()!r} at {place} is not A, C, G, T or N; use sequence.upper(), and N for IUPAC"
            )
        # At each place a whole k-mer where there is one, else a single letter.
        return re.findall(f"[ACGT]{{{self.k}}}|[ACGTN]", piece)


def kmer_vocabulary(k: int) -> tuple[str, ...]:
    """NTv2's tokens in the order of their ids: six specials, 4^k k-mers, then A T C G N."""
    kmers = ("".join(letters) for letters in itertools.product(KMER_LETTERS, repeat=k))
    return (*SOURCE_SPECIALS, *kmers, *KMER_LETTERS, "N")


def _kmer_size_of_file(path: Path, k: int | None) -> int:
    """k of a vocabulary file, which must be exactly the vocabulary of that k."""
    tokens = tuple(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    size = len(tokens[NUM_SOURCE_SPECIALS]) if len(tokens) > NUM_SOURCE_SPECIALS else 0
    if not 1 < size <= 8 or tokens != kmer_vocabulary(size):
        raise InputError(f"{path} is not a vocabulary of NTv2: six special tokens, all k-mers in ATCG order, A T C G N")
    if k is not None and k != size:
        raise InputError(f"{path} holds {size}-mers, but k={k} was asked for; leave k out to use the file's")
    return size


HNetNTV2Tokenizer.register_for_auto_class("AutoTokenizer")
