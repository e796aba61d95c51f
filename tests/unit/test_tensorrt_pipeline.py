"""A plan's answers on a GPU that is played by the host: they are those of the CPU's backend."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import msgspec
import numpy as np
import onnxruntime
import pytest
from conftest import Reference
from numpy.typing import NDArray
from support.emulated_topk import EmulatedKernels, EmulatedTopK
from support.fake_cuda import FakeCuda
from support.fake_tensorrt import FORWARD_MS, VERSION, Context, Runtime, make_module, write_plan
from support.running import encode_all, run_all

from engine import Recommender, RecommendRequest
from engine.bundle.manifest import GRAPH_FILE, LibraryName, OnnxRuntimeCuda, Plan, TensorRT
from engine.bundle.opened import Bundle
from engine.config import AdmissionConfig, BatcherConfig, Config, RetrievalConfig, ServerConfig
from engine.encoders.encoder import Tower
from engine.encoders.onnxruntime_cuda.bound import BoundEncoder
from engine.errors import BackendUnavailable, EncodingFailed, GpuFailed, PlanError
from engine.gpu import Gpu
from engine.live import Generation, Live, open_generation
from engine.pipelines import open as opening
from engine.pipelines.open import open_pipeline
from engine.pipelines.pipeline import Pipeline, Ranked
from engine.pipelines.tensorrt import TensorRTPipeline
from engine.query import Query, Ranking, Search
from engine.ranking import cuda_topk
from engine.ranking.cpu import CpuRanker
from engine.ranking.cuda import CudaRanker
from engine.ranking.cuda_topk import CudaTopK
from engine.ranking.stored_items import store
from engine.rpc.client import recommend
from engine.rpc.server import Server
from engine.serving import Serving
from engine.sizes import Size, choose_limits
from llmsrec.prompt import MAX_PROMPT_TOKENS

PROFILES = [Size(1, 512), Size(4, 512), Size(2, MAX_PROMPT_TOKENS)]
LIBRARIES: tuple[LibraryName, ...] = ("tensorrt", "tensorrt_rtx")
TOPK_MS = 2.0
MAX_IN_FLIGHT = 2
Open = Callable[..., TensorRTPipeline]
Vectors = NDArray[np.float32]


class WatchedCpuRanker(CpuRanker):
    """Counts the users that the CPU ranks for."""

    num_users = 0

    def rank(self, user_vectors: Vectors, searches: Sequence[Search]) -> list[Ranking]:
        WatchedCpuRanker.num_users += len(searches)
        return super().rank(user_vectors, searches)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> type[WatchedCpuRanker]:
    """Puts the counting ranker in the place of what a GPU's ranker turns to."""
    monkeypatch.setattr(WatchedCpuRanker, "num_users", 0)
    monkeypatch.setattr("engine.ranking.cuda.CpuRanker", WatchedCpuRanker)
    return WatchedCpuRanker


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> EmulatedKernels:
    return EmulatedKernels(EmulatedTopK(tmp_path_factory.mktemp("emulation")))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, emulated: EmulatedKernels) -> FakeCuda:
    """A machine with a GPU, both libraries, and the kernels, whose work waits in the stream."""
    fake = FakeCuda()

    def queue_topk(shape: SimpleNamespace, **arguments: int) -> None:
        fake.queue(lambda: emulated.masked_topk(shape, **arguments), TOPK_MS)

    kernels = SimpleNamespace(TopKShape=emulated.TopKShape, masked_topk=queue_topk)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    monkeypatch.setitem(sys.modules, "engine.native._native_cuda", kernels)
    for name in LIBRARIES:
        monkeypatch.setitem(sys.modules, name, make_module(name, fake))
    return fake


