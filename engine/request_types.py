"""Checks the types of requests that are made in Python; on the wire protobuf has done so.

What it gives is the same with `int` and `bool` in place of NumPy's scalars.
"""

import operator
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import date

import numpy as np

from engine.errors import InvalidRequest
from engine.request import Interaction, RecommendRequest

_TEXTS = (str, bytes, bytearray, memoryview)


def check_requests(requests: object) -> list[RecommendRequest]:
    """Check all of them.

    Raises:
        InvalidRequest: with the path of the first field of another type.
    """
    if isinstance(requests, RecommendRequest):
        raise _refuse("requests", requests, "a sequence of RecommendRequest", "write [request]")
    members = _members("requests", requests, "RecommendRequest")
    return [check_request(each, f"requests[{place}]") for place, each in enumerate(members)]


def check_request(request: object, path: str = "") -> RecommendRequest:
    """Check one, at a path among others or alone.

    Raises:
        InvalidRequest: with the path of the first field of another type.
    """
    if not isinstance(request, RecommendRequest):
        remedy = "write RecommendRequest(history)"
        raise _refuse(path or "request", request, "RecommendRequest", remedy)
    prefix = f"{path}." if path else ""
    return RecommendRequest(
        history=check_history(request.history, f"{prefix}history"),
        k=None if request.k is None else _check_int(f"{prefix}k", request.k, "int or None"),
        include_seen=_check_bool(f"{prefix}include_seen", request.include_seen),
        excluded_item_ids=_check_ids(f"{prefix}excluded_item_ids", request.excluded_item_ids),
    )


def check_histories(histories: object) -> list[list[Interaction]]:
    """Check the histories of several users.

    Raises:
        InvalidRequest: with the path of the first field of another type.
    """
    members = _members("histories", histories, "histories")
    return [check_history(each, f"histories[{place}]") for place, each in enumerate(members)]


def check_history(history: object, path: str) -> list[Interaction]:
    members = _members(path, history, "Interaction")
    return [_check_interaction(f"{path}[{place}]", each) for place, each in enumerate(members)]


def _check_interaction(path: str, interaction: object) -> Interaction:
    if not isinstance(interaction, Interaction):
        raise _refuse(path, interaction, "Interaction", "write Interaction(item_id)")
    item_id, timestamp_ms = interaction.item_id, interaction.timestamp_ms
    if not _check_id(f"{path}.item_id", item_id):
        raise InvalidRequest(f"{path}.item_id", "is empty; name an item")
    if timestamp_ms is None:
        return interaction
    return Interaction(item_id, _check_int(f"{path}.timestamp_ms", timestamp_ms, "int or None"))


def _check_ids(path: str, ids: object) -> list[str]:
    members = list(ids) if isinstance(ids, AbstractSet) else _members(path, ids, "str")
    return [_check_id(f"{path}[{place}]", each) for place, each in enumerate(members)]


def _check_id(path: str, item_id: object) -> str:
    if not isinstance(item_id, str):
        raise _refuse(path, item_id, "str", "item ids are the catalogue's strings, such as '50'")
    try:
        item_id.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(path, "is not valid Unicode; mend how it was decoded") from error
    return item_id


def _check_int(path: str, value: object, expected: str) -> int:
    if isinstance(value, date):
        remedy = "write int(time.timestamp() * 1000), of a time with its zone"
        raise _refuse(path, value, expected, remedy)
    if isinstance(value, (bool, np.bool_)):
        raise _refuse(path, value, expected, "give a number")
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise _refuse(path, value, expected, "give a whole number as int") from error


def _check_bool(path: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _refuse(path, value, "bool", "give True or False")
    return bool(value)


def _members(path: str, value: object, expected: str) -> Sequence[object]:
    """Give a sequence, which text is not: its members would be letters."""
    if isinstance(value, Sequence) and not isinstance(value, _TEXTS):
        return value
    raise _refuse(path, value, f"a sequence of {expected}", "give a list")


def _refuse(path: str, value: object, expected: str, remedy: str) -> InvalidRequest:
    found = "None" if value is None else type(value).__name__
    return InvalidRequest(path, f"is {found}, expected {expected}; {remedy}")
