"""Why there are no figures.

MeasureError      something is missing or does not fit
├── WrongAnswer   what was timed gave other answers than it should, so its time says nothing
└── PeerFailed    another library's process ended or gave no answer; a comparison goes on without it
"""


class MeasureError(Exception):
    """Its text names the remedy."""


class WrongAnswer(MeasureError):
    """Its text names what differed."""


class PeerFailed(MeasureError):
    """Its text is what the peer said last."""