@pytest.fixture
def open_plan(cuda: FakeCuda, opened_bundle: Bundle, tmp_path: Path) -> Iterator[Open]:
    """Opens the reference bundle as if it held a plan; what is not closed is, in the end."""
    opened = ExitStack()

    def open_one(
        library: LibraryName = "tensorrt",
        config: RetrievalConfig | None = None,
        compute_capability: str = "9.0",
    ) -> TensorRTPipeline:
        plan = Plan(
            graph_sha256="0" * 64,
            library=library,
            library_version=VERSION,
            compute_capabilities=[compute_capability],
            sizes=PROFILES,
        )
        write_plan(tmp_path / plan.file, opened_bundle.path / GRAPH_FILE, PROFILES)
        moved = replace(opened_bundle, path=tmp_path)
        pipeline = TensorRTPipeline(moved, plan, config or RetrievalConfig())
        return opened.enter_context(closing(pipeline))

    yield open_one
    opened.close()
    assert cuda.num_live == 0


@pytest.fixture(scope="module")
def queries(generation: Generation, reference: Reference) -> list[Query]:
    """Histories of many lengths, with many k and exclusions, none of them once."""
    requests = [
        RecommendRequest(
            history,
            k=1 + 7 * place,
            include_seen=place % 3 == 0,
            excluded_item_ids=[str(1 + number) for number in range(place * 11)],
        )
        for place, history in enumerate(reference.histories)
    ]
    return [generation.render(request, 0.0).query for request in requests]


@pytest.fixture(scope="module")
def reference_pipeline(generation: Generation) -> Pipeline:
    return generation.pipeline


def assert_ranked_alike(found: Ranked, expected: Ranked) -> None:
    """Hold rankings to the vectors that were found, bit for bit, and those to the CPU's."""
    np.testing.assert_allclose(found.user_vectors, expected.user_vectors, rtol=0, atol=1e-5)
    for (rows, scores), (expected_rows, expected_scores) in zip(
        found.rankings, expected.rankings, strict=True
    ):
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)


def assert_same_bits(found: Sequence[Ranking], expected: Sequence[Ranking]) -> None:
    for one, other in zip(found, expected, strict=True):
        for array, expected_array in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, expected_array)


def contexts_of(cuda: FakeCuda) -> list[Context]:
    """List those that live, in the order of their sizes."""
    return [context for each in cuda.contexts if (context := each()) is not None]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("num_queries", [1, 2, 3, 4, 24])
def test_answers_are_those_of_the_cpu(
    open_plan: Open,
    reference_pipeline: Pipeline,
    queries: list[Query],
    library: LibraryName,
    num_queries: int,
) -> None:
    ranker = open_plan(library)
    ranker.warm_up()
    some = queries[:num_queries]
    assert_ranked_alike(run_all(ranker, some), run_all(reference_pipeline, some))
    assert_ranked_alike(run_all(ranker, some[::-1]), run_all(reference_pipeline, some[::-1]))


@pytest.mark.parametrize("tower", ["user_vector", "item_vector"])
def test_both_towers_give_the_vectors_of_the_cpu(
    open_plan: Open, reference_pipeline: Pipeline, queries: list[Query], tower: Tower
) -> None:
    prompts = [query.prompt for query in queries]
    found = encode_all(open_plan(), prompts, tower)
    expected = encode_all(reference_pipeline, prompts, tower)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_two_micro_batches_are_under_way_and_do_not_mix(
    open_plan: Open, cuda: FakeCuda, reference_pipeline: Pipeline, queries: list[Query]
) -> None:
    ranker = open_plan()
    ranker.warm_up()
    both_queued = threading.Barrier(MAX_IN_FLIGHT, timeout=10)

    def wait_for_the_other() -> None:
        both_queued.wait()

    cuda.before_waiting = wait_for_the_other
    batches = [queries[start : start + 3] for start in range(0, 24, 3)]
    with ThreadPoolExecutor(MAX_IN_FLIGHT) as threads:
        found = list(threads.map(partial(run_all, ranker), batches))
    for one, batch in zip(found, batches, strict=True):
        assert_ranked_alike(one, run_all(reference_pipeline, batch))


