"""The titles and the times that the published LLM-SRec code keeps in one dictionary."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from llmsrec.encoding import NUM_HISTORIES, History
from llmsrec.errors import CheckpointError
from llmsrec.prompt import MAX_INTERACTIONS, MAX_TIMESTAMP_MS, TIMES_IN_SECONDS
from llmsrec.unpickle import load_pickle

MISSING_TITLE = "No Title"
"""What the published code puts into a prompt for an item without a title."""


class Texts(NamedTuple):
    titles: list[str]
    histories: list[History]
    """The newest interactions of some users, for comparisons."""
    notes: list[str]


def read_dictionary(path: Path, num_items: int) -> Texts:
    """Read `text_name_dict.json.gz`, which is a pickle.

    Raises:
        CheckpointError: it is missing, damaged, or of another data set.
    """
    if not path.exists():
        raise CheckpointError(f"{path.parent} lacks {path.name}, the titles of the items")
    content = load_pickle(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a dictionary, found {type(content).__name__}")
    titles, times = content.get("title"), content.get("time")
    if not isinstance(titles, Mapping) or not isinstance(times, Mapping):
        raise CheckpointError(
            f"{path}: expected a dictionary with the items' titles as 'title' and the times of"
            " their interactions as 'time'"
        )
    found, about_titles = _read_titles(path, titles, num_items)
    histories, about_times = _read_histories(path, times, num_items)
    return Texts(found, histories, [*about_titles, *about_times])


def _read_titles(
    path: Path, titles: Mapping[object, object], num_items: int
) -> tuple[list[str], list[str]]:
    ids = range(1, num_items + 1)
    if not any(item_id in titles for item_id in ids):
        example = f" (one of its keys is {next(iter(titles))!r})" if titles else ""
        raise CheckpointError(
            f"{path} has no title for any item id from 1 to {num_items}{example}; use the"
            " dictionary of the data set that the model was trained on"
        )
    values = [titles.get(item_id, MISSING_TITLE) for item_id in ids]
    for item_id, value in zip(ids, values, strict=True):
        if not isinstance(value, str | int | float | None):
            raise CheckpointError(f"{path}: the title of item {item_id} is {value!r}, not text")
    texts = [str(value) for value in values]
    found = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
    num_absent = sum(item_id not in titles for item_id in ids)
    num_odd = sum(not isinstance(value, str) for value in values)
    num_halves = sum(
        text != whole and "\ufffd" in whole for text, whole in zip(texts, found, strict=True)
    )
    counted = (
        (num_absent, f"without a title; their prompts say {MISSING_TITLE!r}, as in training"),
        (num_odd, "with a title that is no text; their prompts say it as in training"),
        (num_halves, "with half a character in the title; U+FFFD stands in its place"),
    )
    return found, [
        f"{path}: {count} of {num_items} items ({count / num_items:.1%}) {what}"
        for count, what in counted
        if count
    ]


def _read_histories(
    path: Path, times: Mapping[object, object], num_items: int
) -> tuple[list[History], list[str]]:
    interactions: dict[object, list[tuple[int, int]]] = {}
    num_left_out = 0
    for item_id, time_of_user in times.items():
        if not isinstance(item_id, int) or not isinstance(time_of_user, Mapping):
            raise CheckpointError(f"{path}: 'time' holds {item_id!r}, expected times by item, user")
        if not 1 <= item_id <= num_items:
            continue
        for user, time in time_of_user.items():
            time_ms = _time_ms(path, time)
            if time_ms is None:
                num_left_out += 1
            else:
                interactions.setdefault(user, []).append((time_ms, item_id - 1))
    newest = [sorted(pairs)[-MAX_INTERACTIONS:] for pairs in interactions.values()]
    if not newest:
        raise CheckpointError(
            f"{path}: 'time' holds no interaction with an item from 1 to {num_items} that could be"
            " dated, and a build compares vectors on some; use the dictionary of the training, and"
            " if its times are in seconds, multiply them by 1000"
        )
    notes = []
    if num_left_out:
        num_all = num_left_out + sum(map(len, interactions.values()))
        notes.append(
            f"{path}: left out of the histories on which a build compares vectors:"
            f" {num_left_out} of {num_all} interactions, without a date from 1970 to 2099 or with a"
            " time in seconds"
        )
    return [
        ([row for _, row in pairs], [time_ms for time_ms, _ in pairs])
        for pairs in newest[:NUM_HISTORIES]
    ], notes


def _time_ms(path: Path, time: object) -> int | None:
    """Read a time, which the published code keeps as a number or as its text.

    These only serve to compare: one that no prompt can hold is None, not an error.
    """
    if time is None:
        return None
    try:
        number = float(str(time))
    except ValueError as error:
        raise CheckpointError(
            f"{path}: {str(time)[:80]!r} is no time; expected milliseconds since 1970"
        ) from error
    if not math.isfinite(number) or not 0 <= number <= MAX_TIMESTAMP_MS:
        return None
    return None if int(number) in TIMES_IN_SECONDS else int(number)
