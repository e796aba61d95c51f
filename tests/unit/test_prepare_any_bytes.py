"""Whatever bytes it is given, `prepare amazon` writes a dataset or says in a line what is wrong."""

import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llmsrec.__main__ import make_parser
from llmsrec.dataset import Dataset
from llmsrec.errors import LLMSRecError
from llmsrec.prepare import run

HEADER = b"user_id,parent_asin,rating,timestamp\n"
SPLITS = ("train", "valid", "test")
TABLE = HEADER + b"".join(
    f"U{user},B{user + place},5.0,{1_500_000_000_000 + place}\n".encode()
    for user in range(8)
    for place in range(6)
)
HELD_OUT = HEADER + b"".join(
    f"U{user},B{user + 6},5.0,1500000000006\n".encode() for user in range(8)
)
TITLES = b"".join(f'{{"parent_asin":"B{item}","title":"T"}}\n'.encode() for item in range(14))

_CELLS = st.sampled_from(
    [
        b"",
        b" ",
        b"U1",
        b'"',
        b'"U,2"',
        b"\x00",
        b"\xff",
        b"nan",
        b"1e13",
        b"-1",
        b"9" * 4400,
        b"x" * 9999,
    ]
)
_IDS = st.integers(0, 5).map(lambda number: f"B{number}".encode()) | _CELLS
_TIMES = st.integers(1_500_000_000_000, 1_500_000_000_009).map(lambda ms: str(ms).encode()) | _CELLS
_ROWS = st.tuples(_IDS, _IDS, st.just(b"5.0"), _TIMES).map(b",".join)
_ROWS_OF_A_FILE = st.lists(_ROWS, max_size=12).map(lambda rows: b"".join(r + b"\n" for r in rows))
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
)
_JSON = _SCALARS | st.lists(_SCALARS, max_size=2) | st.dictionaries(st.text(), _SCALARS, max_size=2)
_METADATA = st.lists(
    st.tuples(st.integers(0, 9).map("B{}".format) | _JSON, st.text() | _JSON, _JSON), max_size=12
).map(
    lambda items: "".join(
        json.dumps({"parent_asin": item_id, "title": title, "price": price}) + "\n"
        for item_id, title, price in items
    ).encode()
)


@st.composite
def spoilt(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    """Draw a file and insert, cut out or flip bytes in it."""
    content = draw(contents)
    for _ in range(draw(st.integers(0, 2))):
        start, length = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
        inserted = draw(
            st.sampled_from(
                [b"", b"\n", b'"', b"\xef\xbb\xbf", b"\x00", b"\r", b"\x80", b"{", b","]
            )
            | st.binary(max_size=4)
        )
        content = content[:start] + inserted + content[start + length :]
    return content


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    spoilt(_ROWS_OF_A_FILE.map(lambda rows: TABLE + rows)),
    spoilt(_ROWS_OF_A_FILE.map(lambda rows: HELD_OUT + rows)),
    spoilt(_METADATA.map(lambda lines: TITLES + lines)),
    st.integers(1, 3),
)
@example(TABLE + b'U1,"', HEADER, TITLES + b'{"parent_asin":"B1","x":' + b"[" * 9999, 1)
def test_any_bytes_give_a_dataset_or_one_line(
    train: bytes, valid: bytes, metadata: bytes, least: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, content in zip(SPLITS, (train, valid, HEADER), strict=True):
            (folder / f"{split}.csv").write_bytes(content)
        (folder / "metadata").write_bytes(metadata)
        files = [f"--{split}={folder / split}.csv" for split in SPLITS]
        options = [f"--metadata={folder / 'metadata'}", f"--output={folder / 'out'}"]
        selection = ["--category=Any", "--sample-rate=1", f"--min-interactions={least}"]
        command = ["prepare", "amazon", *files, *options, *selection]
        error = _error_of(command)
        if error:
            assert len(error.splitlines()) == 1
            assert not (folder / "out").exists()
        else:
            assert Dataset.load(folder / "out").num_users > 0


def _error_of(command: list[str]) -> str:
    try:
        run(make_parser().parse_args(command))
    except LLMSRecError as error:
        return str(error)
    return ""