async def test_server_keeps_two_micro_batches_under_way_and_answers_as_from_the_cpu(
    open_plan: Open,
    cuda: FakeCuda,
    generation: Generation,
    recommender: Recommender,
    reference: Reference,
) -> None:
    pipeline = open_plan()
    limits = choose_limits(BatcherConfig(2048, 4), pipeline.sizes)
    on_gpu = replace(generation, pipeline=pipeline, limits=limits)
    serving = Serving(Live(on_gpu), AdmissionConfig())
    server = Server(serving, Config(server=ServerConfig(listen="127.0.0.1:0")))
    await server.start()
    waiting, most = [], []

    def linger() -> None:
        waiting.append(1)
        time.sleep(0.02)
        most.append(len(waiting))
        waiting.pop()

    cuda.before_waiting = linger
    requests = [RecommendRequest(history, k=20) for history in reference.histories] * 2

    def ask(request: RecommendRequest) -> list[str]:
        return [item.item_id for item in recommend(server.address, request, timeout_s=30).items]

    with ThreadPoolExecutor(len(requests)) as threads:
        loop = asyncio.get_running_loop()
        asked = [loop.run_in_executor(threads, ask, request) for request in requests]
        found = await asyncio.gather(*asked)
    await server.drain()
    expected = recommender.recommend(requests)
    assert found == [[item.item_id for item in answer.items] for answer in expected]
    assert max(most) == MAX_IN_FLIGHT


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_bundle_of_onnxruntime_cuda_is_ranked_where_it_is_configured(
    cuda: FakeCuda,
    opened_bundle: Bundle,
    reference_pipeline: Pipeline,
    queries: list[Query],
    monkeypatch: pytest.MonkeyPatch,
    device: Literal["gpu", "cpu"],
) -> None:
    def open_on_host(path: Path, sizes: Sequence[Size], table: Vectors) -> BoundEncoder:
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(path / GRAPH_FILE, providers=providers)
        return BoundEncoder(session, sizes, table, "cpu")

    monkeypatch.setattr(opening, "CudaEncoder", open_on_host)
    kind = OnnxRuntimeCuda(precision="fp32", sizes=PROFILES)
    manifest = msgspec.structs.replace(opened_bundle.manifest, encoder=kind)
    config = Config(retrieval=RetrievalConfig(device))
    with closing(open_pipeline(replace(opened_bundle, manifest=manifest), config)) as ranker:
        assert ranker.max_batches_in_flight == 2
        num_allocated = cuda.num_live
        ranker.warm_up()
        some = queries[:4]
        assert_ranked_alike(run_all(ranker, some), run_all(reference_pipeline, some))
    assert (num_allocated > 0) == (device == "gpu")
    assert cuda.num_live == 0


def test_results_outlive_the_next_micro_batches(open_plan: Open, queries: list[Query]) -> None:
    ranker = open_plan()
    first = run_all(ranker, queries[:2])
    kept = [(rows.copy(), scores.copy()) for rows, scores in first.rankings]
    vectors = first.user_vectors.copy()
    for start in range(2, 8, 2):
        run_all(ranker, queries[start : start + 2])
    np.testing.assert_array_equal(first.user_vectors, vectors)
    for (rows, scores), (kept_rows, kept_scores) in zip(first.rankings, kept, strict=True):
        np.testing.assert_array_equal(rows, kept_rows)
        np.testing.assert_array_equal(scores, kept_scores)


def test_tensorrt_replays_a_graph_of_each_size(
    open_plan: Open, cuda: FakeCuda, queries: list[Query]
) -> None:
    ranker = open_plan("tensorrt")
    ranker.warm_up()
    num_sizes = len(ranker.sizes)
    runs = [context.num_runs for context in contexts_of(cuda)]
    assert runs == [2] * num_sizes
    assert cuda.num_launches == 2 * num_sizes + 1
    run_all(ranker, queries[:2])
    run_all(ranker, queries[2:5])
    assert cuda.num_launches == 2 * num_sizes + 3
    assert [context.num_runs for context in contexts_of(cuda)] == runs


@pytest.mark.parametrize("library", LIBRARIES)
def test_warming_up_measures_each_size(open_plan: Open, library: LibraryName) -> None:
    pipeline = open_plan(library)
    measured_ms = pipeline.warm_up()
    assert list(measured_ms) == list(pipeline.sizes)
    assert all(0 < each < 10_000 for each in measured_ms.values())


