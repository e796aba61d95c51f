"""The served request, from its permit to its answer, without any wire format.

request ─► permit ─► render ─► batch: encode ─► retrieve ─► assemble ─► Recommendation
           admission  live      batching  pipeline            and time the stages
"""

import asyncio
import logging

from engine.admission import Admission
from engine.assemble import assemble
from engine.batching.batcher import Batcher
from engine.config import AdmissionConfig
from engine.errors import EngineError
from engine.live import Live
from engine.request import Recommendation, RecommendRequest

_LOG = logging.getLogger(__name__)


class Serving:
    """Answers requests that come in at any time; belongs to one event loop.

    `stopping` is to be set by who wants it to end, and is set when the device failed, so that no
    more can be answered; `failure` then says why.
    """

    def __init__(self, live: Live, config: AdmissionConfig) -> None:
        self.live = live
        self.stopping = asyncio.Event()
        self.failure: EngineError | None = None
        self._admission = Admission(config)
        self._batcher = Batcher(live.current.max_batches_in_flight)

    @property
    def num_in_flight(self) -> int:
        """How many requests are admitted and not yet answered."""
        return self._admission.num_in_flight

    async def recommend(
        self, request: RecommendRequest, received: float, deadline: float | None = None
    ) -> Recommendation:
        """Answer one request; both moments are in seconds of `time.monotonic`.

        Raises:
            EngineError: as its scope says, of the request, its micro-batch or the device.
        """
        with self._admission.permit(deadline):
            rendered = self.live.current.render(request, received)
            try:
                outcome = await self._batcher.submit(rendered.generation, rendered.query, deadline)
            except EngineError as error:
                self._note(error)
                raise
            return assemble(rendered, outcome)

    async def drain(self, limit_s: float) -> None:
        """Refuse new requests and wait, at most so long, for those admitted."""
        _LOG.info("draining %d requests", self.num_in_flight)
        self._admission.close()
        try:
            async with asyncio.timeout(limit_s):
                await self._admission.wait_idle()
        except TimeoutError:
            _LOG.warning(
                "left %d requests unanswered after %g seconds", self.num_in_flight, limit_s
            )

    async def close(self) -> None:
        """Wait for the micro-batches under way."""
        await self._batcher.close()
        _LOG.info("stopped")

    def _note(self, error: EngineError) -> None:
        if error.scope in {"micro-batch", "device"}:
            _LOG.error("%s", error)
        if error.scope == "device":
            self.failure = error
            self.stopping.set()
