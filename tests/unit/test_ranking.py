"""What rankers share: searches packed for the kernels, and item vectors in lower precision."""

import numpy as np
import pytest
import torch

from engine.config import ItemPrecision
from engine.errors import ConfigError
from engine.query import Search
from engine.ranking.ranker import PackedSearches, pack, pack_into
from engine.ranking.stored_items import store

SEARCHES = [
    Search(k=9, excluded_rows=np.array([1, 4], np.int32)),
    Search(k=2, excluded_rows=np.empty(0, np.int32)),
    Search(k=5, excluded_rows=np.array([0], np.int32)),
]


def assert_packed(packed: PackedSearches) -> None:
    assert packed.excluded_rows.tolist() == [1, 4, 0]
    assert packed.excluded_offsets.tolist() == [0, 2, 2, 3]
    assert packed.k.tolist() == [6, 2, 5]


def test_searches_are_packed_with_k_within_the_catalogue() -> None:
    assert_packed(pack(SEARCHES, num_items=6))


def test_packing_into_larger_arrays_gives_their_beginnings() -> None:
    arrays = PackedSearches(
        np.full(10, 7, np.int32), np.full(8, 7, np.int64), np.full(5, 7, np.int32)
    )
    packed = pack_into(arrays, SEARCHES, num_items=6)
    assert_packed(packed)
    assert all(np.shares_memory(*pair) for pair in zip(packed, arrays, strict=True))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_items_are_rounded_as_pytorch_rounds_them(
    precision: ItemPrecision, dtype: torch.dtype
) -> None:
    exact = np.random.default_rng(0).standard_normal((50, 128), np.float32)
    exact[0, :4] = [1 + 2**-8, 1 + 3 * 2**-8, -0.0, 1 + 2**-8 + 2**-20]
    stored, name, widened = store(exact, precision)
    expected = torch.from_numpy(exact).to(dtype)
    np.testing.assert_array_equal(widened, expected.float().numpy())
    assert name == str(dtype).removeprefix("torch.")
    bits = np.ascontiguousarray(stored).view(np.uint16)
    np.testing.assert_array_equal(bits, expected.view(torch.uint16).numpy())


def test_value_beyond_the_range_of_fp16_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r'beyond fp16.*item_precision to "bf16"'):
        store(np.full((1, 4), -7e4, np.float32), "fp16")


def test_fp32_items_are_kept_as_they_are() -> None:
    exact = np.ones((2, 3), np.float32)
    stored, name, widened = store(exact, "fp32")
    assert stored is exact
    assert widened is exact
    assert name == "float32"
