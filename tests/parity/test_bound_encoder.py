"""Bound buffers give the plain encoder's vectors: on the CPU here, on a GPU where there is one."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import Reference
from numpy.typing import NDArray
from rich.progress import Progress
from support.running import encode_all

from engine import Recommender, RecommendRequest
from engine.bundle.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    OnnxRuntimeCuda,
    Precision,
    read_manifest,
)
from engine.bundle.opened import Bundle, open_bundle
from engine.config import Config, EncoderConfig
from engine.encoders.cpu import CpuEncoder
from engine.encoders.encoder import Tower
from engine.encoders.onnxruntime_cuda.bound import BoundEncoder
from engine.encoders.onnxruntime_cuda.session import PROVIDER
from engine.errors import BackendUnavailable, EncodingFailed
from engine.live import Generation
from engine.pipelines.open import open_pipeline
from engine.query import Prompt
from engine.sizes import Size
from export.build import BuildOptions, build
from export.errors import BuildError
from export.plan import PlanOptions
from llmsrec.checkpoint import Checkpoint
from llmsrec.prompt import MAX_PROMPT_TOKENS

SIZES = [Size(1, 512), Size(4, 512), Size(2, MAX_PROMPT_TOKENS)]
HAS_PROVIDER = PROVIDER in onnxruntime.get_available_providers()
NO_BARS = Progress(disable=True)
Vectors = NDArray[np.float32]


def cpu_session(bundle: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(bundle / GRAPH_FILE, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def plain(opened_bundle: Bundle) -> CpuEncoder:
    return CpuEncoder(opened_bundle.path, opened_bundle.item_table, EncoderConfig())


class WatchedSession:
    """A session on the CPU that remembers its runs, and may be made to fail."""

    def __init__(self, bundle: Path) -> None:
        self._session = cpu_session(bundle)
        self.bindings: list[Any] = []
        self.threads: list[int] = []
        self.graph_ids: list[str] = []
        self.failure: Exception | None = None

    def get_outputs(self) -> Any:  # noqa: ANN401
        return self._session.get_outputs()

    def io_binding(self) -> Any:  # noqa: ANN401
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any, options: onnxruntime.RunOptions) -> None:  # noqa: ANN401
        self.threads.append(threading.get_ident())
        self.graph_ids.append(options.get_run_config_entry("gpu_graph_id"))
        self.bindings.append(binding)
        if self.failure is not None:
            raise self.failure
        self._session.run_with_iobinding(binding, options)


@pytest.fixture
def session(opened_bundle: Bundle) -> WatchedSession:
    return WatchedSession(opened_bundle.path)


@pytest.fixture
def bound(session: WatchedSession, opened_bundle: Bundle) -> Iterator[BoundEncoder]:
    with closing(BoundEncoder(session, SIZES, opened_bundle.item_table, "cpu")) as opened:
        yield opened


@pytest.fixture(scope="module")
def prompts(generation: Generation, reference: Reference) -> list[Prompt]:
    requests = [RecommendRequest(history) for history in reference.histories]
    rendered = [generation.render(request, 0.0).query.prompt for request in requests]
    assert len({len(prompt) for prompt in rendered}) > 5
    return rendered


def assert_close(found: Vectors, expected: Vectors) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tower", ["user_vector", "item_vector"])
@pytest.mark.parametrize("num_prompts", [1, 2, 3, 4, 11])
def test_padding_to_a_size_changes_no_vector(
    plain: CpuEncoder,
    bound: BoundEncoder,
    prompts: list[Prompt],
    num_prompts: int,
    tower: Tower,
) -> None:
    some = prompts[:num_prompts]
    assert_close(encode_all(bound, some, tower), encode_all(plain, some, tower))


def test_nothing_of_an_earlier_run_is_left(
    bound: BoundEncoder, plain: CpuEncoder, prompts: list[Prompt]
) -> None:
    shorter, longer = (sorted(prompts, key=len)[part] for part in (slice(3), slice(-4, None)))
    bound.encode(longer, Size(4, 512), "user_vector")
    found = bound.encode(shorter, Size(4, 512), "user_vector")
    assert_close(found, encode_all(plain, shorter, "user_vector"))


def test_vectors_outlive_the_next_run(bound: BoundEncoder, prompts: list[Prompt]) -> None:
    first = bound.encode(prompts[:1], Size(1, 512), "user_vector")
    kept = first.copy()
    bound.encode(prompts[1:2], Size(1, 512), "user_vector")
    np.testing.assert_array_equal(first, kept)


def test_each_size_keeps_its_buffers_and_its_cuda_graph(
    bound: BoundEncoder, session: WatchedSession, prompts: list[Prompt]
) -> None:
    bound.warm_up()
    before = session.bindings[::2]
    assert session.bindings == [each for each in before for _ in range(2)]
    assert session.graph_ids == ["1", "1", "2", "2", "3", "3"]
    session.bindings.clear()
    for size in SIZES:
        bound.encode(prompts[:1], size, "user_vector")
    assert session.bindings == before


def test_warming_up_measures_each_size(bound: BoundEncoder) -> None:
    measured_ms = bound.warm_up()
    assert list(measured_ms) == SIZES
    assert all(0 < each < 10_000 for each in measured_ms.values())


def test_all_runs_are_on_one_thread_whoever_asks(
    bound: BoundEncoder, session: WatchedSession, prompts: list[Prompt]
) -> None:
    bound.warm_up()
    arguments = prompts[:1], SIZES[0], "user_vector"
    other = threading.Thread(target=bound.encode, args=arguments)
    other.start()
    other.join()
    assert len(session.threads) == 2 * len(SIZES) + 1
    assert len(set(session.threads)) == 1
    assert threading.get_ident() not in session.threads


def test_run_that_fails_is_an_error_with_its_size(
    bound: BoundEncoder, session: WatchedSession, prompts: list[Prompt]
) -> None:
    session.failure = RuntimeError("out of memory")
    with pytest.raises(EncodingFailed, match="could not run 1 prompts of 512 tokens: out of mem"):
        bound.encode(prompts[:1], SIZES[0], "user_vector")


@pytest.fixture(scope="module")
def fp16_bundle(reference_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cuda") / "bundle"
    settings = BuildOptions("onnxruntime-cuda", "fp16", PlanOptions(sizes=SIZES))
    build(reference_checkpoint, path, settings, NO_BARS)
    return path


def test_bundle_names_its_sizes_and_holds_no_plan(fp16_bundle: Path) -> None:
    manifest = read_manifest(fp16_bundle)
    assert isinstance(manifest.encoder, OnnxRuntimeCuda)
    assert manifest.encoder.precision == "fp16"
    assert manifest.parity.runtime == "onnxruntime"
    assert manifest.encoder.sizes == [
        *(Size(1, 512), Size(2, 512), Size(3, 512), Size(4, 512)),
        *(Size(1, MAX_PROMPT_TOKENS), Size(2, MAX_PROMPT_TOKENS)),
    ]


def test_other_bundles_say_nothing_of_sizes(reference_bundle: Path) -> None:
    assert b'"sizes"' not in (reference_bundle / MANIFEST_FILE).read_bytes()


def test_fp16_graph_gives_its_vectors_through_bound_buffers(
    fp16_bundle: Path, prompts: list[Prompt]
) -> None:
    bundle = open_bundle(fp16_bundle)
    plain = CpuEncoder(bundle.path, bundle.item_table, EncoderConfig())
    expected = encode_all(plain, prompts, "user_vector")
    session = cpu_session(fp16_bundle)
    with closing(BoundEncoder(session, SIZES, bundle.item_table, "cpu")) as bound:
        found = encode_all(bound, prompts, "user_vector")
    assert cosines(found, expected).min() > 0.9999


def test_sizes_without_room_for_the_longest_prompt_are_refused_at_once(
    reference_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    settings = BuildOptions("onnxruntime-cuda", "fp16", PlanOptions(sizes=[Size(4, 512)]))
    with pytest.raises(BuildError, match=f"add --size 1x{MAX_PROMPT_TOKENS}"):
        build(reference_checkpoint, tmp_path / "bundle", settings, NO_BARS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(HAS_PROVIDER, reason="ONNX Runtime has CUDA")
def test_machine_without_cuda_is_told_so(fp16_bundle: Path) -> None:
    with pytest.raises(
        BackendUnavailable, match=rf"installed with .*; {PROVIDER} is needed: pip install"
    ):
        Recommender.open(fp16_bundle)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_PROVIDER, reason="ONNX Runtime has no CUDA")
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_gpu_gives_the_vectors_of_fp32(
    reference_checkpoint: Checkpoint,
    plain: CpuEncoder,
    prompts: list[Prompt],
    tmp_path: Path,
    precision: Precision,
) -> None:
    build(
        reference_checkpoint, tmp_path / "b", BuildOptions("onnxruntime-cuda", precision), NO_BARS
    )
    opened: Bundle = open_bundle(tmp_path / "b")
    expected = encode_all(plain, prompts, "user_vector")
    with closing(open_pipeline(opened, Config())) as encoder:
        encoder.warm_up()
        captured = encode_all(encoder, prompts, "user_vector")
        replayed = encode_all(encoder, prompts[::-1], "user_vector")[::-1]
    assert cosines(captured, expected).min() > (0.99999 if precision == "fp32" else 0.999)
    assert cosines(replayed, captured).min() > 0.9999


def cosines(found: Vectors, expected: Vectors) -> Vectors:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosine: Vectors = np.einsum("pd,pd->p", found, expected) / lengths
    return cosine
