"""What a load consists of: one frozen struct per concern, with the defaults of the flags."""

from typing import Literal

import msgspec

Arrivals = Literal["poisson", "constant"]


class Overload(msgspec.Struct, frozen=True):
    """A part of the measured time at a multiple of the rate."""

    start_s: float
    duration_s: float
    factor: float


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """When requests are sent."""

    rate: float
    """Requests per second outside overloads."""
    arrivals: Arrivals = "poisson"
    warm_up_s: float = 5.0
    duration_s: float = 30.0
    """The measured time, which follows the warm-up."""
    overloads: tuple[Overload, ...] = ()


class Lengths(msgspec.Struct, frozen=True):
    """Histories of `shortest` to `longest` interactions, each length as likely as the next."""

    shortest: int
    longest: int
    weight: float


class Mix(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for."""

    lengths: tuple[Lengths, ...] = (Lengths(1, 5, 0.2), Lengths(6, 20, 0.5), Lengths(21, 100, 0.3))
    zipf_exponent: float = 1.0
    """How much more often popular items occur; 0 makes all items alike."""
    repeat_share: float = 0.2
    """The share of requests that bring an earlier user's history again."""
    k: int = 10


class Drawn(msgspec.Struct, frozen=True, tag_field="source"):
    """A load drawn at random, the same for the same seed and catalogue."""

    pace: Pace
    mix: Mix
    seed: int = 0


class Replayed(msgspec.Struct, frozen=True, tag_field="source"):
    """A load as it was recorded; the warm-up is the trace's beginning."""

    trace: str
    warm_up_s: float = 5.0


class Clients(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, and what is good enough for them."""

    num_processes: int = 2
    deadline_ms: float = 10_000.0
    objective_ms: float = 500.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    load: Drawn | Replayed
    clients: Clients
