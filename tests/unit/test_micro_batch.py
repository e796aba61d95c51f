"""Micro-batches are as large as configured, and else as large as the bundle is ready for."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.batching.micro_batch import Limits, choose_limits, split
from engine.bundle.manifest import Bucket, Manifest, Plan, read_manifest
from engine.config import BatcherConfig

BUCKETS = [Bucket(1, 384), Bucket(42, 384), Bucket(16, 1024)]
PLAN = Plan(
    graph_sha256="0" * 64,
    library="tensorrt",
    library_version="11",
    compute_capabilities=[],
    buckets=BUCKETS,
)


@pytest.fixture
def manifest(reference_bundle: Path) -> Manifest:
    return read_manifest(reference_bundle)


def test_cpu_takes_small_micro_batches(manifest: Manifest) -> None:
    assert choose_limits(BatcherConfig(), manifest) == Limits(max_tokens=2048, max_prompts=32)


@pytest.mark.parametrize("entry", [{"plan": PLAN}, {"buckets": BUCKETS}], ids=["plan", "buckets"])
def test_gpu_takes_what_its_bundle_was_made_ready_for(
    manifest: Manifest, entry: dict[str, object]
) -> None:
    on_gpu = msgspec.structs.replace(manifest, **entry)
    assert choose_limits(BatcherConfig(), on_gpu) == Limits(16 * 1024, 42, tuple(BUCKETS))


@pytest.mark.parametrize(
    ("config", "limits"),
    [
        (BatcherConfig(max_batch_tokens=500), Limits(500, 42, tuple(BUCKETS))),
        (BatcherConfig(max_batch_size=7), Limits(16 * 1024, 7, tuple(BUCKETS))),
        (BatcherConfig(max_batch_tokens=9, max_batch_size=1), Limits(9, 1, tuple(BUCKETS))),
    ],
)
def test_each_configured_limit_holds_alone(
    manifest: Manifest, config: BatcherConfig, limits: Limits
) -> None:
    assert choose_limits(config, msgspec.structs.replace(manifest, plan=PLAN)) == limits


@pytest.mark.parametrize(
    ("num_prompts", "longest", "is_allowed"),
    [
        (42, 384, True),
        (43, 100, False),
        (16, 1024, True),
        (17, 1024, False),
        (17, 385, False),
        (1, 5000, True),
    ],
)
def test_gpu_runs_a_micro_batch_as_a_whole(
    num_prompts: int, longest: int, is_allowed: bool
) -> None:
    limits = Limits(max_tokens=17_000, max_prompts=50, buckets=BUCKETS)
    assert limits.allow(num_prompts, longest) == is_allowed


@given(
    lengths=st.lists(st.integers(1, 1024), max_size=200),
    limits=st.sampled_from([Limits(), Limits(1, 1), Limits(16 * 1024, 42, BUCKETS)]),
)
def test_split_keeps_every_prompt_within_the_limits(lengths: list[int], limits: Limits) -> None:
    batches = list(split(lengths, limits))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert limits.allow(len(batch), max(lengths[index] for index in batch))
