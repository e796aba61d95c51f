"""What the command leaves behind: figures, options and environment together."""

import msgspec

from perf.environment import Environment
from perf.load.options import LoadOptions
from perf.load.result import LoadResult
from perf.load.search import RateSearch


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    environment: Environment
    options: LoadOptions
    result: LoadResult | None
    """That of the best rate, where it was searched; None where no rate met the objective."""
    answers_checked: str
    """How many answers were compared with the bundle's own, or why none was."""
    search: RateSearch | None = None

    def is_void(self) -> bool:
        if self.search is not None:
            return self.search.is_void
        return self.result is None or self.result.is_void
