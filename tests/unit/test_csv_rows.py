"""A quotation mark that is not closed costs the line it stands on, however far the next one is."""

import pytest

from llmsrec.csv_rows import CsvRows

FAR = [f"U,B{number},text,7\n" for number in range(1500)]


def rows_of(lines: list[str]) -> list[tuple[int, list[str] | None]]:
    """Read four columns of which the third is not read."""
    reader = CsvRows(iter(["user,item,text,time\n", *lines]))
    assert reader.header() == (1, ["user", "item", "text", "time"])
    return list(reader.rows(4, (0, 1, 3)))


@pytest.mark.parametrize(
    ("first", "last"),
    [
        pytest.param('U,"A,text,1\n', "U,Z,text,9\n", id="never closed"),
        pytest.param('U,"A,text,1\n', 'U,Z",text,9\n', id="closed in an id"),
        pytest.param('U,A,"text,1\n', 'U,Z,text","",9\n', id="closed with too many columns"),
        pytest.param('U,A,"text,1\n', 'U,Z,"text",9\n', id="closed by an opening one"),
    ],
)
@pytest.mark.parametrize("between", [FAR[:1], FAR[:900], FAR], ids=["near", "far", "too far"])
def test_open_quote_costs_its_line_alone(first: str, last: str, between: list[str]) -> None:
    read = rows_of([first, *between, last])
    expected = [line.rstrip("\n").split(",") for line in between]
    assert read[0] == (2, None)
    assert read[1:-1] == list(enumerate(expected, start=3))
    assert read[-1][0] == len(between) + 3


def test_row_goes_on_over_lines_where_its_quotes_are_right() -> None:
    lines = ['U,A,"a, ""b""\n', "\n", 'c",1\n', '"U","B","",2\n', "U,C,,3"]
    assert rows_of(lines) == [
        (2, ["U", "A", 'a, "b"\n\nc', "1"]),
        (5, ["U", "B", "", "2"]),
        (6, ["U", "C", "", "3"]),
    ]


def test_open_quotes_on_every_line_cost_every_line() -> None:
    assert rows_of(['U,"A,text,1\n'] * 3) == [(2, None), (3, None), (4, None)]
