"""The titles in Amazon Reviews metadata: one JSON object a line."""

import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import msgspec
from rich.progress import Progress

from llmsrec.errors import DataError
from llmsrec.interaction_log import fault_of_id
from llmsrec.source_file import opened
from llmsrec.tally import Fault, FileTally, Tally

_EXPECTED = "expected one JSON object a line with parent_asin and title"
_MALFORMED = Fault("lines that are no JSON object with a parent_asin", _EXPECTED)
_NO_TEXT = "titles that are no text, which count as missing"
_NUMBER = "titles that are numbers, taken as they are written"
_REPLACED = "titles with half an emoji or bytes that are no UTF-8, where U+FFFD takes their place"
_TWICE = "items that stand twice with different titles, of which the last counts"

_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Metadata(msgspec.Struct):
    parent_asin: str
    title: str | None = None


def read_titles(
    path: Path, item_ids: Collection[str], tally: Tally, bars: Progress
) -> dict[str, str]:
    """Give the titles of those items that have one.

    Raises:
        DataError: the file cannot be read, more than half of it is no metadata, or it knows the
            title of no item.
    """
    file = FileTally(path, tally)
    titles: dict[str, str] = {}
    for number, item_id, given in _read(path, file, bars):
        if item_id not in item_ids:
            continue
        title = _text_of(given, number, file)
        if not title.strip():
            continue
        if titles.get(item_id, title) != title:
            file.mended(_TWICE, number)
        titles[item_id] = title
    file.close("lines")
    if not titles:
        raise DataError(
            f"{path}: none of the {len(item_ids):,} items of the interactions has a title in it;"
            " give the metadata of the same category with --metadata"
        )
    return titles


def _read(path: Path, file: FileTally, bars: Progress) -> Iterator[tuple[int, str, object]]:
    decoder = msgspec.json.Decoder(_Metadata)
    with opened(path, bars) as binary:
        for number, line in enumerate(_without_mark(path, binary), start=1):
            file.num_rows += 1
            try:
                strict = decoder.decode(line)
            except (ValueError, RecursionError):
                yield from _read_leniently(line, number, file)
            else:
                yield number, strict.parent_asin.strip(), strict.title


def _without_mark(path: Path, lines: Iterable[bytes]) -> Iterator[bytes]:
    lines = iter(lines)
    first = next(lines, b"").removeprefix(_BOM)
    if first.lstrip().startswith(b"["):
        raise DataError(f"{path}, line 1: a JSON array; {_EXPECTED}, as jq -c '.[]' writes it")
    return itertools.chain([first] if first else [], lines)


def _read_leniently(line: bytes, number: int, file: FileTally) -> Iterator[tuple[int, str, object]]:
    """Read what is no strict JSON: NaN and Infinity, half an emoji, bytes that are no UTF-8."""
    if not line.strip():
        file.blank(number)
        return
    try:
        found = json.loads(line.decode("utf-8", "surrogateescape"), strict=False)
    except (ValueError, RecursionError):
        found = None
    item_id = found.get("parent_asin") if isinstance(found, dict) else None
    if type(item_id) is int:
        item_id = str(item_id)
    if isinstance(item_id, str) and fault_of_id(item_id.strip()) is None:
        yield number, item_id.strip(), found.get("title")
    else:
        file.leave_out(_MALFORMED, number)


def _text_of(title: object, number: int, file: FileTally) -> str:
    """Give a title as it is, mended where that is certain, or an empty one."""
    if type(title) is int:
        file.mended(_NUMBER, number)
        return str(title)
    if title is None:
        return ""
    if not isinstance(title, str):
        file.noted(_NO_TEXT, number)
        return ""
    whole = _SURROGATE.sub("\ufffd", title)
    if whole != title:
        file.mended(_REPLACED, number)
    return whole
