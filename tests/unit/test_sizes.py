"""Micro-batches are as large as configured, and else as large as an encoder is ready for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import BatcherConfig
from engine.errors import EncodingFailed
from engine.sizes import Size, SizeLimits, choose_limits, sizes_within
from export.plan import measure_sizes
from llmsrec.prompt import MAX_PROMPT_TOKENS

READY = (Size(1, 384), Size(42, 384), Size(16, 1024))
ON_GPU = SizeLimits(max_prompts=42, max_padded_tokens=16 * 1024, ready=READY)
ONE, USUAL, LONG = Size(1, 384), Size(4, 384), Size(2, 1024)


def test_cpu_takes_small_micro_batches_of_any_size() -> None:
    limits = choose_limits(BatcherConfig(), ())
    assert limits == SizeLimits(max_prompts=32, max_padded_tokens=2048)
    assert limits.choose(3, 77) == Size(3, 77)
    assert limits.choose(32, 64) == Size(32, 64)
    assert limits.choose(33, 10) is None
    assert limits.choose(32, 65) is None


def test_gpu_takes_what_its_encoder_was_made_ready_for() -> None:
    assert choose_limits(BatcherConfig(), READY) == ON_GPU


@pytest.mark.parametrize(
    ("config", "limits"),
    [
        (BatcherConfig(max_batch_tokens=500), SizeLimits(42, 500, READY)),
        (BatcherConfig(max_batch_size=7), SizeLimits(7, 16 * 1024, READY)),
        (BatcherConfig(max_batch_tokens=9, max_batch_size=1), SizeLimits(1, 9, READY)),
    ],
)
def test_each_configured_limit_holds_alone(config: BatcherConfig, limits: SizeLimits) -> None:
    assert choose_limits(config, READY) == limits


@pytest.mark.parametrize(
    ("num_prompts", "longest", "size"),
    [
        (42, 384, Size(42, 384)),
        (43, 100, None),
        (16, 1024, Size(16, 1024)),
        (17, 1024, None),
        (17, 385, None),
        (1, 385, Size(16, 1024)),
        (1, 384, Size(1, 384)),
        (1, 5000, None),
    ],
)
def test_gpu_runs_a_micro_batch_as_a_whole(
    num_prompts: int, longest: int, size: Size | None
) -> None:
    limits = SizeLimits(max_prompts=50, max_padded_tokens=17_000, ready=READY)
    assert limits.choose(num_prompts, longest) == size


def test_budget_is_of_the_tokens_that_run_padding_included() -> None:
    ready = [Size(4, 1024), Size(1, 384), Size(1, 1024), Size(4, 384)]
    limits = choose_limits(BatcherConfig(max_batch_tokens=2048), ready)
    assert limits.choose(3, 384) == Size(4, 384)
    assert limits.choose(2, 400) is None
    assert limits.choose(1, 400) == Size(1, 1024)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([384], [(ONE, 1)]),
        ([100, 384], [(USUAL, 2)]),
        ([100] * 4, [(USUAL, 4)]),
        ([100] * 5, [(USUAL, 4), (ONE, 1)]),
        ([100] * 9, [(USUAL, 4), (USUAL, 4), (ONE, 1)]),
        ([385], [(LONG, 1)]),
        ([10, 1024, 10], [(USUAL, 2), (LONG, 1)]),
        ([1024, 10, 1024, 10], [(USUAL, 2), (LONG, 2)]),
    ],
)
def test_prompts_go_to_the_smallest_size_that_holds_them(
    lengths: list[int], expected: list[tuple[Size, int]]
) -> None:
    limits = choose_limits(BatcherConfig(), [ONE, USUAL, LONG])
    assert [(size, len(members)) for members, size in limits.split(lengths)] == expected


def test_prompt_that_no_size_holds_is_refused() -> None:
    with pytest.raises(EncodingFailed, match=r"no size of the bundle holds .* 1025 tokens"):
        list(ON_GPU.split([10, 1025]))


@given(
    lengths=st.lists(st.integers(1, 1024), max_size=200),
    limits=st.sampled_from([SizeLimits(), SizeLimits(1, 1), ON_GPU]),
)
def test_split_keeps_every_prompt_in_a_size_within_the_limits(
    lengths: list[int], limits: SizeLimits
) -> None:
    batches = list(limits.split(lengths))
    assert sorted(index for batch in batches for index in batch.members) == list(
        range(len(lengths))
    )
    for members, size in batches:
        longest = max(lengths[index] for index in members)
        assert size == limits.choose(len(members), longest)
        assert size.holds(len(members), longest)


def test_sizes_are_halves_and_three_quarters_down_to_one_user() -> None:
    assert sizes_within([Size(8, 1024), Size(5, 384), Size(1, 384)]) == [
        *(Size(num_prompts, 384) for num_prompts in (1, 2, 3, 5)),
        *(Size(num_prompts, 1024) for num_prompts in (1, 2, 3, 4, 6, 8)),
    ]


@given(
    lengths=st.lists(st.integers(2, MAX_PROMPT_TOKENS), min_size=1),
    num_prompts=st.integers(1, 100),
)
def test_two_thirds_of_what_is_run_were_asked_for(lengths: list[int], num_prompts: int) -> None:
    ready = sizes_within(measure_sizes(lengths))
    limits = choose_limits(BatcherConfig(), ready)
    for num_tokens in {size.num_tokens for size in ready}:
        batches = limits.split([num_tokens] * num_prompts)
        num_run = sum(size.num_prompts for _, size in batches)
        assert num_prompts >= num_run * 2 / 3
