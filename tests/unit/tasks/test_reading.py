"""Tables of sequences: each format gives the same table, and each fault names its row and a way out."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from hnet_ntv2.errors import DataError, GenomeError
from hnet_ntv2.genome import Interval, decode, encode, open_genome, read_fasta_records, reverse_complement
from hnet_ntv2.tasks import read_table
from hnet_ntv2.tasks.reading import read_parquet
from tests.builders import random_letters

SEQUENCES = [random_letters(length, seed) for seed, length in enumerate((30, 41, 7))]
ROWS = list(zip(("first", "second", "third"), SEQUENCES, ("0", "1", "0"), strict=True))


def letters(table) -> list[str]:
    return [decode(bases).decode() for bases in table.bases]


def write(tmp_path, name: str, text: str | bytes):
    path = tmp_path / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def text_of(delimiter: str, quote: str = "", end: str = "\n") -> str:
    rows = [("name", "sequence", "label"), *ROWS]
    return "".join(delimiter.join(f"{quote}{field}{quote}" for field in row) + end for row in rows)


def parquet_of(rows: dict) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(rows), sink)
    return sink.getvalue().to_pybytes()


FASTA = "".join(f">{name} some words|{label}\n{sequence[:20]}\n{sequence[20:]}\n" for name, sequence, label in ROWS)
PARQUET = parquet_of(
    {
        "sequence": SEQUENCES,
        "name": [row[0] for row in ROWS],
        "label": [0, 1, 0],
        "vector": [[1.0], [2.0], [3.0]],
    }
)
CONTENT = {
    "a.csv": text_of(","),
    "a.tsv": text_of("\t"),
    "a.txt": text_of("\t"),
    "comma.txt": text_of(","),
    "windows.csv": "\ufeff" + text_of(",", '"', "\r\n"),
    "blank.tsv": "\n" + text_of("\t", '"') + "\n\n",
    "a.fa": FASTA,
    "a.fna": FASTA.replace("\n", "\r\n"),
    "a.fasta": FASTA.lower().replace("acgt", "acgu"),
    "a.parquet": PARQUET,
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", CONTENT)
def test_every_format_gives_the_same_table(tmp_path, name, suffix):
    path = write(tmp_path, name + suffix, CONTENT[name])
    table = read_table(path)
    assert table.source == str(path)
    assert table.names == ("first", "second", "third")
    assert [sequence.upper() for sequence in letters(table)] == SEQUENCES
    assert table.labels == ("0", "1", "0")
    assert table.coordinates is None
    assert table.strands is None
    assert table.label_columns is None


def test_places_are_lines_rows_and_records(tmp_path):
    def last_place(name):
        path = write(tmp_path, name, CONTENT[name])
        return read_table(path).places[-1].removeprefix(f"{path}, ")

    assert last_place("a.csv") == "line 4"
    assert last_place("blank.tsv") == "line 5"
    assert last_place("a.parquet") == "row 3"
    assert last_place("a.fa") == "record 3"


def test_other_columns_and_numbers_as_names(tmp_path):
    path = write(tmp_path, "a.csv", "dna,class,id\nACGT,yes,x\nacgn,no,x\n")
    table = read_table(path, sequence_column="dna", label_column="class")
    assert table.names == ("1", "2")
    assert table.labels == ("yes", "no")
    assert letters(table) == ["ACGT", "acgn"]
    assert read_table(path, sequence_column="dna", label_column="class", name_column="id").names == ("x", "x")


def test_several_label_columns(tmp_path):
    path = write(tmp_path, "a.csv", "sequence,b,a\nACGT,0,1\nACGA,1,0.5\n")
    table = read_table(path, label_column="a,b")
    assert table.labels == ("1,0", "0.5,1")
    assert table.label_columns == ("a", "b")


def test_labels_need_not_be_there(tmp_path):
    path = write(tmp_path, "a.csv", "sequence\nACGT\n")
    assert read_table(path, need_labels=False).labels is None
    path = write(tmp_path, "b.csv", "sequence,label\nACGT,\nACGA,1\n")
    assert read_table(path, need_labels=False).labels == ("", "1")
    path = write(tmp_path, "a.fa", ">one|two more\nACGT\n>one|two\nACGA\n")
    table = read_table(path, need_labels=False)
    assert table.labels is None
    assert table.names == ("one|two", "one|two")


def test_fields_longer_than_csv_allows_itself(tmp_path):
    sequence = "ACGT" * 50_000
    path = write(tmp_path, "a.csv", f"sequence,label\n{sequence},1\n")
    assert letters(read_table(path)) == [sequence]


def test_columns_with_coordinates(tmp_path):
    path = write(tmp_path, "a.csv", "sequence,label,chrom,start,end,strand\nACGT,1,chr1,10,14,-\nACG,0,chr2,0,3,\n")
    table = read_table(path)
    assert table.coordinates == (Interval("chr1", 10, 14), Interval("chr2", 0, 3))
    assert table.strands == ("-", ".")
    assert letters(table) == ["ACGT", "ACG"]  # they are on their strand already
    path = write(tmp_path, "b.csv", "sequence,label,chrom,start0,end\nACGT,1,chr1,10,13\n")
    with pytest.raises(DataError, match=r"line 2: chr1:10-13 has 3 bases, the sequence 4; .*rename"):
        read_table(path)


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    path = write(folder, "g.fa", f">chr1\n{random_letters(200, 5)}\n>chr2\n{random_letters(100, 6)}\n")
    return open_genome(path, folder / "cache")


def test_bed_labels_and_strands(tmp_path, genome):
    path = write(tmp_path, "a.bed", "chr1\t10\t20\tyes\t0\t+\t3\n2\t0\t5\tno\t0\t-\t4\n")
    table = read_table(path, genome=genome)
    assert table.labels == ("yes", "no")
    assert table.names == ("chr1:10-20", "chr2:0-5")
    assert table.coordinates == (Interval("chr1", 10, 20), Interval("chr2", 0, 5))
    assert table.strands == ("+", "-")
    assert np.array_equal(table.bases[0], genome.read(Interval("chr1", 10, 20)))
    assert np.array_equal(table.bases[1], reverse_complement(genome.read(Interval("chr2", 0, 5))))
    by_number = read_table(path, genome=genome, label_column="7")
    assert by_number.labels == ("3", "4")
    assert by_number.names == ("yes", "no")
    plain = read_table(path, genome=genome, need_labels=False)
    assert plain.labels is None
    assert plain.names == ("yes", "no")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("chr1\t0\t5\tx\n", {"genome": None}, "give their genome with --genome"),
        ("chr1\t0\t5\t.\n", {}, "line 1: the label is empty"),
        ("chr1\t0\t5\n", {}, "line 1: 3 columns, at least 4"),
        ("chr1\t0\t5\tx\t0\tminus\n", {}, "line 1: the strand is 'minus'"),
        ("chr1\t0\t500\tx\n", {}, "line 1: chr1:0-500 goes past"),
        ("chr9\t0\t5\tx\n", {}, "line 1: 'chr9'"),
        ("chr1\t0\t5\tx\n", {"label_column": "class"}, "a number from 4 on, not 'class'"),
        ("chr1\t0\t5\tx\n", {"label_column": "3"}, "a number from 4 on, not '3'"),
    ],
)
def test_bed_faults(tmp_path, genome, text, options, message):
    with pytest.raises((DataError, GenomeError), match=message):
        read_table(write(tmp_path, "a.bed", text), **({"genome": genome} | options))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "sequence;label\nACGT;1\n", "no column 'sequence'; its first line names 'sequence;label'"),
        ("a.csv", "sequence\nACGT\n", "no column 'label'.*--label-column"),
        ("a.csv", "sequence,label,label\nACGT,1,1\n", "more than one column 'label'"),
        ("a.csv", "sequence,label\nACGT,1\nACGT,\n", "line 3: the label is empty"),
        ("a.csv", "sequence,label\nACGT,1\n ,1\n", "line 3: the sequence is empty"),
        ("a.csv", "sequence,label\n,\n", "line 2: the sequence is empty"),
        ("a.csv", "sequence,label\nACGT,1\nACXT,1\n", "line 3: letter 'X' at position 2"),
        ("a.csv", "sequence,label\nACGé,1\n", "line 2: letter 'é' at position 3"),
        ("a.csv", "sequence,label\nACGT,1\nACGT\n", "line 3: 1 fields, but the first line names 2"),
        ("a.csv", "sequence,label\nACGT,1,2\n", "line 2: 3 fields"),
        ("a.csv", 'sequence,label\n"ACGT,1\n', "line 2: unexpected end of data"),
        ("a.csv", "sequence,label\n", "holds no rows"),
        ("a.csv", "\n \n", "holds no text"),
        ("a.csv", "", "is empty"),
        ("a.csv", b"\x00\x01\x02", "not text"),
        ("a.csv", 'sequence,label\nACGT,"a\tb"\n', "line 2: .* holds a tab"),
        ("a.csv", "sequence,label,strand\nACGT,1,up\n", "line 2: the strand is 'up'"),
        ("a.parquet", b"no parquet at all", "is no readable parquet file"),
        ("a.parquet", parquet_of({"sequence": ["ACGT", "AC"], "label": ["a", None]}), "row 2: the label is empty"),
        ("a.parquet", parquet_of({"sequence": ["ACGT"], "label": [["a"]]}), "no column 'label'"),
        ("a.fa", ">one|1\nACGT\n>two\nACGT\n", "record 2: the header 'two' has no label"),
        ("a.fa", ">one|\nACGT\n", "record 1: the label is empty"),
        ("a.fa", ">one|1\n>two|1\nACGT\n", "record 1: the sequence is empty"),
        ("a.fa", ">one|1\nACGT\n>two|1\nAC!T\n", "line 4: letter '!'"),
        ("a.doc", "x", "suffix '.doc' says no format; use .csv"),
        ("a.csv.gz", gzip.compress(b"sequence,label\n")[:-9], "truncated|damaged"),
    ],
)
def test_faults_name_place_and_way_out(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((DataError, GenomeError), match=message) as error:
        read_table(path)
    assert str(path) in str(error.value)


def test_damaged_parquet(tmp_path):
    content = bytearray(parquet_of({"sequence": ["ACGT" * 2_000], "label": ["a"]}))
    content[10:200] = bytes(190)
    with pytest.raises(DataError, match=r"a\.parquet is no readable parquet file: .*"):
        read_table(write(tmp_path, "a.parquet", bytes(content)))


def test_rows_are_numbered_through_all_batches(tmp_path):
    num_rows = 70_000  # more than pyarrow's batch
    path = write(tmp_path, "a.parquet", parquet_of({"sequence": ["ACGT"] * num_rows}))
    places = [place for place, _ in read_parquet(path)[1]]
    assert places == [f"{path}, row {number}" for number in range(1, num_rows + 1)]


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv does not exist; give a table"):
        read_table(tmp_path / "none.csv")


def test_fasta_records_keep_whole_headers_that_recur(tmp_path):
    path = write(tmp_path, "a.fa", "\n>a b\nAC\nGT\n>\ta b \n>c\nNN")
    found = [(header, bases.tolist()) for header, bases in read_fasta_records(path)]
    assert found == [("a b", encode(b"ACGT").tolist()), ("a b", []), ("c", encode(b"NN").tolist())]
