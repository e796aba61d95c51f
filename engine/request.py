"""What goes into a recommendation and what comes out of it, free of any wire format."""

import enum
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Interaction:
    item_id: str
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RecommendRequest:
    history: Sequence[Interaction]
    """The interaction sequence, oldest first."""
    k: int | None = None
    """How many items to return; None gives 10, or the whole catalogue where that is less."""
    include_seen: bool = False
    excluded_item_ids: Sequence[str] | AbstractSet[str] = ()


class IgnoredReason(enum.Enum):
    UNKNOWN_ITEM = "unknown item"
    BEYOND_WINDOW = "beyond window"


@dataclass(frozen=True, slots=True)
class IgnoredInteraction:
    index: int
    item_id: str
    reason: IgnoredReason


@dataclass(frozen=True, slots=True)
class StageTimings:
    """Milliseconds that an answer spent in each stage.

    The server's clock measures them; encode_ms and retrieve_ms are a GPU's own where one stream
    does both.
    """

    render_ms: float = 0.0
    queue_ms: float = 0.0
    encode_ms: float = 0.0
    retrieve_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class RankedItem:
    item_id: str
    title: str
    score: float


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The prompts that were encoded together; on a GPU their size may be larger than they are."""

    num_prompts: int
    longest_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Recommendation:
    items: Sequence[RankedItem]
    """Best first."""
    model_version: str
    catalogue_version: str
    ignored: Sequence[IgnoredInteraction]
    num_used_interactions: int
    num_prompt_tokens: int
    micro_batch: MicroBatch | None
    """None where an older server did not tell."""
    timings: StageTimings = field(default_factory=StageTimings)
