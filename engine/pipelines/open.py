"""Opens a bundle on the backend that it was built for."""

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial

import msgspec

from engine.batching.micro_batch import choose_limits
from engine.bundle.manifest import Bucket
from engine.bundle.opened import Bundle
from engine.config import Config, EncoderConfig
from engine.encoders.cpu import OnnxRuntimeEncoder
from engine.encoders.onnxruntime_cuda.encoder import CudaEncoder
from engine.gpu import Gpu
from engine.pipelines.pipeline import Ranker
from engine.pipelines.sequential import TwoStageRanker
from engine.pipelines.tensorrt import TensorRTRanker
from engine.ranking.cpu import Retrieve, retrieve
from engine.ranking.cuda import GpuRetriever
from engine.ranking.cuda_topk import GpuTopK


def open_ranker(bundle: Bundle, config: Config) -> Ranker:
    """Load encoder and item vectors.

    Raises:
        BundleError: ONNX Runtime cannot load the graph.
        PlanError: there is no GPU that can run what the bundle holds for one.
    """
    manifest = bundle.manifest
    on_cpu = partial(
        retrieve,
        item_vectors=bundle.item_vectors,
        num_threads=config.encoder.num_threads or os.cpu_count() or 1,
    )
    if manifest.plan is not None:
        return TensorRTRanker(bundle, manifest.plan, config.retrieval, on_cpu)
    if manifest.buckets is not msgspec.UNSET:
        return _open_cuda(bundle, manifest.buckets, config, on_cpu)
    return _open_cpu(bundle, config.encoder, on_cpu)


def _open_cpu(bundle: Bundle, config: EncoderConfig, on_cpu: Retrieve) -> Ranker:
    encoder = OnnxRuntimeEncoder(bundle.path, bundle.item_table, config)
    opened = ExitStack()
    opened.callback(encoder.close)
    return TwoStageRanker(encoder, on_cpu, opened)


def _open_cuda(
    bundle: Bundle, buckets: Sequence[Bucket], config: Config, on_cpu: Retrieve
) -> Ranker:
    with ExitStack() as opened:
        encoder = CudaEncoder(bundle.path, buckets, bundle.item_table)
        opened.callback(encoder.close)
        retrieve_users = on_cpu
        if config.retrieval.device == "gpu":
            limits = choose_limits(config.batcher, bundle.manifest)
            gpu = opened.enter_context(closing(Gpu()))
            topk = GpuTopK(gpu, bundle.item_vectors, limits.max_prompts)
            retrieve_users = GpuRetriever(gpu, topk, on_cpu)
        # One micro-batch is retrieved and answered while the next is encoded.
        return TwoStageRanker(encoder, retrieve_users, opened.pop_all(), max_batches_in_flight=2)