def test_generation_of_a_plan_takes_its_sizes_and_answers_as_the_cpu_does(
    cuda: FakeCuda,
    opened_bundle: Bundle,
    recommender: Recommender,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    plan = Plan(
        graph_sha256="0" * 64,
        library="tensorrt",
        library_version=VERSION,
        compute_capabilities=["9.0"],
        sizes=PROFILES,
    )
    write_plan(tmp_path / plan.file, opened_bundle.path / GRAPH_FILE, PROFILES)
    kind = TensorRT(precision="fp16", plan=plan)
    manifest = msgspec.structs.replace(opened_bundle.manifest, encoder=kind)
    held = replace(opened_bundle, path=tmp_path, manifest=manifest)
    monkeypatch.setattr("engine.live.open_bundle", lambda _: held)
    requests = [RecommendRequest(history, k=5) for history in reference.histories]
    with closing(open_generation(tmp_path, Config())) as on_gpu:
        assert on_gpu.limits == choose_limits(BatcherConfig(), on_gpu.pipeline.sizes)
        assert (on_gpu.limits.max_prompts, on_gpu.max_batches_in_flight) == (4, 2)
        found = Recommender(on_gpu).recommend(requests)
    for one, other in zip(found, recommender.recommend(requests), strict=True):
        assert [item.item_id for item in one.items] == [item.item_id for item in other.items]
    assert cuda.num_live == 0


def test_tensorrt_rtx_is_told_to_capture_graphs_by_itself(
    open_plan: Open, cuda: FakeCuda, queries: list[Query]
) -> None:
    ranker = open_plan("tensorrt_rtx")
    ranker.warm_up()
    run_all(ranker, queries[:2])
    assert cuda.num_launches == 0
    for context in contexts_of(cuda):
        assert context.num_runs >= 2
        assert context.config.cuda_graph_strategy == "whole"
        assert context.config.dynamic_shapes_kernel_specialization_strategy == "eager"


def test_each_size_runs_on_the_nearest_profile(open_plan: Open, cuda: FakeCuda) -> None:
    ranker = open_plan()
    profiles = dict(
        zip(
            [(size.num_prompts, size.num_tokens) for size in ranker.sizes],
            [tuple(context.profile) for context in contexts_of(cuda)],
            strict=True,
        )
    )
    assert profiles == {
        (1, 512): (1, 512),
        (2, 512): (4, 512),
        (3, 512): (4, 512),
        (4, 512): (4, 512),
        (1, MAX_PROMPT_TOKENS): (2, MAX_PROMPT_TOKENS),
        (2, MAX_PROMPT_TOKENS): (2, MAX_PROMPT_TOKENS),
    }


def test_timings_are_the_gpus(open_plan: Open, queries: list[Query]) -> None:
    ranked = run_all(open_plan(), queries[:2])
    assert (ranked.encode_ms, ranked.retrieve_ms) == (FORWARD_MS, TOPK_MS)


@pytest.mark.parametrize("limit", ["MAX_K", "MAX_EXCLUSIONS"])
def test_what_the_top_k_has_no_room_for_is_ranked_by_the_cpu(
    open_plan: Open,
    on_cpu: type[WatchedCpuRanker],
    reference_pipeline: Pipeline,
    queries: list[Query],
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
) -> None:
    fitting, beyond = queries[1:2], queries[10:12]
    monkeypatch.setattr(cuda_topk, limit, 20)
    ranker = open_plan()
    assert_ranked_alike(run_all(ranker, fitting), run_all(reference_pipeline, fitting))
    assert on_cpu.num_users == 0
    assert_ranked_alike(run_all(ranker, beyond), run_all(reference_pipeline, beyond))
    assert on_cpu.num_users == 2


def test_cpu_ranks_where_it_is_told_to_without_the_kernels(
    open_plan: Open,
    reference_pipeline: Pipeline,
    queries: list[Query],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "engine.native._native_cuda", None)
    ranker = open_plan(config=RetrievalConfig(device="cpu"))
    assert_ranked_alike(run_all(ranker, queries), run_all(reference_pipeline, queries))


def test_kernels_that_are_not_built_are_named_with_both_remedies(
    open_plan: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "engine.native._native_cuda", None)
    monkeypatch.setattr(Runtime, "refuses", "a plan of gigabytes")
    with pytest.raises(
        BackendUnavailable, match=r'not built .*nvcc 12.*or set retrieval\.device = "cpu"'
    ):
        open_plan()


def test_run_that_fails_is_an_error_with_its_size_and_the_next_one_works(
    open_plan: Open, cuda: FakeCuda, reference_pipeline: Pipeline, queries: list[Query]
) -> None:
    ranker = open_plan()
    for context in contexts_of(cuda):
        context.is_broken = True
    for _ in range(MAX_IN_FLIGHT + 1):
        with pytest.raises(EncodingFailed, match="could not run 1 prompts of 512 tokens"):
            run_all(ranker, queries[:1])
    for context in contexts_of(cuda):
        context.is_broken = False
    assert_ranked_alike(run_all(ranker, queries[:1]), run_all(reference_pipeline, queries[:1]))


@pytest.mark.parametrize(
    ("total_bytes", "remedy"),
    [(40_000, "build with a smaller --size"), (600_000, r'set retrieval\.device = "cpu"')],
    ids=["inputs", "items"],
)
def test_too_little_memory_is_an_error_with_what_is_free_and_needed(
    open_plan: Open, cuda: FakeCuda, total_bytes: int, remedy: str
) -> None:
    cuda.total_bytes = total_bytes
    with pytest.raises(
        BackendUnavailable,
        match=rf"the GPU has \d MB free, \d+ MB more are needed; stop .*, or {remedy}$",
    ):
        open_plan()


def test_item_table_that_a_plan_does_not_take_is_refused(
    open_plan: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.fake_tensorrt.Engine.max_items", 399)
    with pytest.raises(PlanError, match="does not take 1 prompts of 512 tokens over 400 items"):
        open_plan()


@pytest.mark.parametrize("library", LIBRARIES)
def test_failure_behind_a_queued_forward_spoils_no_other(
    open_plan: Open,
    reference_pipeline: Pipeline,
    queries: list[Query],
    monkeypatch: pytest.MonkeyPatch,
    library: LibraryName,
) -> None:
    ranker = open_plan(library)
    ranker.warm_up()

    def fail(*_: object) -> None:
        raise RuntimeError("the kernels do not start")

    with monkeypatch.context() as broken:
        broken.setattr(CudaTopK, "queue", fail)
        for _ in range(MAX_IN_FLIGHT):
            with pytest.raises(RuntimeError, match="do not start"):
                run_all(ranker, queries[:1])
    # In another size, what lies in the host buffers means something else.
    assert_ranked_alike(run_all(ranker, queries[:4]), run_all(reference_pipeline, queries[:4]))


def test_gpu_that_is_lost_is_said_to_have_failed(
    open_plan: Open, cuda: FakeCuda, queries: list[Query]
) -> None:
    ranker = open_plan()
    ranker.warm_up()
    cuda.is_lost = True
    for _ in range(MAX_IN_FLIGHT + 1):
        with pytest.raises(GpuFailed, match="cudaEventSynchronize failed with cudaErrorIllegal"):
            run_all(ranker, queries[:1])
    cuda.is_lost = False


def test_graph_that_cannot_be_recorded_is_the_error_of_the_run(
    open_plan: Open, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = open_plan("tensorrt")
    capture = Gpu.capture

    def break_first(gpu: Gpu, queue: Callable[[], None]) -> Any:  # noqa: ANN401
        for context in contexts_of(cuda):
            context.is_broken = True
        return capture(gpu, queue)

    monkeypatch.setattr(Gpu, "capture", break_first)
    with pytest.raises(EncodingFailed, match="could not run 1 prompts of 512 tokens"):
        ranker.warm_up()


def test_plan_for_another_gpu_is_not_loaded(open_plan: Open) -> None:
    with pytest.raises(PlanError, match=r"capability 8\.9, this one has 9\.0; .*--target 9\.0"):
        open_plan(compute_capability="8.9")


def test_plan_that_does_not_load_is_an_error_with_the_command(
    open_plan: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Runtime, "refuses", "of another platform")
    with pytest.raises(
        PlanError, match=r"cannot load .* 9\.0: of another platform; .*rebuild .*--target 9"
    ):
        open_plan()
    assert caplog.messages == ["tensorrt: of another platform"]


def test_searches_of_two_threads_do_not_mix(
    cuda: FakeCuda,
    recommender: Recommender,
    reference_pipeline: Pipeline,
    queries: list[Query],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = run_all(reference_pipeline, queries)
    upload = Gpu.upload

    def dawdle(gpu: Gpu, address: int, array: NDArray[Any]) -> None:
        time.sleep(0.002)
        upload(gpu, address, array)

    def rank(place: int) -> Ranking:
        vector = expected.user_vectors[place : place + 1]
        return ranker.rank(vector, [queries[place].search])[0]

    with closing(Gpu()) as gpu:
        ranker = CudaRanker(gpu, recommender.item_vectors, "fp32", 1, 1)
        monkeypatch.setattr(Gpu, "upload", dawdle)
        with ThreadPoolExecutor(MAX_IN_FLIGHT) as threads:
            found = list(threads.map(rank, range(len(queries))))
    assert_ranked_alike(expected._replace(rankings=found), expected)
    assert cuda.num_live == 0


def test_vectors_that_one_has_are_ranked_without_encoding(
    open_plan: Open,
    cuda: FakeCuda,
    on_cpu: type[WatchedCpuRanker],
    reference_pipeline: Pipeline,
    queries: list[Query],
) -> None:
    expected = run_all(reference_pipeline, queries[:3])
    pipeline = open_plan()
    for context in contexts_of(cuda):
        context.is_broken = True
    found = pipeline.rank(expected.user_vectors, [query.search for query in queries[:3]])
    assert_ranked_alike(expected._replace(rankings=found), expected)
    assert on_cpu.num_users == 0


def test_ranking_alone_beside_micro_batches_mixes_nothing(
    open_plan: Open, reference_pipeline: Pipeline, queries: list[Query]
) -> None:
    expected = run_all(reference_pipeline, queries)
    pipeline = open_plan()
    pipeline.warm_up()

    def rank(place: int) -> Ranking:
        if place % 2:
            return run_all(pipeline, queries[place : place + 1]).rankings[0]
        vector = expected.user_vectors[place : place + 1]
        return pipeline.rank(vector, [queries[place].search])[0]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(rank, range(len(queries))))
    assert_ranked_alike(expected._replace(rankings=found), expected)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_items_are_ranked_in_the_precision_in_which_they_are_stored(
    open_plan: Open,
    on_cpu: type[WatchedCpuRanker],
    recommender: Recommender,
    queries: list[Query],
    precision: Literal["fp16", "bf16"],
) -> None:
    pipeline = open_plan(config=RetrievalConfig(item_precision=precision))
    found = run_all(pipeline, queries)
    stored = CpuRanker(store(recommender.item_vectors, precision).widened, 1)
    searches = [query.search for query in queries]
    expected = stored.rank(found.user_vectors, searches)
    assert_same_bits(found.rankings, expected)
    assert on_cpu.num_users == 0
    plenty = [Search(k=400, excluded_rows=search.excluded_rows) for search in searches]
    many = [replace(search, k=search.k) for search in plenty] * 2
    vectors = np.concatenate([found.user_vectors] * 2)
    assert_same_bits(pipeline.rank(vectors, many), stored.rank(vectors, many))
    assert on_cpu.num_users == len(many)


def test_user_vectors_of_the_host_are_ranked_on_the_gpu(
    cuda: FakeCuda,
    on_cpu: type[WatchedCpuRanker],
    recommender: Recommender,
    reference_pipeline: Pipeline,
    queries: list[Query],
) -> None:
    expected = run_all(reference_pipeline, queries)
    searches = [query.search for query in queries]
    with closing(Gpu()) as gpu:
        ranker = CudaRanker(gpu, recommender.item_vectors, "fp32", len(queries) - 1, 1)
        parts = slice(0, 5), slice(5, None), slice(None)
        found = [ranker.rank(expected.user_vectors[part], searches[part]) for part in parts]
    for part, rankings in zip(parts, found, strict=True):
        vectors = expected.user_vectors[part]
        assert_ranked_alike(
            Ranked(vectors, rankings, 0, 0), Ranked(vectors, expected.rankings[part], 0, 0)
        )
    assert on_cpu.num_users == len(queries)
    assert cuda.num_live == 0
