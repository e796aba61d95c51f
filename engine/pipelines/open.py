"""Opens a bundle's encoder and a ranker on the backend that the bundle was built for."""

from contextlib import ExitStack, closing

from engine.bundle.manifest import Manifest, OnnxRuntimeCpu, OnnxRuntimeCuda, TensorRT
from engine.bundle.opened import Bundle
from engine.config import Config
from engine.encoders.cpu import CpuEncoder
from engine.encoders.onnxruntime_cuda.encoder import CudaEncoder
from engine.errors import ConfigError
from engine.gpu import Gpu
from engine.pipelines.pipeline import Pipeline
from engine.pipelines.sequential import SequentialPipeline
from engine.pipelines.tensorrt import TensorRTPipeline
from engine.ranking.cpu import CpuRanker
from engine.ranking.cuda import CudaRanker
from engine.ranking.ranker import Ranker
from engine.sizes import choose_limits


def open_pipeline(bundle: Bundle, config: Config) -> Pipeline:
    """Load encoder and item vectors.

    Raises:
        BundleError: ONNX Runtime cannot load the graph.
        BackendUnavailable: what the bundle needs of this machine is missing.
        ConfigError: a setting does not fit the bundle.
        PlanError: the bundle's plan is not for this GPU or library.
    """
    require_fitting(config, bundle.manifest)
    match bundle.manifest.encoder:
        case OnnxRuntimeCpu():
            return _open_cpu(bundle, config)
        case OnnxRuntimeCuda() as kind:
            return _open_cuda(bundle, kind, config)
        case TensorRT(plan=plan):
            return TensorRTPipeline(bundle, plan, config.retrieval, config.encoder.num_threads)


def require_fitting(config: Config, manifest: Manifest) -> None:
    """Refuse settings that a bundle of this kind would not heed.

    Raises:
        ConfigError: with the setting.
    """
    ranks_on_gpu = config.retrieval.device == "gpu" and not isinstance(
        manifest.encoder, OnnxRuntimeCpu
    )
    if config.retrieval.item_precision != "fp32" and not ranks_on_gpu:
        raise ConfigError(
            "retrieval.item_precision is what a GPU holds item vectors in, and the CPU ranks this"
            " bundle; leave it out"
        )


def _open_cpu(bundle: Bundle, config: Config) -> Pipeline:
    encoder = CpuEncoder(bundle.path, bundle.item_table, config.encoder)
    opened = ExitStack()
    opened.callback(encoder.close)
    ranker = CpuRanker(bundle.catalogue.item_vectors, config.encoder.num_threads)
    return SequentialPipeline(encoder, ranker, opened)


def _open_cuda(bundle: Bundle, kind: OnnxRuntimeCuda, config: Config) -> Pipeline:
    item_vectors, num_threads = bundle.catalogue.item_vectors, config.encoder.num_threads
    with ExitStack() as opened:
        encoder = CudaEncoder(bundle.path, kind.sizes, bundle.item_table)
        opened.callback(encoder.close)
        ranker: Ranker = CpuRanker(item_vectors, num_threads)
        if config.retrieval.device == "gpu":
            gpu = opened.enter_context(closing(Gpu()))
            max_queries = choose_limits(config.batcher, kind.sizes).max_prompts
            precision = config.retrieval.item_precision
            ranker = CudaRanker(gpu, item_vectors, precision, max_queries, num_threads)
        # One micro-batch is retrieved and answered while the next is encoded.
        return SequentialPipeline(encoder, ranker, opened.pop_all(), max_batches_in_flight=2)
