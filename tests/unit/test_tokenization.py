"""Both tokenizers: ids, letters, errors, round trips through a folder."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hnet_ntv2.errors import InputError
from hnet_ntv2.tokenization_hnet_ntv2 import HNetNTV2Tokenizer, NTv2Tokenizer, encode_bases, kmer_vocabulary

SPECIALS = ["[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]"]
BASES = HNetNTV2Tokenizer()
KMERS = NTv2Tokenizer()


def test_ids_are_those_other_tools_expect():
    expected = {token: index for index, token in enumerate([*SPECIALS, "A", "C", "G", "T", "N"])}
    assert BASES.get_vocab() == expected
    assert len(BASES) == BASES.vocab_size == 12
    assert (BASES.pad_token_id, BASES.mask_token_id, BASES.unk_token_id) == (4, 3, 6)


@pytest.mark.parametrize("add_special_tokens", [True, False])
def test_no_special_token_is_added(add_special_tokens):
    encoded = BASES("ACGTN", add_special_tokens=add_special_tokens)
    assert dict(encoded) == {"input_ids": [7, 8, 9, 10, 11], "attention_mask": [1] * 5}


@pytest.mark.parametrize(
    ("sequence", "ids"),
    [
        ("", []),
        ("acgtn", [7, 8, 9, 10, 11]),
        ("Uu", [10, 10]),
        ("RYSWKMBDHVryswkmbdhv", [11] * 20),
        ("A[MASK][MASK]c", [7, 3, 3, 8]),
        ("".join(SPECIALS), list(range(7))),
    ],
)
def test_letters_and_written_special_tokens(sequence, ids):
    assert BASES(sequence)["input_ids"] == ids


@pytest.mark.parametrize(
    ("sequence", "letter", "position"),
    [
        ("ACXG", "X", 2),
        ("AC-", "-", 2),
        (" ACG", " ", 0),
        ("AC\n", r"\\n", 2),
        ("A[MASK]CΩ", "Ω", 8),
        ("[mask]", r"\[", 0),
        ("Aé", "é", 1),
        ("?", r"\?", 0),
        ("A\0", r"\\x00", 1),
    ],
)
def test_any_other_letter_is_an_error_that_names_it(sequence, letter, position):
    with pytest.raises(InputError, match=f"'{letter}' at position {position} "):
        BASES(sequence)


def test_batches_are_padded_on_the_right():
    encoded = BASES(["ACGT", "AC"], padding=True, return_tensors="pt")
    assert encoded["input_ids"].tolist() == [[7, 8, 9, 10], [7, 8, 4, 4]]
    assert encoded["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert encoded["input_ids"].dtype == torch.int64


def test_truncation_cuts_on_the_right():
    assert BASES("ACGTN", truncation=True, max_length=2)["input_ids"] == [7, 8]


@given(st.text("ACGTN", max_size=60))
def test_decoding_gives_the_sequence_back(sequence):
    assert BASES.decode(BASES(sequence)["input_ids"]) == sequence
    decoded = KMERS.decode(KMERS(sequence)["input_ids"], skip_special_tokens=True)
    assert decoded == sequence


def test_decoding_keeps_or_skips_special_tokens():
    assert BASES.decode([7, 3, 8, 4]) == "A[MASK]C[PAD]"
    assert BASES.decode([7, 3, 8, 4], skip_special_tokens=True) == "AC"


def test_an_id_outside_the_vocabulary_is_an_error():
    with pytest.raises(InputError, match="id 12 is outside the vocabulary of 12"):
        BASES.decode([12])


def test_a_long_sequence_equals_its_bytes():
    sequence = "ACGTNacgtn" * 13_107
    assert BASES(sequence)["input_ids"] == list(encode_bases(sequence))


@pytest.mark.parametrize(("tokenizer", "limit"), [(HNetNTV2Tokenizer, 131_072), (NTv2Tokenizer, 2048)])
def test_the_longest_input_is_a_real_number(tokenizer, limit, tmp_path):
    assert tokenizer().model_max_length == limit
    assert tokenizer(model_max_length=512).model_max_length == 512
    tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 10**30}))  # as saved without a limit
    again = tokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == limit
    longest = again(["ACGT" * 10, "A"], padding="max_length", truncation=True, return_tensors="pt")
    assert longest["input_ids"].shape == (2, limit)


@pytest.mark.parametrize("tokenizer", [HNetNTV2Tokenizer(), NTv2Tokenizer()])
@pytest.mark.parametrize("pair", [("ACGT", "GG"), (["ACGT", "A"], ["GG", "T"]), ([("ACGT", "GG")],)])
def test_pairs_of_sequences_are_refused(tokenizer, pair):
    with pytest.raises(InputError, match="one sequence at a time"):
        tokenizer(*pair)


def test_base_tokenizer_survives_a_folder(tmp_path):
    BASES.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert saved["auto_map"]["AutoTokenizer"][0] == "tokenization_hnet_ntv2.HNetNTV2Tokenizer"
    for again in (HNetNTV2Tokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert type(again) is HNetNTV2Tokenizer
        assert again.get_vocab() == BASES.get_vocab()
        assert again("Ac[RESERVED]n")["input_ids"] == [7, 8, 5, 11]
        assert sorted(again.all_special_tokens) == sorted(SPECIALS)


def test_base_tokenizer_loads_as_remote_code(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    BASES.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert again("Ac[MASK]")["input_ids"] == [7, 8, 3]


@pytest.mark.parametrize("k", [2, 4, 6])
def test_kmer_vocabulary_has_its_size_and_order(k):
    vocabulary = kmer_vocabulary(k)
    assert len(vocabulary) == 4**k + 11 == len(set(vocabulary))
    assert vocabulary[:6] == ("<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>")
    assert vocabulary[6:8] == ("A" * k, "A" * (k - 1) + "T")
    assert vocabulary[-5:] == ("A", "T", "C", "G", "N")


def test_kmer_specials_are_recognised_and_masked():
    encoded = NTv2Tokenizer(k=4)(["ACGTACGTA", "A<mask>C"], padding=True, return_special_tokens_mask=True)
    assert encoded["input_ids"] == [[3, 51, 51, 262], [3, 262, 2, 264]]
    assert encoded["special_tokens_mask"] == [[1, 0, 0, 0], [1, 0, 0, 0]]
    assert NTv2Tokenizer(k=4)("ACGT", add_special_tokens=False)["input_ids"] == [51]


@pytest.mark.parametrize(("sequence", "letter", "position"), [("ACGt", "t", 3), ("ANR", "R", 2), ("A<mask>X", "X", 7)])
def test_kmer_tokenizer_refuses_other_letters_by_name(sequence, letter, position):
    with pytest.raises(InputError, match=f"'{letter}' at position {position} "):
        KMERS(sequence)


def test_kmer_tokenizer_survives_a_folder(tmp_path):
    NTv2Tokenizer(k=4).save_pretrained(tmp_path)
    again = NTv2Tokenizer.from_pretrained(tmp_path)
    assert again.k == 4
    assert again.get_vocab() == NTv2Tokenizer(k=4).get_vocab()
    assert NTv2Tokenizer(vocab_file=tmp_path / "vocab.txt").k == 4


def test_kmer_tokenizer_refuses_a_foreign_vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(kmer_vocabulary(4)))
    with pytest.raises(InputError, match="holds 4-mers, but k=6"):
        NTv2Tokenizer(vocab_file=path, k=6)
    path.write_text("\n".join(kmer_vocabulary(4)[:-1]))
    with pytest.raises(InputError, match="not a vocabulary of NTv2"):
        NTv2Tokenizer(vocab_file=path)
    path.write_text("")
    with pytest.raises(InputError, match="not a vocabulary of NTv2"):
        NTv2Tokenizer(vocab_file=path)


def test_kmer_tokenizer_takes_no_pairs():
    with pytest.raises(InputError, match="one sequence at a time"):
        KMERS("ACGT", "ACGT")
