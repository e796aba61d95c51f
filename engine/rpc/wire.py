"""Translates between the protobuf messages and the engine's own types."""

from engine.errors import CallFailed, InvalidRequest
from engine.request import (
    IgnoredInteraction,
    IgnoredReason,
    Interaction,
    MicroBatch,
    RankedItem,
    Recommendation,
    RecommendRequest,
    StageTimings,
)
from llmsrec.v1 import recommender_pb2 as pb

MAX_LISTED_IGNORED = 100

_NUMBERS = {
    IgnoredReason.UNKNOWN_ITEM: pb.IgnoredInteraction.REASON_UNKNOWN_ITEM,
    IgnoredReason.BEYOND_WINDOW: pb.IgnoredInteraction.REASON_BEYOND_WINDOW,
}
_REASONS = {number: reason for reason, number in _NUMBERS.items()}


def decode_request(message: pb.RecommendRequest) -> RecommendRequest:
    """Read a request.

    Raises:
        InvalidRequest: an interaction has no item id.
    """
    return RecommendRequest(
        history=[_decode_interaction(*numbered) for numbered in enumerate(message.history)],
        k=message.k if message.HasField("k") else None,
        include_seen=message.include_seen,
        excluded_item_ids=list(message.excluded_item_ids),
    )


def encode_request(request: RecommendRequest) -> pb.RecommendRequest:
    """Write a request.

    Raises:
        InvalidRequest: a value is outside its field's range on the wire.
    """
    history = [_encode_interaction(*numbered) for numbered in enumerate(request.history)]
    try:
        return pb.RecommendRequest(
            history=history,
            k=request.k,
            include_seen=request.include_seen,
            excluded_item_ids=request.excluded_item_ids,
        )
    except UnicodeEncodeError as error:
        raise InvalidRequest("excluded_item_ids", "an id is not valid Unicode") from error
    except ValueError as error:
        raise InvalidRequest("k", f"{request.k} is not between 1 and 4294967295") from error


def encode_recommendation(recommendation: Recommendation) -> pb.RecommendResponse:
    """Write an answer; of its ignored interactions it lists the first 100 and counts all."""
    timings = recommendation.timings
    return pb.RecommendResponse(
        items=[
            pb.RankedItem(item_id=item.item_id, score=item.score, title=item.title)
            for item in recommendation.items
        ],
        timings=pb.StageTimings(
            render_ms=timings.render_ms,
            queue_ms=timings.queue_ms,
            encode_ms=timings.encode_ms,
            retrieve_ms=timings.retrieve_ms,
            total_ms=timings.total_ms,
        ),
        model_version=recommendation.model_version,
        catalogue_version=recommendation.catalogue_version,
        ignored_interactions=[
            pb.IgnoredInteraction(
                index=ignored.index, item_id=ignored.item_id, reason=_NUMBERS[ignored.reason]
            )
            for ignored in recommendation.ignored[:MAX_LISTED_IGNORED]
        ],
        num_ignored_interactions=len(recommendation.ignored),
        num_used_interactions=recommendation.num_used_interactions,
        num_prompt_tokens=recommendation.num_prompt_tokens,
        micro_batch=_encode_micro_batch(recommendation.micro_batch),
    )


def decode_recommendation(message: pb.RecommendResponse) -> Recommendation:
    """Read an answer; `ignored` holds what the message lists.

    Raises:
        CallFailed: the server is newer and names a reason that this client does not know.
    """
    timings = message.timings
    return Recommendation(
        items=[RankedItem(item.item_id, item.title, item.score) for item in message.items],
        model_version=message.model_version,
        catalogue_version=message.catalogue_version,
        ignored=[_decode_ignored(ignored) for ignored in message.ignored_interactions],
        num_used_interactions=message.num_used_interactions,
        num_prompt_tokens=message.num_prompt_tokens,
        micro_batch=_decode_micro_batch(message),
        timings=StageTimings(
            render_ms=timings.render_ms,
            queue_ms=timings.queue_ms,
            encode_ms=timings.encode_ms,
            retrieve_ms=timings.retrieve_ms,
            total_ms=timings.total_ms,
        ),
    )


def _decode_interaction(index: int, message: pb.Interaction) -> Interaction:
    if not message.item_id:
        raise InvalidRequest(f"history[{index}].item_id", "is empty; name an item")
    timestamp_ms = message.timestamp_ms if message.HasField("timestamp_ms") else None
    return Interaction(message.item_id, timestamp_ms)


def _encode_interaction(index: int, interaction: Interaction) -> pb.Interaction:
    try:
        return pb.Interaction(item_id=interaction.item_id, timestamp_ms=interaction.timestamp_ms)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"history[{index}].item_id", "is not valid Unicode") from error
    except ValueError as error:
        raise InvalidRequest(f"history[{index}].timestamp_ms", "is no 64-bit integer") from error


def _encode_micro_batch(batch: MicroBatch | None) -> pb.MicroBatch | None:
    if batch is None:
        return None
    return pb.MicroBatch(
        num_prompts=batch.num_prompts, longest_prompt_tokens=batch.longest_prompt_tokens
    )


def _decode_micro_batch(message: pb.RecommendResponse) -> MicroBatch | None:
    if not message.HasField("micro_batch"):
        return None
    batch = message.micro_batch
    return MicroBatch(batch.num_prompts, batch.longest_prompt_tokens)


def _decode_ignored(message: pb.IgnoredInteraction) -> IgnoredInteraction:
    reason = _REASONS.get(message.reason)
    if reason is None:
        text = f"the server names reason {message.reason}, which this client does not know"
        raise CallFailed("UNIMPLEMENTED", f"{text}; upgrade the client")
    return IgnoredInteraction(message.index, message.item_id, reason)
