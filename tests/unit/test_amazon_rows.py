"""Each oddity of a CSV file is mended, left out and counted, or refused with its line."""

import gzip
import re
from pathlib import Path

import pytest
from support.amazon_set import (
    FIRST_MS,
    HEADER,
    NUM_INTERACTIONS,
    Change,
    change,
    read_amazon_set,
    write_amazon_set,
)

from llmsrec.errors import DataError
from llmsrec.prompt import MAX_TIMESTAMP_MS

_MS = str(FIRST_MS).encode()


def _appended(text: str) -> Change:
    return lambda content: content + text.encode("utf-8", "surrogateescape")


def _each_row(pattern: bytes, by: bytes) -> Change:
    def replace(content: bytes) -> bytes:
        header, rows = content.split(b"\n", 1)
        return header + b"\n" + re.sub(pattern, by, rows, flags=re.MULTILINE)

    return replace


def _with_unread_text(content: bytes) -> bytes:
    header, *rows = content.splitlines()
    return b"\n".join([header + b",text", *(row + b',"so, so\nvery ""good"""' for row in rows)])


def _with_repeated_unread_column(content: bytes) -> bytes:
    header, *rows = content.splitlines()
    return b"\n".join([header + b",rating", *(row + b",1.0" for row in rows)])


@pytest.mark.parametrize(
    "to",
    [
        pytest.param(lambda content: content, id="as it is"),
        pytest.param(lambda content: b"\xef\xbb\xbf" + content, id="byte-order mark"),
        pytest.param(lambda content: content.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(lambda content: content.rstrip(), id="no line end at the end"),
        pytest.param(
            lambda content: content.replace(b"user_id,", b" user_id ,"), id="header spaces"
        ),
        pytest.param(_each_row(rb"[^,\n]+", rb'"\g<0>"'), id="all quoted"),
        pytest.param(_with_unread_text, id="unread text over several lines"),
        pytest.param(_with_repeated_unread_column, id="an unread column twice"),
        pytest.param(gzip.compress, id="gzip without its suffix"),
    ],
)
def test_forms_of_the_same_rows_give_the_same_dataset(tmp_path: Path, to: Change) -> None:
    files = write_amazon_set(tmp_path)
    expected, _ = read_amazon_set(files)
    change(files.train, to)
    dataset, told = read_amazon_set(files)
    assert dataset.digest() == expected.digest()
    assert told == []


def test_suffix_of_a_file_that_is_not_compressed_does_not_matter(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    expected, _ = read_amazon_set(files)
    packed = files.train.rename(tmp_path / "train.csv.gz")
    assert read_amazon_set(files._replace(train=packed))[0].digest() == expected.digest()


ROW_ERRORS = [
    pytest.param("U1,B1,5.0", "rows with more or fewer columns than the header", id="short"),
    pytest.param(f"U1,B1,5,0,{FIRST_MS}", "rows with more or fewer columns", id="decimal comma"),
    pytest.param("U1,B1,5.0,noon", "rows whose timestamp is no number", id="word"),
    pytest.param("U1,B1,5.0,nan", "rows whose timestamp is no number", id="nan"),
    pytest.param("U1,B1,5.0,1e400", "rows whose timestamp is no number", id="infinite"),
    pytest.param("U1,B1,5.0,", "rows whose timestamp is no number", id="no time"),
    pytest.param("U1,B1,5.0,1_5", "rows whose timestamp is no number", id="underscore"),
    pytest.param("U1,B1,5.0," + "9" * 5000, "rows whose timestamp is no number", id="endless"),
    pytest.param("U1,B1,5.0,2017-07-14", "rows whose timestamp is no number", id="date"),
    pytest.param("U1,B1,5.0,-1", "rows of a date before 1970 or after 2099", id="before 1970"),
    pytest.param(
        f"U1,B1,5.0,{MAX_TIMESTAMP_MS + 1}", "rows of a date before 1970 or after", id="after 2099"
    ),
    pytest.param("U1,B1,5.0,1500000000", "rows whose timestamp is in seconds", id="seconds"),
    pytest.param("U1,B1,5.0,1500000000.5", "rows whose timestamp is in seconds", id="real seconds"),
    pytest.param(f"U1,B1,5.0,{FIRST_MS}000", "rows whose .* in microseconds", id="microseconds"),
    pytest.param(f"U1,B1,5.0,{FIRST_MS}000000", "rows whose .* in nanoseconds", id="nanoseconds"),
    pytest.param(f",B1,5.0,{FIRST_MS}", "rows with an empty id", id="no user"),
    pytest.param(f"U1,  ,5.0,{FIRST_MS}", "rows with an empty id", id="blank item"),
    pytest.param(f"U1\x00,B1,5.0,{FIRST_MS}", "rows with an id that holds control", id="NUL"),
    pytest.param(f"U1,B\x1b1,5.0,{FIRST_MS}", "rows with an id that holds control", id="escape"),
    pytest.param(f"U1,B\udcff,5.0,{FIRST_MS}", "rows with an id .* is no UTF-8", id="no UTF-8"),
    pytest.param(f'U1,"B1,5.0,{FIRST_MS}', "lines with a quotation mark", id="open quote"),
    pytest.param(f'U1,"B"1,5.0,{FIRST_MS}', "lines with a quotation mark", id="quote inside"),
    pytest.param(HEADER, "rows whose timestamp is no number", id="header of a joined file"),
]


@pytest.mark.parametrize(("row", "problem"), ROW_ERRORS)
def test_faulty_row_costs_no_other(tmp_path: Path, row: str, problem: str) -> None:
    files = write_amazon_set(tmp_path)
    expected, _ = read_amazon_set(files)
    faulty = row.encode("utf-8", "surrogateescape")
    change(files.train, lambda content: content.replace(b"\n", b"\n" + faulty + b"\n", 1))
    dataset, told = read_amazon_set(files)
    assert dataset.digest() == expected.digest()
    assert len(told) == 1
    assert re.fullmatch(rf"left out: {problem}.*: 1 \(first: .*train\.csv, line 2\)", told[0])


@pytest.mark.parametrize(("row", "problem"), ROW_ERRORS)
def test_file_is_refused_where_most_rows_are_faulty(tmp_path: Path, row: str, problem: str) -> None:
    files = write_amazon_set(tmp_path)
    change(files.valid, _appended(f"{row}\n" * 13))
    with pytest.raises(DataError) as caught:
        read_amazon_set(files)
    told = (
        rf".*valid\.csv, line 14: the first of 13 {problem}.*; 13 of the file's 25 rows are.*: .*"
    )
    assert re.fullmatch(told, str(caught.value))


def test_half_of_a_file_may_be_faulty(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    change(files.valid, _appended("U1,B1,5.0,noon\n" * 12))
    dataset, told = read_amazon_set(files)
    assert len(dataset.item_rows) == NUM_INTERACTIONS
    assert told == [
        f"left out: rows whose timestamp is no number: 12 (first: {files.valid}, line 14)"
    ]


def test_empty_lines_do_not_count_as_rows(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    change(files.valid, _appended("U1,B1,5.0,noon\n" * 13 + "\n\n"))
    with pytest.raises(DataError, match="13 of the file's 25 rows"):
        read_amazon_set(files)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("\n", "left out: empty lines: 1 ", id="empty line"),
        pytest.param(",,,\n", "left out: empty lines: 1 ", id="cells without content"),
        pytest.param(
            f"U1 ,B1,5.0,{FIRST_MS}\n", "mended: ids with spaces around them", id="spaces"
        ),
        pytest.param(
            "U1,B1,5.0,1.5e12\n", "mended: timestamps written with a point", id="exponent"
        ),
        pytest.param(f"U1,B1,5.0,{FIRST_MS}.0\n", "mended: timestamps written", id="point"),
        pytest.param("U1,B1,5.0,0\n", "note: interactions dated January or February 1970", id="0"),
    ],
)
def test_oddity_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    files = write_amazon_set(tmp_path)
    change(files.train, _appended(text))
    _, (line,) = read_amazon_set(files)
    assert line.startswith(told)
    assert line.endswith(f"(first: {files.train}, line 74)")


@pytest.mark.parametrize("timestamp", [f"{FIRST_MS}.0", "1.5e12", f" {FIRST_MS} ", f"+{FIRST_MS}"])
def test_timestamp_means_the_same_however_it_is_written(tmp_path: Path, timestamp: str) -> None:
    files = write_amazon_set(tmp_path)
    expected, _ = read_amazon_set(files)
    change(files.train, _each_row(_MS, timestamp.encode()))
    assert read_amazon_set(files)[0].digest() == expected.digest()


@pytest.mark.parametrize("timestamp_ms", [0, MAX_TIMESTAMP_MS])
def test_ends_of_the_range_of_dates_are_kept(tmp_path: Path, timestamp_ms: int) -> None:
    files = write_amazon_set(tmp_path)
    change(files.train, _appended(f"U1,B1,5.0,{timestamp_ms}\n"))
    assert timestamp_ms in read_amazon_set(files)[0].timestamps_ms


@pytest.mark.parametrize(
    ("to", "problem"),
    [
        pytest.param(lambda _: b"", "is empty; expected user_id,parent_asin", id="empty"),
        pytest.param(lambda _: b"\n \n", "is empty; expected user_id", id="blank"),
        pytest.param(
            lambda content: content.split(b"\n", 1)[1],
            "line 1: the header lacks user_id: 'U0,B",
            id="no header",
        ),
        pytest.param(
            lambda content: content.replace(b"parent_asin", b"asin"),
            "line 1: the header lacks parent_asin: 'user_id,asin,rating,timestamp'",
            id="column",
        ),
        pytest.param(
            lambda content: content.replace(b"rating", b"timestamp"),
            "line 1: the header repeats timestamp",
            id="column twice",
        ),
        pytest.param(
            lambda content: content.replace(b",", b";"), "apart by commas", id="semicolons"
        ),
        pytest.param(lambda content: content.decode().encode("utf-16"), "UTF-16", id="UTF-16"),
        pytest.param(lambda _: b"PK\x03\x04", "is a ZIP archive or a spreadsheet", id="ZIP"),
        pytest.param(
            lambda content: gzip.compress(content)[:-12], "cut off or damaged", id="cut gzip"
        ),
        pytest.param(
            lambda content: gzip.compress(content) + b"x", "cut off or", id="rest in gzip"
        ),
    ],
)
def test_unusable_file_is_named(tmp_path: Path, to: Change, problem: str) -> None:
    files = write_amazon_set(tmp_path)
    change(files.train, to)
    with pytest.raises(DataError, match=rf"train\.csv.*{problem}"):
        read_amazon_set(files)


def test_quote_that_another_one_closes_far_away_costs_its_own_line(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    stray = f'U1,"B1,5.0,{FIRST_MS}\n'.encode()
    closing = f'U1,B1,5.0"\nU1,B1,"5.0",{FIRST_MS}\n'.encode()
    change(files.train, lambda content: content.replace(b"\n", b"\n" + stray, 1) + closing)
    dataset, told = read_amazon_set(files)
    assert len(dataset.item_rows) == NUM_INTERACTIONS + 1
    assert [line.rsplit(", ", 1)[1] for line in told] == ["line 2)", "line 75)"]
