"""Micro-batches are as large as configured, and else as large as the bundle is ready for."""

from pathlib import Path

import msgspec
import pytest

from engine.config import BatcherConfig
from engine.manifest import Bucket, Manifest, Plan, read_manifest
from engine.micro_batch import Limits, choose_limits

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
    assert choose_limits(BatcherConfig(), on_gpu) == Limits(max_tokens=16 * 1024, max_prompts=42)


@pytest.mark.parametrize(
    ("config", "limits"),
    [
        (BatcherConfig(max_batch_tokens=500), Limits(500, 42)),
        (BatcherConfig(max_batch_size=7), Limits(16 * 1024, 7)),
        (BatcherConfig(max_batch_tokens=9, max_batch_size=1), Limits(9, 1)),
    ],
)
def test_each_configured_limit_holds_alone(
    manifest: Manifest, config: BatcherConfig, limits: Limits
) -> None:
    assert choose_limits(config, msgspec.structs.replace(manifest, plan=PLAN)) == limits
