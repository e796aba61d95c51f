"""Reads a recorded trace: JSON lines of `offset_ms`, `history` and `k`, in the order of sending.

Without a k the server gives as many items as it does of itself.

{"offset_ms": 12.5, "history": [{"item_id": "50", "timestamp_ms": 879984000000}], "k": 10}
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from engine import Interaction, RecommendRequest
from engine.errors import InvalidRequest
from engine.rpc.wire import encode_request
from perf.errors import MeasureError
from perf.load.schedule import Schedule


class _TracedInteraction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    item_id: str
    timestamp_ms: int | None = None


class _TracedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    offset_ms: Annotated[float, msgspec.Meta(ge=0)]
    history: Sequence[_TracedInteraction]
    k: int | None = None

    def encode(self) -> bytes:
        history = [Interaction(each.item_id, each.timestamp_ms) for each in self.history]
        return encode_request(RecommendRequest(history, self.k)).SerializeToString()


def read_trace(path: Path, warm_up_s: float) -> Schedule:
    """Lay out to send a trace's requests at the times at which they were recorded.

    Raises:
        MeasureError: the trace cannot be read, or none of it would be measured.
    """
    sends = list(_read_sends(path))
    send_times_s = np.array([offset_ms for offset_ms, _ in sends]) / 1e3
    duration_s = float(send_times_s.max(initial=0.0)) - warm_up_s
    if duration_s <= 0:
        raise MeasureError(
            f"{path} ends before the warm-up of {warm_up_s:g} s does; lower --warm-up or"
            " record a longer trace"
        )
    row_of_message: dict[bytes, int] = {}
    rows = [row_of_message.setdefault(message, len(row_of_message)) for _, message in sends]
    return Schedule(
        send_times_s=send_times_s,
        message_rows=np.array(rows, np.int64),
        messages=list(row_of_message),
        warm_up_s=warm_up_s,
        duration_s=duration_s,
    )


def _read_sends(path: Path) -> Iterator[tuple[float, bytes]]:
    decoder = msgspec.json.Decoder(_TracedRequest)
    newest_ms = 0.0
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise MeasureError(f"cannot read the trace {path}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            request = decoder.decode(line)
            message = request.encode()
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidRequest) as error:
            raise MeasureError(f"{path}, line {number}: {error}; mend or drop the line") from error
        if request.offset_ms < newest_ms:
            raise MeasureError(
                f"{path}, line {number}: offset_ms {request.offset_ms:g} is before the line"
                f" above it ({newest_ms:g}); sort the trace by offset_ms"
            )
        newest_ms = request.offset_ms
        yield newest_ms, message
