"""The GPU's masked top-k against NumPy and the CPU's kernel, emulated and on a GPU."""

from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.device_topk import DeviceCall, DeviceTopK
from support.emulated_topk import ITEM_DTYPES, EmulatedTopK, Launch, inputs, rounded
from test_topk import (
    NO_ROWS,
    Case,
    assert_identical,
    oracle_rows,
    random_search,
    searches,
    with_integer_vectors,
)

launches = st.builds(
    Launch,
    num_blocks=st.sampled_from([1, 2, 7, 100]),
    is_wide=st.booleans(),
    is_reversed=st.booleans(),
    workspace_byte=st.sampled_from([0, 0x25, 0xA5]),
)
item_dtypes = st.sampled_from(ITEM_DTYPES)
TopK = EmulatedTopK | DeviceTopK


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> EmulatedTopK:
    return EmulatedTopK(tmp_path_factory.mktemp("emulation"))


@pytest.fixture(scope="session")
def device() -> DeviceTopK:
    return DeviceTopK()


@pytest.fixture(scope="session", params=["emulated", pytest.param("device", marks=pytest.mark.gpu)])
def topk(request: pytest.FixtureRequest) -> TopK:
    made: TopK = request.getfixturevalue(request.param)
    return made


@settings(deadline=None, max_examples=60)
@given(search=searches, item_dtype=item_dtypes)
def test_ties_and_exclusions_rank_as_numpy_ranks_them(
    topk: TopK, search: Case, item_dtype: str
) -> None:
    search = with_integer_vectors(search)
    for query, (rows, scores) in enumerate(topk.rank(search, item_dtype)):
        expected = oracle_rows(search, query)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(scores, search.items[expected] @ search.users[query])


@settings(deadline=None, max_examples=60)
@given(search=searches, item_dtype=item_dtypes)
def test_rankings_are_the_cpu_kernels_to_the_last_bit(
    topk: TopK, search: Case, item_dtype: str
) -> None:
    search = rounded(search, item_dtype)
    assert_identical(topk.rank(search, item_dtype), search.run())


@settings(deadline=None, max_examples=60)
@given(search=searches, item_dtype=item_dtypes, launch=launches)
def test_neither_order_nor_split_nor_stale_memory_changes_a_ranking(
    emulated: EmulatedTopK, search: Case, item_dtype: str, launch: Launch
) -> None:
    search = rounded(search, item_dtype)
    assert_identical(emulated.rank(search, item_dtype, launch=launch), search.run())


@pytest.mark.parametrize("item_dtype", ITEM_DTYPES)
def test_scores_that_are_not_finite_rank_as_on_the_cpu(topk: TopK, item_dtype: str) -> None:
    rng = np.random.default_rng(5)
    items = rng.choice(np.array([np.nan, np.inf, -np.inf, -0.0, 0, 1, -1], np.float32), (900, 2))
    search = Case(np.array([[1, 0], [0, 1], [1, 1]], np.float32), items, [NO_ROWS] * 3, [900] * 3)
    assert_identical(topk.rank(search, item_dtype), search.run())


def test_scores_that_underflow_tie_with_zero(topk: TopK) -> None:
    items = np.zeros((4, 8), np.float32)
    items[:, -1] = [1e-30, 0, -1e-30, 0]
    search = Case(np.full((1, 8), -1e-30, np.float32), items, [NO_ROWS], [4])
    (rows, _), *_ = topk.rank(search, "float32")
    np.testing.assert_array_equal(rows, [0, 1, 2, 3])


def test_places_without_an_item_hold_minus_one_and_minus_infinity(topk: TopK) -> None:
    vectors = np.ones((2, 3), np.float32)
    everything = np.array([0, 1], np.int32)
    search = Case(vectors, vectors, [everything, NO_ROWS], [1, 9])
    (rows, _), (other_rows, scores) = topk.rank(search, "float32")
    assert rows.size == 0
    np.testing.assert_array_equal(other_rows, [0, 1])
    np.testing.assert_array_equal(scores, [3, 3])


def test_no_items_give_empty_rankings(topk: TopK) -> None:
    vectors = np.ones((2, 3), np.float32)
    for rows, scores in topk.rank(Case(vectors, vectors[:0], [NO_ROWS] * 2, [5, 0]), "float32"):
        assert rows.size == scores.size == 0


@pytest.mark.parametrize("direction", [1, -1], ids=["ascending", "descending"])
def test_sorted_catalogues_rank_correctly(topk: TopK, direction: int) -> None:
    items = direction * np.arange(1, 3001, dtype=np.float32)[:, None]  # [N, 1]
    search = Case(np.ones((3, 1), np.float32), items, [NO_ROWS] * 3, [1, 70, 3000])
    for query, (rows, _) in enumerate(topk.rank(search, "float32")):
        np.testing.assert_array_equal(rows, oracle_rows(search, query))


def test_exclusions_out_of_order_harm_no_other_query(topk: TopK) -> None:
    items = np.zeros((2000, 1), np.float32)
    items[1528] = 1
    out_of_order = np.array([1418, 1368], np.int32)
    search = Case(np.ones((2, 1), np.float32), items, [NO_ROWS, out_of_order], [1, 1])
    (rows, _), *_ = topk.rank(search, "float32")
    np.testing.assert_array_equal(rows, [1528])


@pytest.mark.parametrize("num_users", [5, 70])
def test_what_shares_a_batch_changes_nothing(topk: TopK, num_users: int) -> None:
    search = rounded(random_search(2, num_users, num_items=3000, dim=128, k=50), "float16")
    alone = [
        topk.rank(Case(search.users[[query]], search.items, [excluded], [k]), "float16")[0]
        for query, (excluded, k) in enumerate(zip(search.excluded_rows, search.k, strict=True))
    ]
    assert_identical(topk.rank(search, "float16"), alone)


def test_half_precision_widens_as_numpy_widens_it(emulated: EmulatedTopK) -> None:
    bits = np.arange(1 << 16).astype(np.uint16)
    widened = [emulated.widen_float16(int(value)) for value in bits]
    np.testing.assert_array_equal(np.array(widened, np.float32), bits.view(np.float16))


@pytest.mark.gpu
def test_a_graph_replays_a_call_with_new_inputs(device: DeviceTopK) -> None:
    first, second = (
        rounded(random_search(seed, 20, 5000, 64, k=40), "float16") for seed in (10, 11)
    )
    first = Case(first.users, first.items, [np.arange(5000, dtype=np.int32)] * 20, [40] * 20)
    with ExitStack() as stack:
        call = DeviceCall(device, first, "float16", stack)
        call.queue()
        assert all(rows.size == 0 for rows, _ in call.results())
        graph = device.capture(call, stack)
        call.replace(inputs(second, "float16"))
        device.call("cudaGraphLaunch", graph, call.stream)
        assert_identical(call.results(), second.run())


@pytest.mark.gpu
@pytest.mark.parametrize("item_dtype", ITEM_DTYPES)
@pytest.mark.parametrize("num_users", [1, 64, 130])
def test_large_catalogues_rank_as_on_the_cpu(
    device: DeviceTopK, num_users: int, item_dtype: str
) -> None:
    search = rounded(random_search(7, num_users, 1_000_003, 128, k=1000), item_dtype)
    assert_identical(device.rank(search, item_dtype), search.run(num_threads=8))
