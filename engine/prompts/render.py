"""Validates a request and renders what its micro-batch needs of it; takes microseconds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.catalogue.snapshot import Catalogue
from engine.errors import InvalidRequest
from engine.prompts.fragments import Fragments
from engine.prompts.join import join
from engine.query import Query, Search
from engine.request import IgnoredInteraction, IgnoredReason, Interaction, RecommendRequest
from llmsrec.prompt import MAX_TIMESTAMP_MS

DEFAULT_K = 10


@dataclass(frozen=True, slots=True)
class Rendering:
    """A query, and what its reply reports of the request."""

    query: Query
    ignored: Sequence[IgnoredInteraction]
    num_used_interactions: int


def render(request: RecommendRequest, catalogue: Catalogue, fragments: Fragments) -> Rendering:
    """Render a request over one catalogue and the fragments of its titles.

    Raises:
        InvalidRequest: with the path of the field to mend.
    """
    k = min(DEFAULT_K, len(catalogue)) if request.k is None else request.k
    if not 1 <= k <= len(catalogue):
        raise InvalidRequest("k", f"must be between 1 and {len(catalogue)}")
    if not request.history:
        raise InvalidRequest("history", "is empty; give at least one interaction")
    _check_timestamps(request.history)
    known = [
        (index, row, interaction.timestamp_ms)
        for index, interaction in enumerate(request.history)
        if (row := catalogue.row_of_id.get(interaction.item_id)) is not None
    ]
    if not known:
        raise InvalidRequest(
            "history",
            f"none of its {len(request.history)} item ids is in the catalogue {catalogue.version}",
        )
    rows = [row for _, row, _ in known]
    prompt, num_used = join(fragments, rows, [time_ms for _, _, time_ms in known])
    excluded_rows = _excluded_rows(request, catalogue, rows)
    return Rendering(
        query=Query(prompt, Search(k, excluded_rows)),
        ignored=_list_ignored(request.history, [index for index, _, _ in known], num_used),
        num_used_interactions=num_used,
    )


def _excluded_rows(
    request: RecommendRequest, catalogue: Catalogue, seen: Sequence[int]
) -> NDArray[np.int32]:
    rows = {
        row
        for item_id in request.excluded_item_ids
        if (row := catalogue.row_of_id.get(item_id)) is not None
    }
    if not request.include_seen:
        rows.update(seen)
    return np.array(sorted(rows), np.int32)


def _list_ignored(
    history: Sequence[Interaction], known: Sequence[int], num_used: int
) -> list[IgnoredInteraction]:
    """List, by the indices of those in the catalogue, which interactions have no influence."""
    used, in_catalogue = set(known[-num_used:]), set(known)
    return [
        IgnoredInteraction(
            index,
            interaction.item_id,
            IgnoredReason.BEYOND_WINDOW if index in in_catalogue else IgnoredReason.UNKNOWN_ITEM,
        )
        for index, interaction in enumerate(history)
        if index not in used
    ]


def _check_timestamps(history: Sequence[Interaction]) -> None:
    newest, newest_index = 0, 0
    for index, interaction in enumerate(history):
        timestamp_ms = interaction.timestamp_ms
        if timestamp_ms is None:
            continue
        field = f"history[{index}].timestamp_ms"
        if not 0 <= timestamp_ms <= MAX_TIMESTAMP_MS:
            raise InvalidRequest(
                field, f"must be milliseconds since 1970, between 0 and {MAX_TIMESTAMP_MS}"
            )
        if timestamp_ms < newest:
            raise InvalidRequest(
                field,
                f"is earlier than history[{newest_index}]'s; give the interactions oldest first",
            )
        newest, newest_index = timestamp_ms, index
