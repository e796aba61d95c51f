"""SASRec computes what the published code computes, on exactly the padding it was trained with."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from llmsrec.sasrec import MAX_LENGTH, SASRec, Shape, pad_sequences

NUM_ITEMS = 30


@pytest.fixture
def model() -> SASRec:
    torch.manual_seed(5)
    model = SASRec(NUM_ITEMS)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def normalise(states: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = states - states.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + 1e-8).sqrt()
    return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def encode_by_hand(weights: dict[str, Tensor], sequence: Tensor) -> Tensor:
    """Follow the description of the reference, one sequence `[T]` and one head at a time."""
    is_item = (sequence != 0).float()[:, None]
    states = weights["item_emb.weight"][sequence] * 8 + weights["pos_emb.weight"]
    states = states * is_item
    hidden_future = torch.full((len(sequence), len(sequence)), -torch.inf).triu(1)
    for block in range(2):
        queries = normalise(states, weights, f"attention_layernorms.{block}")
        attention = f"attention_layers.{block}"
        maps = weights[f"{attention}.in_proj_weight"].chunk(3)
        shifts = weights[f"{attention}.in_proj_bias"].chunk(3)
        q, k, v = (
            x @ w.T + b for x, w, b in zip((queries, states, states), maps, shifts, strict=True)
        )
        attended = (q @ k.T / 8 + hidden_future).softmax(-1) @ v
        attended = attended @ weights[f"{attention}.out_proj.weight"].T
        states = queries + attended + weights[f"{attention}.out_proj.bias"]
        states = normalise(states, weights, f"forward_layernorms.{block}")
        forward = f"forward_layers.{block}"
        hidden = states @ weights[f"{forward}.conv1.weight"][:, :, 0].T
        hidden = functional.relu(hidden + weights[f"{forward}.conv1.bias"])
        update = hidden @ weights[f"{forward}.conv2.weight"][:, :, 0].T
        states = (states + update + weights[f"{forward}.conv2.bias"]) * is_item
    return normalise(states, weights, "last_layernorm")


@pytest.mark.parametrize("length", [1, 7, MAX_LENGTH])
def test_states_are_those_of_the_description(model: SASRec, length: int) -> None:
    sequences = pad_sequences([np.arange(length, dtype=np.int32) % NUM_ITEMS])
    with torch.inference_mode():
        expected = encode_by_hand(model.state_dict(), sequences[0])
        torch.testing.assert_close(model.encode(sequences)[0], expected, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(
            model.user_states(sequences)[0], expected[-1], atol=2e-5, rtol=1e-4
        )


def test_parameter_names_and_shapes_are_those_of_published_checkpoints(model: SASRec) -> None:
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {
        "item_emb.weight": (31, 64),
        "pos_emb.weight": (128, 64),
        "last_layernorm.weight": (64,),
        "last_layernorm.bias": (64,),
    }
    for block in range(2):
        attention = f"attention_layers.{block}"
        expected[f"{attention}.in_proj_weight"] = (192, 64)
        expected[f"{attention}.in_proj_bias"] = (192,)
        expected[f"{attention}.out_proj.weight"] = (64, 64)
        expected[f"{attention}.out_proj.bias"] = (64,)
        for norm in ("attention_layernorms", "forward_layernorms"):
            expected[f"{norm}.{block}.weight"] = expected[f"{norm}.{block}.bias"] = (64,)
        for conv in ("conv1", "conv2"):
            expected[f"forward_layers.{block}.{conv}.weight"] = (64, 64, 1)
            expected[f"forward_layers.{block}.{conv}.bias"] = (64,)
    assert found == expected


def test_later_interactions_do_not_change_earlier_states(model: SASRec) -> None:
    rows = np.arange(MAX_LENGTH, dtype=np.int32) % NUM_ITEMS
    changed = rows.copy()
    changed[100:] = 3
    first, second = model.encode(pad_sequences([rows, changed]))
    torch.testing.assert_close(first[:100], second[:100])
    assert not torch.allclose(first[100:], second[100:])


def test_batched_states_are_those_of_single_sequences(model: SASRec) -> None:
    sequences = [np.arange(length, dtype=np.int32) for length in (1, 5, 30)]
    together = model.user_states(pad_sequences(sequences))
    alone = torch.cat([model.user_states(pad_sequences([rows])) for rows in sequences])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    model = SASRec(NUM_ITEMS, dropout=0.5)
    sequences = pad_sequences([np.arange(9, dtype=np.int32)])
    assert not torch.equal(model.encode(sequences), model.encode(sequences))
    model.eval()
    assert torch.equal(model.encode(sequences), model.encode(sequences))


def test_padding_stands_left_and_the_newest_are_kept() -> None:
    short = np.array([0, 4], np.int32)
    long = np.arange(10, dtype=np.int32)
    padded = pad_sequences([short, long, np.zeros(0, np.int32)], max_length=4)
    assert padded.dtype == torch.int64
    assert padded.tolist() == [[0, 0, 1, 5], [7, 8, 9, 10], [0, 0, 0, 0]]


def test_shape_of_the_model_is_free() -> None:
    model = SASRec(NUM_ITEMS, Shape(dim=8, num_blocks=1, num_heads=2, max_length=6))
    assert model.encode(pad_sequences([np.arange(3, dtype=np.int32)], 6)).shape == (1, 6, 8)
