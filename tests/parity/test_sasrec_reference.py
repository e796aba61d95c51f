"""Our SASRec with the published code's weights, against its equations written out in NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from llmsrec.reference_files import ReferenceFiles, read_reference
from llmsrec.sasrec import SASRec, pad_sequences

Matrix = NDArray[np.float64]
Weights = dict[str, Matrix]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def reference(reference_dir: Path) -> ReferenceFiles:
    return read_reference(reference_dir / "llm_srec")


@pytest.fixture
def model(reference: ReferenceFiles) -> SASRec:
    model = SASRec(len(reference.item_table))
    model.load_state_dict(reference.sasrec)
    return model.eval()


def normalise(x: Matrix, weights: Weights, name: str) -> Matrix:
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-8)
    normalised: Matrix = centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return normalised


def attend(queries: Matrix, keys: Matrix, weights: Weights, name: str) -> Matrix:
    """One head; each position sees itself and all before it, padding or not."""
    matrices = np.split(weights[f"{name}.in_proj_weight"], 3)
    biases = np.split(weights[f"{name}.in_proj_bias"], 3)
    q, k, v = (
        x @ matrix.T + bias
        for x, matrix, bias in zip((queries, keys, keys), matrices, biases, strict=True)
    )
    scores = q @ k.T / np.sqrt(q.shape[-1])  # [T, T]
    scores[np.triu_indices(len(scores), 1)] = -np.inf
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    mixed: Matrix = shares @ v @ weights[f"{name}.out_proj.weight"].T
    return mixed + weights[f"{name}.out_proj.bias"]


def feed_forward(x: Matrix, weights: Weights, name: str) -> Matrix:
    hidden = x @ weights[f"{name}.conv1.weight"][..., 0].T + weights[f"{name}.conv1.bias"]
    inner = np.maximum(hidden, 0) @ weights[f"{name}.conv2.weight"][..., 0].T
    return x + inner + weights[f"{name}.conv2.bias"]


def expected_states(weights: Weights, ids: NDArray[np.int64]) -> Matrix:
    """Give the states `[T, D]` of one sequence of item ids, padded with 0 on the left."""
    is_item = (ids != 0)[:, None]
    width = weights["item_emb.weight"].shape[1]
    x = weights["item_emb.weight"][ids] * np.sqrt(width)
    x = (x + weights["pos_emb.weight"][: len(ids)]) * is_item  # [T, D]
    for block in range(2):
        queries = normalise(x, weights, f"attention_layernorms.{block}")
        x = queries + attend(queries, x, weights, f"attention_layers.{block}")
        x = normalise(x, weights, f"forward_layernorms.{block}")
        x = feed_forward(x, weights, f"forward_layers.{block}") * is_item
    return normalise(x, weights, "last_layernorm")


def as_weights(reference: ReferenceFiles) -> Weights:
    return {name: tensor.double().numpy() for name, tensor in reference.sasrec.items()}


def random_rows(length: int) -> NDArray[np.int32]:
    return np.random.default_rng(length).integers(0, 400, length, dtype=np.int32)


@pytest.mark.parametrize("length", [1, 2, 10, 127, 128, 140])
def test_states_are_those_of_the_published_equations(
    model: SASRec, reference: ReferenceFiles, length: int
) -> None:
    padded = pad_sequences([random_rows(length)])  # [1, T]
    with torch.no_grad():
        found = model.encode(padded)[0].numpy()
        newest = model.user_states(padded)[0].numpy()
    expected = expected_states(as_weights(reference), padded[0].numpy())
    is_item = padded[0].numpy() != 0
    np.testing.assert_allclose(found[is_item], expected[is_item], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(newest, expected[-1], rtol=0, atol=TOLERANCE)


def test_padding_is_part_of_the_input(model: SASRec, reference: ReferenceFiles) -> None:
    padded = pad_sequences([random_rows(10)])
    with torch.no_grad():
        found = model.user_states(padded)[0].numpy()
    weights = as_weights(reference)
    weights["pos_emb.weight"] = weights["pos_emb.weight"][-10:]
    stripped = expected_states(weights, padded[0, -10:].numpy())[-1]
    assert np.abs(found - stripped).max() > 100 * TOLERANCE


def test_evaluation_is_deterministic_and_training_is_not(model: SASRec) -> None:
    padded = pad_sequences([random_rows(20), random_rows(3)])
    with torch.no_grad():
        assert torch.equal(model.user_states(padded), model.user_states(padded))
        model.train()
        assert not torch.equal(model.user_states(padded), model.user_states(padded))
