"""Bounds of what comes in and goes out on the wire: all calls share one event loop."""

from engine.config import RequestConfig
from engine.errors import InvalidRequest
from llmsrec.v1 import recommender_pb2 as pb


def check_request(message: pb.RecommendRequest, config: RequestConfig) -> None:
    """Refuse a request whose decoding or answer would keep all others waiting.

    Raises:
        InvalidRequest: with the field and the setting that bounds it.
    """
    excluded = message.excluded_item_ids
    if len(message.history) > config.max_interactions:
        raise InvalidRequest(
            "history",
            f"has {len(message.history)} interactions, over request.max_interactions"
            f" ({config.max_interactions}); send the newest",
        )
    if len(excluded) > config.max_excluded_ids:
        raise InvalidRequest(
            "excluded_item_ids",
            f"has {len(excluded)} ids, over request.max_excluded_ids ({config.max_excluded_ids});"
            " send fewer",
        )
    if message.k > config.max_k:
        raise InvalidRequest("k", f"is {message.k}, over request.max_k ({config.max_k})")
    for index, interaction in enumerate(message.history):
        if len(interaction.item_id) > config.max_id_characters:
            raise _too_long(f"history[{index}].item_id", config)
    for index, item_id in enumerate(excluded):
        if len(item_id) > config.max_id_characters:
            raise _too_long(f"excluded_item_ids[{index}]", config)


def fit_reply(message: pb.RecommendResponse, max_bytes: int) -> None:
    """Leave out the ignored ids, which are counted, of a reply that is too large with them.

    Raises:
        InvalidRequest: it is too large without them, with the setting that bounds it.
    """
    if message.ByteSize() > max_bytes:
        message.ClearField("ignored_interactions")
    if (num_bytes := message.ByteSize()) > max_bytes:
        raise InvalidRequest(
            "k",
            f"the answer takes {num_bytes} bytes, over server.max_reply_bytes ({max_bytes}); ask"
            f" for fewer than {len(message.items)} items",
        )


def _too_long(field: str, config: RequestConfig) -> InvalidRequest:
    return InvalidRequest(
        field, f"is longer than request.max_id_characters ({config.max_id_characters})"
    )
