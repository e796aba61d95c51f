"""CausalAttention against ONNX Runtime's own Attention."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, RuntimeException
from support.operator_models import model, node, run

Arrays = dict[str, NDArray[Any]]
INPUTS = "query key value"


def random_feed(num_prompts: int, num_tokens: int, widths: tuple[int, int]) -> Arrays:
    rng = np.random.default_rng(num_tokens)
    query_width, key_width = widths
    return {
        name: rng.standard_normal((num_prompts, num_tokens, width), np.float32)
        for name, width in zip(INPUTS.split(), (query_width, key_width, key_width), strict=True)
    }


def attend(feed: Arrays, heads: tuple[int, int], num_threads: int = 1) -> NDArray[np.float32]:
    counts = {"q_num_heads": heads[0], "kv_num_heads": heads[1]}
    made = node("CausalAttention", INPUTS, "attended", **counts)
    return run(model([made], feed, {"attended": np.float32}), feed, num_threads)[0]


def attend_as_onnx_does(feed: Arrays, heads: tuple[int, int]) -> NDArray[np.float32]:
    counts: dict[str, Any] = {"q_num_heads": heads[0], "kv_num_heads": heads[1]}
    made = helper.make_node("Attention", INPUTS.split(), ["attended"], is_causal=1, **counts)
    return run(model([made], feed, {"attended": np.float32}), feed)[0]


@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (6, 2), (9, 3), (4, 1)])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 33), (1, 64), (2, 65), (1, 150)])
@pytest.mark.parametrize("dim", [8, 64, 80])
def test_grouped_heads_attend_as_those_of_onnx(
    heads: tuple[int, int], shape: tuple[int, int], dim: int
) -> None:
    feed = random_feed(*shape, widths=(heads[0] * dim, heads[1] * dim))
    found = attend(feed, heads)
    np.testing.assert_allclose(found, attend_as_onnx_does(feed, heads), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_threads", [2, 4])
def test_thread_count_changes_nothing(num_threads: int) -> None:
    feed = random_feed(8, 300, widths=(6 * 64, 2 * 64))
    np.testing.assert_array_equal(attend(feed, (6, 2), num_threads), attend(feed, (6, 2)))


def test_what_shares_a_batch_changes_nothing() -> None:
    feed = random_feed(3, 70, widths=(2 * 64, 64))
    together = attend(feed, (2, 1))
    for prompt in range(3):
        alone = {name: array[[prompt]] for name, array in feed.items()}
        np.testing.assert_array_equal(attend(alone, (2, 1))[0], together[prompt])


@pytest.mark.parametrize("dim", [8, 48, 64, 80])
@pytest.mark.parametrize("num_tokens", [1, 5, 34, 71])
def test_padding_behind_a_prompt_changes_nothing(num_tokens: int, dim: int) -> None:
    feed = random_feed(1, 80, widths=(2 * dim, dim))
    short = {name: array[:, :num_tokens] for name, array in feed.items()}
    found = attend(feed, (2, 1))[:, :num_tokens]
    np.testing.assert_array_equal(found, attend(short, (2, 1)))


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
def test_no_tokens_attend_to_nothing(shape: tuple[int, int]) -> None:
    feed = random_feed(*shape, widths=(64, 64))
    assert attend(feed, (1, 1)).shape == (*shape, 64)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("query", (2, 5, 97), r"queries \[B, T, H \* D\]; got \[2, 5, 97\]"),
        ("query", (2, 5, 0), r"queries \[B, T, H \* D\]; got \[2, 5, 0\]"),
        ("query", (5, 64), r"queries \[B, T, H \* D\]; got \[5, 64\]"),
        ("query", (2, 1, 5, 64), r"queries \[B, T, H \* D\]; got \[2, 1, 5, 64\]"),
        ("key", (2, 5, 64), r"keys \[B, T, heads \* D\] beside the queries; got \[2, 5, 64\]"),
        ("key", (2, 6, 32), "beside the queries; got"),
        ("key", (1, 5, 32), "beside the queries; got"),
        ("value", (2, 5, 64), r"values like the keys; got \[2, 5, 64\]"),
        ("value", (2, 4, 32), "values like the keys; got"),
    ],
)
def test_unfit_shapes_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    feed = random_feed(2, 5, widths=(64, 32))
    feed[name] = np.ones(shape, np.float32)
    with pytest.raises(InvalidArgument, match=message):
        attend(feed, (2, 1))


@pytest.mark.parametrize("heads", [(3, 2), (2, 4), (0, 1), (1, 0), (-2, -1), (2, -1)])
def test_heads_that_do_not_divide_are_refused(heads: tuple[int, int]) -> None:
    feed = random_feed(2, 5, widths=(96, 64))
    with pytest.raises(RuntimeException, match="q_num_heads to be a multiple"):
        attend(feed, heads)


def test_missing_head_counts_are_refused() -> None:
    feed = random_feed(2, 5, widths=(64, 64))
    made = model([node("CausalAttention", INPUTS, "y")], feed, {"y": np.float32})
    with pytest.raises(RuntimeException, match="q_num_heads"):
        run(made, feed)
