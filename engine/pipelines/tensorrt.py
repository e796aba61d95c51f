"""Runs a plan: forward and top-k on one stream, with two micro-batches under way.

While the GPU works on one, the next is laid out and queued behind it, and the answers of the one
before are assembled. Each has a lane of host memory; on the GPU all share the same memory.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from engine.bundle.manifest import Plan
from engine.bundle.opened import Bundle
from engine.config import RetrievalConfig
from engine.encoders.encoder import Tower
from engine.encoders.graph_inputs import pack_into
from engine.encoders.tensorrt.library import load_library
from engine.encoders.tensorrt.plan import load_plan
from engine.encoders.tensorrt.runner import Forwards
from engine.errors import GpuFailed
from engine.gpu import Gpu
from engine.pipelines.host_buffers import Lane
from engine.pipelines.pipeline import Ranked
from engine.ranking.cpu import Retrieve, cut
from engine.ranking.cuda_topk import GpuTopK, load_kernels
from engine.request import Prompt, Query
from engine.sizes import SHORT_QUERY, assign, fill

_LOG = logging.getLogger(__name__)


class TensorRTRanker:
    """Holds a plan, the item table and the item vectors on the GPU.

    `on_cpu` ranks what the top-k has no room for, or all where the configuration says so.
    """

    max_batches_in_flight = 2

    def __init__(
        self, bundle: Bundle, plan: Plan, config: RetrievalConfig, on_cpu: Retrieve
    ) -> None:
        library = load_library(plan.library)
        if config.device == "gpu":
            load_kernels()
        with ExitStack() as opened:
            self._gpu = gpu = opened.enter_context(closing(Gpu()))
            self._plan_file, self._free_bytes = plan.file, gpu.free_bytes
            engine = load_plan(library, bundle.path, plan, gpu)
            self._forwards = Forwards(library, engine, gpu, plan.buckets, bundle.item_table)
            opened.callback(self._forwards.close)
            self._topk = None
            if config.device == "gpu":
                self._topk = GpuTopK(gpu, bundle.item_vectors, self._forwards.max_batch_size)
            self._lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
            for _ in range(self.max_batches_in_flight):
                self._lanes.put(Lane(gpu, self._forwards, self._topk))
            self._resources = opened.pop_all()
        self._on_cpu = on_cpu
        self._queueing = threading.Lock()

    def encode(self, prompts: Sequence[Prompt], tower: Tower) -> NDArray[np.float32]:
        vectors = np.empty((len(prompts), self._forwards.vector_dim), np.float32)
        for place, part in assign(prompts, self._forwards.sizes):
            with self._lane() as lane:
                self._lay_out(lane, place, prompts[part])
                with self._queueing:
                    self._queue_forward(lane, place)
                    vectors_of_part = self._queue_vectors(lane, len(prompts[part]), tower)
                self._gpu.wait(lane.done)
                vectors[part] = vectors_of_part
        return vectors

    def rank(self, queries: Sequence[Query]) -> Ranked:
        parts = [
            self._rank_part(place, queries[part])
            for place, part in assign([query.prompt for query in queries], self._forwards.sizes)
        ]
        return Ranked(
            user_vectors=np.concatenate([part.user_vectors for part in parts]),
            rankings=[ranking for part in parts for ranking in part.rankings],
            encode_ms=sum(part.encode_ms for part in parts),
            retrieve_ms=sum(part.retrieve_ms for part in parts),
        )

    def warm_up(self) -> None:
        """Make each size ready, and the top-k."""
        with self._lane() as lane:
            for place, size in enumerate(self._forwards.sizes):
                self._lay_out(lane, place, fill(size))
                self._forwards.upload(lane.inputs(size))
                self._forwards.make_ready(place)
        self.rank([SHORT_QUERY])
        used_bytes = self._free_bytes - self._gpu.free_bytes
        _LOG.info("%s: %.0f MB of GPU memory", self._plan_file, used_bytes / 1e6)

    def close(self) -> None:
        self._resources.close()

    def _rank_part(self, place: int, queries: Sequence[Query]) -> Ranked:
        excluded_rows = [query.excluded_rows for query in queries]
        k = [query.k for query in queries]
        top = None
        with self._lane() as lane:
            self._lay_out(lane, place, [query.prompt for query in queries])
            with self._queueing:
                self._queue_forward(lane, place)
                if self._topk is not None and self._topk.fits(excluded_rows, k):
                    address = self._forwards.addresses["user_vector"]
                    top = self._topk.queue(lane.search, address, excluded_rows, k)
                vectors = self._queue_vectors(lane, len(queries), "user_vector")
            self._gpu.wait(lane.done)
            vectors = vectors.copy()
            encode_ms = self._gpu.elapsed_ms(lane.started, lane.encoded)
            if top is not None:
                retrieve_ms = self._gpu.elapsed_ms(lane.encoded, lane.done)
                rows, scores = top
                return Ranked(vectors, cut(rows.copy(), scores.copy()), encode_ms, retrieve_ms)
        started = time.perf_counter()
        rankings = self._on_cpu(vectors, excluded_rows=excluded_rows, k=k)
        return Ranked(vectors, rankings, encode_ms, (time.perf_counter() - started) * 1e3)

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        """Lend a lane; after a failure, not before the GPU has done with its memory."""
        lane = self._lanes.get()
        try:
            yield lane
        except BaseException:
            with suppress(GpuFailed):
                self._gpu.synchronize()
            raise
        finally:
            self._lanes.put(lane)

    def _lay_out(self, lane: Lane, place: int, prompts: Sequence[Prompt]) -> None:
        pack_into(lane.inputs(self._forwards.sizes[place]), prompts)

    def _queue_forward(self, lane: Lane, place: int) -> None:
        self._gpu.record(lane.started)
        self._forwards.upload(lane.inputs(self._forwards.sizes[place]))
        self._forwards.queue(place)
        self._gpu.record(lane.encoded)

    def _queue_vectors(self, lane: Lane, num_prompts: int, tower: Tower) -> NDArray[np.float32]:
        """Queue the last copy of a micro-batch; what it gives is valid once `done` has happened."""
        vectors = lane.vectors[:num_prompts]
        self._gpu.download(vectors, self._forwards.addresses[tower])
        self._gpu.record(lane.done)
        return vectors
