"""What the command leaves behind: figures, settings and environment together."""

import msgspec

from perf.load.environment import Environment
from perf.load.result import LoadResult
from perf.load.search import Search
from perf.load.settings import Settings


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    environment: Environment
    settings: Settings
    result: LoadResult | None
    """Of a search: that of the best rate; None where no rate met the objective."""
    search: Search | None = None

    def is_void(self) -> bool:
        if self.search is not None:
            return self.search.is_void
        return self.result is None or self.result.is_void
