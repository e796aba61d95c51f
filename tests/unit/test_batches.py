"""Prompts that are all at hand are split into batches of similar length."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llmsrec.batches import split_by_length


@given(lengths=st.lists(st.integers(1, 30), max_size=40), max_tokens=st.integers(1, 90))
def test_each_prompt_is_in_one_batch_that_fits_and_could_hold_no_more(
    lengths: list[int], max_tokens: int
) -> None:
    def fits(num_prompts: int, longest: int) -> bool:
        assert num_prompts > 1
        return num_prompts * longest <= max_tokens

    batches = list(split_by_length(lengths, fits))
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths)
    assert all(len(batch) == 1 or fits(len(batch), lengths[batch[-1]]) for batch in batches)
    for batch, following in pairwise(batches):
        assert not fits(len(batch) + 1, lengths[following[0]])


def test_prompts_of_one_length_keep_their_order() -> None:
    assert list(split_by_length([5, 3, 5, 5], lambda number, _: number <= 3)) == [[1, 0, 2], [3]]


def test_prompt_that_is_too_long_is_a_batch_of_its_own() -> None:
    assert list(split_by_length([9, 8], lambda *_: False)) == [[1], [0]]
