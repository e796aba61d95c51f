"""Bound buffers give the plain encoder's vectors: on the CPU here, on a GPU where there is one."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import Reference
from numpy.typing import NDArray
from rich.progress import Progress

from engine import Recommender, RecommendRequest
from engine.bundle.manifest import GRAPH_FILE, MANIFEST_FILE, Bucket, Precision, read_manifest
from engine.bundle.opened import Bundle, open_bundle
from engine.config import Config, EncoderConfig
from engine.encoders.cpu import OnnxRuntimeEncoder
from engine.encoders.encoder import Tower
from engine.encoders.graph_inputs import pack
from engine.encoders.onnxruntime_cuda.bound import BoundEncoder
from engine.encoders.onnxruntime_cuda.session import PROVIDER
from engine.errors import EncodingFailed, PlanError
from engine.pipelines.open import open_ranker
from engine.request import Prompt
from export.build import Settings, build
from export.errors import BuildError
from export.plan import PlanSettings
from llmsrec.checkpoint import Checkpoint
from llmsrec.prompt import MAX_PROMPT_TOKENS

BUCKETS = [Bucket(1, 512), Bucket(4, 512), Bucket(2, MAX_PROMPT_TOKENS)]
HAS_PROVIDER = PROVIDER in onnxruntime.get_available_providers()
NO_BARS = Progress(disable=True)
Vectors = NDArray[np.float32]


def cpu_session(bundle: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(bundle / GRAPH_FILE, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def plain(recommender: Recommender) -> OnnxRuntimeEncoder:
    bundle = recommender._bundle
    return OnnxRuntimeEncoder(bundle.path, bundle.item_table, EncoderConfig())


@pytest.fixture
def bound(recommender: Recommender) -> Iterator[BoundEncoder]:
    bundle = recommender._bundle
    with closing(
        BoundEncoder(cpu_session(bundle.path), BUCKETS, bundle.item_table, "cpu")
    ) as opened:
        yield opened


@pytest.fixture(scope="module")
def prompts(recommender: Recommender, reference: Reference) -> list[Prompt]:
    rendered = [recommender.render(RecommendRequest(each)).prompt for each in reference.histories]
    assert len({len(prompt) for prompt in rendered}) > 5
    return rendered


def assert_close(found: Vectors, expected: Vectors) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tower", ["user_vector", "item_vector"])
@pytest.mark.parametrize("num_prompts", [1, 2, 3, 4, 11])
def test_padding_to_buckets_changes_no_vector(
    plain: OnnxRuntimeEncoder,
    bound: BoundEncoder,
    prompts: list[Prompt],
    num_prompts: int,
    tower: Tower,
) -> None:
    some = prompts[:num_prompts]
    assert_close(bound.encode(some, tower), plain.encode(some, tower))


def test_nothing_of_an_earlier_run_is_left(bound: BoundEncoder, prompts: list[Prompt]) -> None:
    by_length = sorted(prompts, key=len)
    bound.encode(by_length[-4:], "user_vector")
    bound.encode(by_length[:3], "user_vector")
    for name, packed in pack(by_length[:3])._asdict().items():
        held = bound._bound[1]._inputs[name].numpy()
        padding = [(0, more - less) for more, less in zip(held.shape, packed.shape, strict=True)]
        np.testing.assert_array_equal(held, np.pad(packed, padding))


def test_vectors_outlive_the_next_run(bound: BoundEncoder, prompts: list[Prompt]) -> None:
    first = bound.encode(prompts[:1], "user_vector")
    kept = first.copy()
    bound.encode(prompts[1:2], "user_vector")
    np.testing.assert_array_equal(first, kept)


def test_buffers_stay_where_they_are(bound: BoundEncoder, prompts: list[Prompt]) -> None:
    def addresses() -> list[int]:
        values = [{**each._inputs, **each._outputs}.values() for each in bound._bound]
        return [value.data_ptr() for bucket in values for value in bucket]

    before = addresses()
    assert len(set(before)) == 5 * len(BUCKETS)
    bound.warm_up()
    bound.encode(prompts, "user_vector")
    assert addresses() == before


def test_each_bucket_has_a_cuda_graph_of_its_own(bound: BoundEncoder) -> None:
    ids = [int(each._options.get_run_config_entry("gpu_graph_id")) for each in bound._bound]
    assert ids == [1, 2, 3]


def test_all_runs_are_on_one_thread_whoever_asks(
    bound: BoundEncoder, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, session = [], bound._bound[0]._session
    run = session.run_with_iobinding

    def watched(*arguments: object) -> None:
        seen.append(threading.get_ident())
        run(*arguments)

    monkeypatch.setattr(session, "run_with_iobinding", watched)
    bound.warm_up()
    assert len(seen) == len(BUCKETS)
    other = threading.Thread(target=bound.encode, args=(prompts[:1], "user_vector"))
    other.start()
    other.join()
    assert len(seen) == len(BUCKETS) + 1
    assert len(set(seen)) == 1
    assert threading.get_ident() not in seen


def test_run_that_fails_is_an_error_with_its_size(
    bound: BoundEncoder, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(bound._bound[0]._session, "run_with_iobinding", fail)
    with pytest.raises(EncodingFailed, match="could not run 1 prompts of 512 tokens: out of mem"):
        bound.encode(prompts[:1], "user_vector")


@pytest.fixture(scope="module")
def fp16_bundle(reference_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cuda") / "bundle"
    settings = Settings("onnxruntime-cuda", "fp16", PlanSettings(buckets=BUCKETS))
    build(reference_checkpoint, path, settings, NO_BARS)
    return path


def test_bundle_names_its_sizes_and_holds_no_plan(fp16_bundle: Path) -> None:
    manifest = read_manifest(fp16_bundle)
    assert (manifest.backend, manifest.precision) == ("onnxruntime-cuda", "fp16")
    assert manifest.parity_runtime == "onnxruntime"
    assert manifest.plan is None
    assert manifest.buckets == [
        *(Bucket(1, 512), Bucket(2, 512), Bucket(3, 512), Bucket(4, 512)),
        *(Bucket(1, MAX_PROMPT_TOKENS), Bucket(2, MAX_PROMPT_TOKENS)),
    ]


def test_other_bundles_say_nothing_of_sizes(reference_bundle: Path) -> None:
    assert b'"buckets"' not in (reference_bundle / MANIFEST_FILE).read_bytes()


def test_fp16_graph_gives_its_vectors_through_bound_buffers(
    fp16_bundle: Path, prompts: list[Prompt]
) -> None:
    bundle = open_bundle(fp16_bundle)
    plain = OnnxRuntimeEncoder(bundle.path, bundle.item_table, EncoderConfig())
    expected = plain.encode(prompts, "user_vector")
    session = cpu_session(fp16_bundle)
    with closing(BoundEncoder(session, BUCKETS, bundle.item_table, "cpu")) as bound:
        found = bound.encode(prompts, "user_vector")
    assert cosines(found, expected).min() > 0.9999


def test_sizes_without_room_for_the_longest_prompt_are_refused_at_once(
    reference_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    settings = Settings("onnxruntime-cuda", "fp16", PlanSettings(buckets=[Bucket(4, 512)]))
    with pytest.raises(BuildError, match=f"add --profile 1x{MAX_PROMPT_TOKENS}"):
        build(reference_checkpoint, tmp_path / "bundle", settings, NO_BARS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(HAS_PROVIDER, reason="ONNX Runtime has CUDA")
def test_machine_without_cuda_is_told_so(fp16_bundle: Path) -> None:
    with pytest.raises(PlanError, match=rf"installed with .*; {PROVIDER} is needed: pip install"):
        Recommender.open(fp16_bundle)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_PROVIDER, reason="ONNX Runtime has no CUDA")
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_gpu_gives_the_vectors_of_fp32(
    reference_checkpoint: Checkpoint,
    plain: OnnxRuntimeEncoder,
    prompts: list[Prompt],
    tmp_path: Path,
    precision: Precision,
) -> None:
    build(reference_checkpoint, tmp_path / "b", Settings("onnxruntime-cuda", precision), NO_BARS)
    opened: Bundle = open_bundle(tmp_path / "b")
    expected = plain.encode(prompts, "user_vector")
    with closing(open_ranker(opened, Config())) as encoder:
        encoder.warm_up()
        captured = encoder.encode(prompts, "user_vector")
        replayed = encoder.encode(prompts[::-1], "user_vector")[::-1]
    assert cosines(captured, expected).min() > (0.99999 if precision == "fp32" else 0.999)
    assert cosines(replayed, captured).min() > 0.9999


def cosines(found: Vectors, expected: Vectors) -> Vectors:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosine: Vectors = np.einsum("pd,pd->p", found, expected) / lengths
    return cosine
