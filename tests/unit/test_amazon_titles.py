"""Titles are read from JSON lines as people write them, and what is no title is counted."""

import gzip
import json
import re
from pathlib import Path

import pytest
from support.amazon_set import Change, change, read_amazon_set, write_amazon_set

from llmsrec.dataset import Dataset
from llmsrec.errors import DataError


def title_of(dataset: Dataset, item_id: str) -> str:
    return next(item.title for item in dataset.catalogue if item.id == item_id)


def first_item(metadata: Path) -> str:
    """Choose an item that the set holds whatever metadata says."""
    item_id = metadata.with_name("train.csv").read_text().splitlines()[1].split(",")[1]
    assert f'"{item_id}"' in metadata.read_text()
    return item_id


def _as_array(content: bytes) -> bytes:
    return json.dumps([json.loads(line) for line in content.splitlines()]).encode()


def _pretty(content: bytes) -> bytes:
    return json.dumps([json.loads(line) for line in content.splitlines()], indent=2).encode()


@pytest.mark.parametrize(
    "to",
    [
        pytest.param(lambda content: b"\xef\xbb\xbf" + content, id="byte-order mark"),
        pytest.param(lambda content: content.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(lambda content: content.replace(b"1.5", b"NaN"), id="NaN"),
        pytest.param(lambda content: content.replace(b"1.5", b"-Infinity"), id="Infinity"),
        pytest.param(lambda content: content.replace(b"1.5", b'"\\ud83d"'), id="unread half emoji"),
        pytest.param(lambda content: content.replace(b"1.5", b'"\xff"'), id="unread bytes"),
        pytest.param(lambda content: content + content, id="each item twice"),
        pytest.param(gzip.compress, id="gzip without its suffix"),
    ],
)
def test_forms_of_the_same_metadata_give_the_same_dataset(tmp_path: Path, to: Change) -> None:
    files = write_amazon_set(tmp_path)
    expected, _ = read_amazon_set(files)
    change(files.metadata, to)
    dataset, told = read_amazon_set(files)
    assert dataset.digest() == expected.digest()
    assert told == []


@pytest.mark.parametrize(
    ("written", "title", "told"),
    [
        pytest.param(
            r'"Robot \ud83d"', "Robot \ufffd", "mended: titles with half", id="half emoji"
        ),
        pytest.param(r'"\ud83e\udd16"', "\U0001f916", None, id="whole emoji"),
        pytest.param(
            '"Caf\udce9"', "Caf\ufffd", "mended: titles with half an emoji or", id="Latin-1"
        ),
        pytest.param("300", "300", "mended: titles that are numbers", id="number"),
        pytest.param('"Tab\tstop"', "Tab\tstop", None, id="raw tab"),
        pytest.param("null", "Empty title", None, id="null"),
        pytest.param('" "', "Empty title", None, id="blank"),
        pytest.param("1.5", "Empty title", "note: titles that are no text", id="fraction"),
        pytest.param("true", "Empty title", "note: titles that are no text", id="true"),
        pytest.param('["a"]', "Empty title", "note: titles that are no text", id="list"),
        pytest.param('{"en":"a"}', "Empty title", "note: titles that are no text", id="object"),
    ],
)
def test_title_is_read_as_it_is_written(
    tmp_path: Path, written: str, title: str, told: str | None
) -> None:
    files = write_amazon_set(tmp_path)
    item_id = first_item(files.metadata)
    pattern = rf'("parent_asin": "{item_id}", "title": )"[^"]*"'.encode()
    content = files.metadata.read_bytes()
    by = written.encode("utf-8", "surrogateescape")
    files.metadata.write_bytes(re.sub(pattern, lambda found: found[1] + by, content))
    dataset, lines = read_amazon_set(files)
    assert title_of(dataset, item_id) == title
    assert dataset.titles.count("Empty title") == (title == "Empty title")
    line = int(item_id[1:]) + 1
    ends = rf"{told}.*: 1 \(first: .*meta\.jsonl, line {line}\)"
    assert len(lines) == (told is not None)
    assert all(re.fullmatch(ends, line) for line in lines)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("{", id="cut"),
        pytest.param("{'parent_asin': 'B1', 'title': 'x'}", id="Python"),
        pytest.param('{"title":"x"}', id="no id"),
        pytest.param('{"parent_asin":null,"title":"x"}', id="null id"),
        pytest.param('{"parent_asin":"","title":3}', id="empty id"),
        pytest.param('{"parent_asin":"B\\ud83d","title":"x"}', id="half emoji in an id"),
        pytest.param('["parent_asin"]', id="list"),
        pytest.param("7", id="number"),
        pytest.param('{"parent_asin":"B1","x":' + "[" * 100_000, id="deep"),
    ],
)
def test_malformed_line_costs_no_other(tmp_path: Path, line: str) -> None:
    files = write_amazon_set(tmp_path)
    expected, _ = read_amazon_set(files)
    change(files.metadata, lambda content: content + f"{line}\n\n".encode())
    dataset, told = read_amazon_set(files)
    assert dataset.digest() == expected.digest()
    where = f"(first: {files.metadata}, line"
    assert told == [
        f"left out: empty lines: 1 {where} 62)",
        f"left out: lines that are no JSON object with a parent_asin: 1 {where} 61)",
    ]


def test_last_of_several_titles_counts_and_is_told(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    item_id = first_item(files.metadata)
    titles = ('"Other"', "null")
    lines = "".join(f'{{"parent_asin":"{item_id}","title":{title}}}\n' for title in titles)
    change(files.metadata, lambda content: content + lines.encode())
    dataset, (told,) = read_amazon_set(files)
    assert title_of(dataset, item_id) == "Other"
    assert told.startswith("mended: items that stand twice with different titles")
    assert told.endswith(f": 1 (first: {files.metadata}, line 61)")


def test_id_that_is_a_number_is_its_digits(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    expected, _ = read_amazon_set(files)
    for path in files:
        change(path, lambda content: re.sub(rb"\bB(\d+)", rb"\1", content))
    change(files.metadata, lambda content: re.sub(rb'": "(\d+)"', rb'": \1', content))
    assert b'"parent_asin": 5,' in files.metadata.read_bytes()
    assert read_amazon_set(files)[0].titles == expected.titles


@pytest.mark.parametrize(
    ("to", "problem"),
    [
        pytest.param(lambda _: b"", "none of the 48 items of .* has a title in it", id="empty"),
        pytest.param(
            lambda content: content.replace(b'"B', b'"X'),
            "none of the 48 items",
            id="other category",
        ),
        pytest.param(
            lambda content: content.replace(b'"Thing', b'"  ","x":"'),
            "none of the",
            id="blank titles",
        ),
        pytest.param(
            _as_array, r"line 1: a JSON array; expected one JSON object a line", id="array"
        ),
        pytest.param(_pretty, r"line 1: a JSON array; .* jq -c", id="array over lines"),
        pytest.param(
            lambda content: content.replace(b"parent_asin", b"asin"),
            "line 1: the first of 60 lines that are no JSON object with a parent_asin; 60 of",
            id="older metadata",
        ),
        pytest.param(
            lambda content: content.replace(b'"', b"'"), "line 1: the first of 60", id="Python"
        ),
        pytest.param(lambda _: b"user_id,parent_asin\nU,A\n", "line 1: the first of 2", id="CSV"),
    ],
)
def test_unusable_metadata_is_refused(tmp_path: Path, to: Change, problem: str) -> None:
    files = write_amazon_set(tmp_path)
    change(files.metadata, to)
    with pytest.raises(DataError, match=rf"meta\.jsonl.*{problem}"):
        read_amazon_set(files)
