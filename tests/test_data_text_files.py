"""Files as they come: other encodings, packed, cut short, with bad lines among good ones."""

from __future__ import annotations

import gzip
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.records import DataError
from training.data.rows import RowError
from training.data.text_files import (
    decode_text,
    numbered_lines,
    read_json,
    read_json_rows,
    read_table,
    read_text,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.json"


@pytest.mark.parametrize(
    "data",
    [
        "image,caption\n1.jpg,a café".encode(),
        b"\xef\xbb\xbf" + "image,caption\r\n1.jpg,a café".encode(),
        "image,caption\r1.jpg,a café".encode(),
        "image,caption\r\n1.jpg,a café".encode("utf-16"),  # as Excel's Unicode text
    ],
)
def test_marks_and_line_ends_do_not_matter(data: bytes) -> None:
    assert decode_text(data) == "image,caption\n1.jpg,a café"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (gzip.compress(b"{}" * 99, mtime=0), r"is packed \(gzip\); unpack it first"),
        ("a,b\n".encode("utf-16-le"), "is no UTF-8 text; save it as UTF-8"),
        (b'{"images": [', "is not valid JSON: it ends too early, at line 1"),
        (
            b"{\n'image': 1}",
            r"is not valid JSON: it goes wrong at line 2, column 1: \"'image': 1}\"",
        ),
        (b"[" * 100_000, "is not valid JSON: it holds a number or a nesting that is too long"),
        (b"[" + b"9" * 5000 + b"]", "too long to read"),
        (b"", "is not valid JSON: it ends too early"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_file_that_cannot_be_read_is_one_sentence(file: Path, data: bytes, said: str) -> None:
    file.write_bytes(data)
    with pytest.raises(DataError, match=rf"The file .*file.json {said}|.*{said}"):
        read_json(file)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.json is missing"):
        read_json(tmp_path / "missing.json")
    with pytest.raises(DataError, match=r"cannot be read: Is a directory"):
        read_text(tmp_path)


def test_a_list_is_read_whether_in_one_piece_or_a_line_each(file: Path) -> None:
    for text in ('[{"a": 1}, {"a": 2}]', '{"a": 1}\n\n{"a": 2}\n'):
        for path in (file, file.with_suffix(".jsonl")):
            path.write_text(text)
            assert [row for _, row in read_json_rows(path)] == [{"a": 1}, {"a": 2}]
    file.write_text('{"a": 1}')
    with pytest.raises(DataError, match="must hold a list of rows"):
        read_json_rows(file)
    file.write_text('[\n{"a": 1}\n{"a": 2}\n]')
    with pytest.raises(DataError, match="goes wrong at line 3, column 1"):
        read_json_rows(file)


def test_a_bad_line_of_json_lines_costs_that_line(file: Path) -> None:
    file.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    (one, (place, error), three) = read_json_rows(file)
    assert (one, three) == (("line 1", {"a": 1}), ("line 3", {"a": 3}))
    assert place == "line 2"
    assert str(error) == 'it is no JSON: "{\\"a\\":"'


TABLE = '''file_name,text
0.jpg,a dog
1.jpg,"a dog, running"
2.jpg,"a dog
that runs, ""fast"""

3.jpg,a dog, running
4.jpg
5.jpg,"a dog
6.jpg,a 5" disk
7.jpg,"a cat"
8.jpg,a\tcat
'''


def test_a_table_gives_its_rows_with_the_lines_they_start_at(file: Path) -> None:
    file.write_text(TABLE)
    columns, rows = read_table(file)
    assert columns == ["file_name", "text"]
    assert [(place, row) for place, row in rows if not isinstance(row, RowError)] == [
        ("line 2", ["0.jpg", "a dog"]),
        ("line 3", ["1.jpg", "a dog, running"]),
        ("line 4", ["2.jpg", 'a dog\nthat runs, "fast"']),
        ("line 10", ["6.jpg", 'a 5" disk']),
        ("line 11", ["7.jpg", "a cat"]),
        ("line 12", ["8.jpg", "a\tcat"]),
    ]
    assert {place: str(row) for place, row in rows if isinstance(row, RowError)} == {
        "line 7": "it has a comma too many for the columns file_name, text; put such a text in quotes",
        "line 8": "it has a comma too few for the columns file_name, text",
        "line 9": "it has a quotation mark that is not closed",
    }


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_that_of_the_header(file: Path, delimiter: str) -> None:
    file.write_text(f"file_name{delimiter} text\n1.jpg{delimiter}a dog, running\n")
    assert read_table(file) == (["file_name", "text"], [("line 2", ["1.jpg", "a dog, running"])])


def test_an_empty_table_is_named(file: Path) -> None:
    file.write_text("\n")
    with pytest.raises(DataError, match=r"file.json is empty"):
        read_table(file)


@settings(deadline=None)  # files are written
@given(st.lists(st.lists(st.text('",;\n ab'), min_size=2, max_size=2), min_size=1, max_size=6))
def test_what_a_csv_writer_wrote_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]]
) -> None:
    import csv

    file = tmp_path_factory.getbasetemp() / "table.csv"
    with file.open("w", newline="") as opened:
        csv.writer(opened, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *table])
    assert [row for _, row in read_table(file)[1]] == table


@settings(deadline=None)  # files are written
@given(st.binary(max_size=300))
def test_any_bytes_are_lines_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.txt"
    file.write_bytes(data)
    for reader in (numbered_lines, read_table, read_json, read_json_rows):
        with suppress(DataError):
            reader(file)
