"""Runs a plan: forward and top-k on one stream, with two micro-batches under way.

While the GPU works on one, the next is laid out and queued behind it, and the answers of the one
before are assembled. Each has host buffers of its own; on the GPU all share the same memory.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
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
from engine.encoders.tensorrt.runner import PlanRunner
from engine.errors import GpuFailed
from engine.gpu import Gpu
from engine.pipelines.host_buffers import HostBuffers
from engine.pipelines.pipeline import Ranked
from engine.query import FIRST_SEARCH, Prompt, Query, Ranking, Search, fill
from engine.ranking.cpu import CpuRanker
from engine.ranking.cuda import CudaRanker
from engine.ranking.cuda_topk import load_kernels
from engine.ranking.ranker import Ranker, cut
from engine.sizes import Size

_LOG = logging.getLogger(__name__)


class TensorRTPipeline:
    """Holds a plan, the item table and, unless the CPU ranks, the item vectors on the GPU."""

    max_batches_in_flight = 2

    def __init__(
        self, bundle: Bundle, plan: Plan, config: RetrievalConfig, num_cpu_threads: int = 0
    ) -> None:
        library = load_library(plan.library)
        if config.device == "gpu":
            load_kernels()
        with ExitStack() as opened:
            self._gpu = gpu = opened.enter_context(closing(Gpu()))
            self._plan_file, self._free_bytes = plan.file, gpu.free_bytes
            engine = load_plan(library, bundle.path, plan, gpu)
            self._runner = PlanRunner(library, engine, gpu, plan.sizes, bundle.item_table)
            opened.callback(self._runner.close)
            self.sizes: Sequence[Size] = self._runner.sizes
            item_vectors, self._topk = bundle.catalogue.item_vectors, None
            self._ranker: Ranker
            if config.device == "gpu":
                on_gpu = CudaRanker(
                    gpu,
                    item_vectors,
                    config.item_precision,
                    self._runner.max_prompts,
                    num_cpu_threads,
                )
                self._ranker, self._topk = on_gpu, on_gpu.topk
            else:
                self._ranker = CpuRanker(item_vectors, num_cpu_threads)
            self._idle: queue.SimpleQueue[HostBuffers] = queue.SimpleQueue()
            for _ in range(self.max_batches_in_flight):
                self._idle.put(HostBuffers(gpu, self._runner, self._topk))
            self._resources = opened.pop_all()
        self._queueing = threading.Lock()

    def run(self, queries: Sequence[Query], size: Size) -> Ranked:
        searches = [query.search for query in queries]
        top = None
        with self._borrow() as buffers:
            pack_into(buffers.inputs(size), [query.prompt for query in queries])
            with self._queueing:
                self._queue_forward(buffers, size)
                if self._topk and buffers.topk and self._topk.fits(searches):
                    address = self._runner.addresses["user_vector"]
                    top = self._topk.queue(buffers.topk, address, searches)
                vectors = self._queue_vectors(buffers, len(queries), "user_vector")
            self._gpu.wait(buffers.done)
            vectors = vectors.copy()
            encode_ms = self._gpu.elapsed_ms(buffers.started, buffers.encoded)
            if top is not None:
                retrieve_ms = self._gpu.elapsed_ms(buffers.encoded, buffers.done)
                rows, scores = top
                return Ranked(vectors, cut(rows.copy(), scores.copy()), encode_ms, retrieve_ms)
        started = time.perf_counter()
        rankings = self._ranker.rank(vectors, searches)
        return Ranked(vectors, rankings, encode_ms, (time.perf_counter() - started) * 1e3)

    def encode(self, prompts: Sequence[Prompt], size: Size, tower: Tower) -> NDArray[np.float32]:
        with self._borrow() as buffers:
            pack_into(buffers.inputs(size), prompts)
            with self._queueing:
                self._queue_forward(buffers, size)
                vectors = self._queue_vectors(buffers, len(prompts), tower)
            self._gpu.wait(buffers.done)
            return vectors.copy()

    def rank(self, user_vectors: NDArray[np.float32], searches: Sequence[Search]) -> list[Ranking]:
        return self._ranker.rank(user_vectors, searches)

    def warm_up(self) -> Mapping[Size, float]:
        measured_ms = {}
        with self._borrow() as buffers:
            for size in self.sizes:
                pack_into(buffers.inputs(size), fill(size))
                self._runner.upload(buffers.inputs(size))
                measured_ms[size] = self._runner.make_ready(size)
        self.run([Query(fill(self.sizes[0])[0], FIRST_SEARCH)], self.sizes[0])
        used_bytes = self._free_bytes - self._gpu.free_bytes
        _LOG.info("%s: %.0f MB of GPU memory", self._plan_file, used_bytes / 1e6)
        return measured_ms

    def close(self) -> None:
        self._resources.close()

    @contextmanager
    def _borrow(self) -> Iterator[HostBuffers]:
        """Lend host buffers; after a failure, not before the GPU has done with their memory."""
        buffers = self._idle.get()
        try:
            yield buffers
        except BaseException:
            with suppress(GpuFailed):
                self._gpu.synchronize()
            raise
        finally:
            self._idle.put(buffers)

    def _queue_forward(self, buffers: HostBuffers, size: Size) -> None:
        self._gpu.record(buffers.started)
        self._runner.upload(buffers.inputs(size))
        self._runner.queue(size)
        self._gpu.record(buffers.encoded)

    def _queue_vectors(
        self, buffers: HostBuffers, num_prompts: int, tower: Tower
    ) -> NDArray[np.float32]:
        """Queue the last copy of a micro-batch; what it gives is valid once `done` has happened."""
        vectors = buffers.vectors[:num_prompts]
        self._gpu.download(vectors, self._runner.addresses[tower])
        self._gpu.record(buffers.done)
        return vectors
