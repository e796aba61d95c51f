"""The published code's files are read whole, or refused by file name and expected shape."""

import argparse
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from llmsrec.errors import CheckpointError
from llmsrec.reference_files import ReferenceFiles, read_reference

LLM_DIM = 64
NUM_ITEMS = 400
PROJECTOR = "Golden_llama-3b_1_item_proj.pt"
USER_HEAD = "Golden_llama-3b_1_pred_user.pt"
ITEM_HEAD = "Golden_llama-3b_1_pred_item.pt"
USER_READOUT = "Golden_llama-3b_1_CLS.pt"
ITEM_READOUT = "Golden_llama-3b_1_CLS_item.pt"
SASREC = "SASRec_saving.epoch=200.lr=0.001.layer=2.head=1.hidden=64.maxlen=128.pth"
TITLES = "text_name_dict.json.gz"


@pytest.fixture
def weights_dir(reference_dir: Path, tmp_path: Path) -> Path:
    """A copy of the reference's weights to damage."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for path in (reference_dir / "llm_srec").iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


@pytest.fixture
def reference(reference_dir: Path) -> ReferenceFiles:
    return read_reference(reference_dir / "llm_srec")


def load(path: Path) -> object:
    return torch.load(path, weights_only=False)


def read_titles(folder: Path) -> dict[str, dict[int, object]]:
    content: dict[str, dict[int, object]] = pickle.loads((folder / TITLES).read_bytes())
    return content


def write_titles(folder: Path, content: object) -> None:
    (folder / TITLES).write_bytes(pickle.dumps(content))


def change_state(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load(path)
    assert isinstance(state, dict)
    change(state)
    torch.save(state, path)


def test_heads_are_the_files_tensors(reference: ReferenceFiles, reference_dir: Path) -> None:
    projector = load(reference_dir / "llm_srec" / PROJECTOR)
    item_head = load(reference_dir / "llm_srec" / ITEM_HEAD)
    item_readout = load(reference_dir / "llm_srec" / ITEM_READOUT)
    assert isinstance(projector, dict)
    assert isinstance(item_head, dict)
    assert isinstance(item_readout, dict)
    assert len(reference.heads) == 3 * 6 + 2
    torch.testing.assert_close(reference.heads["item_emb_proj.3.weight"], projector["3.weight"])
    torch.testing.assert_close(reference.heads["pred_item.1.bias"], item_head["1.bias"])
    torch.testing.assert_close(reference.heads["CLS_item"], item_readout["weight"][0])
    assert reference.heads["CLS"].shape == (LLM_DIM,)
    assert not torch.equal(reference.heads["CLS"], reference.heads["CLS_item"])


def test_item_table_starts_at_the_first_item(reference: ReferenceFiles) -> None:
    assert reference.item_table.shape == (NUM_ITEMS, 64)
    assert reference.item_table.dtype == torch.float32
    table = reference.sasrec["item_emb.weight"]
    torch.testing.assert_close(reference.item_table, table[1:])
    assert len(table) == NUM_ITEMS + 1


def test_titles_are_those_of_the_reference_prompts(
    reference: ReferenceFiles, reference_dir: Path
) -> None:
    cases = json.loads((reference_dir / "cases.json").read_text())
    history, prompt = next(iter(cases["histories"].values())), cases["prompts"][0]
    for item_id, _ in history[-10:]:
        assert f'"{reference.titles[item_id - 1]}"[HistoryEmb]' in prompt
    assert len(reference.titles) == NUM_ITEMS


def test_only_an_absent_title_is_replaced(weights_dir: Path) -> None:
    content = read_titles(weights_dir)
    del content["title"][2]
    content["title"][3] = ""
    content["title"][4] = "Empty title"
    write_titles(weights_dir, content)
    assert read_reference(weights_dir).titles[1:4] == ["No Title", "", "Empty title"]


def test_bare_and_half_precision_parameters_are_read_alike(
    weights_dir: Path, reference: ReferenceFiles
) -> None:
    for name in (USER_READOUT, ITEM_READOUT):
        state = load(weights_dir / name)
        assert isinstance(state, dict)
        torch.save(torch.nn.Parameter(state["weight"]), weights_dir / name)
    change_state(
        weights_dir / USER_HEAD, lambda state: state.update({"3.bias": state["3.bias"].half()})
    )
    content = load(weights_dir / SASREC)
    assert isinstance(content, list)
    settings, sasrec = content
    settings["args"].device = torch.device("cuda", 0)
    for name in ("item_emb", "pos_emb"):
        sasrec[name] = torch.nn.Parameter(sasrec.pop(f"{name}.weight"))
    torch.save([settings, sasrec], weights_dir / SASREC)

    found = read_reference(weights_dir)

    torch.testing.assert_close(found.heads, reference.heads, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.sasrec, reference.sasrec)
    torch.testing.assert_close(found.item_table, reference.item_table)
    assert not any(tensor.requires_grad for tensor in (found.heads | found.sasrec).values())


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        (PROJECTOR, r"\*_item_proj\.pt"),
        (USER_HEAD, r"\*_pred_user\.pt"),
        (ITEM_HEAD, r"\*_pred_item\.pt"),
        (USER_READOUT, r"\*_CLS\.pt"),
        (ITEM_READOUT, r"\*_CLS_item\.pt"),
        (SASREC, r"SASRec_saving\.\*\.pth"),
        (TITLES, r"text_name_dict\.json\.gz"),
    ],
)
def test_a_missing_file_is_named(weights_dir: Path, name: str, pattern: str) -> None:
    (weights_dir / name).unlink()
    with pytest.raises(CheckpointError, match=f"weights lacks {pattern}"):
        read_reference(weights_dir)


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere lacks"):
        read_reference(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [PROJECTOR, ITEM_READOUT, SASREC])
def test_files_of_two_trainings_are_refused(weights_dir: Path, name: str) -> None:
    other = name.replace("_1_", "_2_").replace("200", "100")
    shutil.copyfile(weights_dir / name, weights_dir / other)
    with pytest.raises(CheckpointError) as refusal:
        read_reference(weights_dir)
    assert name in str(refusal.value)
    assert other in str(refusal.value)


def test_a_head_of_another_training_is_refused(weights_dir: Path) -> None:
    (weights_dir / USER_HEAD).rename(weights_dir / USER_HEAD.replace("_1_", "_2_"))
    with pytest.raises(CheckpointError, match=r"Golden_llama-3b_1, Golden_llama-3b_2"):
        read_reference(weights_dir)


@pytest.mark.parametrize(
    ("name", "key", "shape", "message"),
    [
        (PROJECTOR, "0.weight", [64, 50], r"0\.weight is \[64, 50\], expected \[64, 64\]"),
        (PROJECTOR, "0.weight", [64], r"expected 0\.weight \[LLM width, 64\]"),
        (PROJECTOR, "3.bias", [63], r"3\.bias is \[63\], expected \[64\]"),
        (PROJECTOR, "0.weight", [96, 64], r"0\.bias is \[64\], expected \[96\]"),
        (USER_HEAD, "0.weight", [2048, 96], r"0\.weight is \[2048, 96\], expected \[2048, 64\]"),
        (USER_HEAD, "3.weight", [64, 2048], r"3\.weight is \[64, 2048\], expected \[128, 2048\]"),
        (ITEM_HEAD, "1.weight", [64], r"1\.weight is \[64\], expected \[2048\]"),
        (ITEM_HEAD, "4.weight", [64], r"unexpected 4\.weight"),
        (USER_READOUT, "weight", [2, 64], r"weight is \[2, 64\], expected \[1, 64\]"),
        (ITEM_READOUT, "weight", [1, 96], r"weight is \[1, 96\], expected \[1, 64\]"),
    ],
)
def test_a_wrong_shape_is_named_with_its_file(
    weights_dir: Path, name: str, key: str, shape: list[int], message: str
) -> None:
    change_state(weights_dir / name, lambda state: state.update({key: torch.zeros(shape)}))
    with pytest.raises(CheckpointError, match=f"{name}: {message}"):
        read_reference(weights_dir)


def test_a_missing_tensor_is_named(weights_dir: Path) -> None:
    change_state(weights_dir / ITEM_HEAD, lambda state: state.pop("3.bias"))
    with pytest.raises(CheckpointError, match=r"3\.bias is missing, expected \[128\]"):
        read_reference(weights_dir)


@pytest.mark.parametrize("content", [[1, 2], {"0.weight": "text"}, {}])
def test_a_head_without_tensors_is_refused(weights_dir: Path, content: object) -> None:
    torch.save(content, weights_dir / ITEM_HEAD)
    with pytest.raises(CheckpointError, match=f"{ITEM_HEAD}: .*expected"):
        read_reference(weights_dir)


TABLE = {"item_emb.weight": torch.zeros(5, 64)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "a list of the settings and the state dict"),
        (["settings", TABLE], "the settings as a dictionary"),
        ([{"args": argparse.Namespace()}, TABLE], "item_num"),
        ([{"item_num": 4}, {"pos_emb.weight": torch.zeros(1)}], r"missing, expected \[5, 64\]"),
        ([{"item_num": 0}, {"item_emb.weight": torch.zeros(1, 64)}], "item_num"),
        ([{"item_num": 3}, TABLE], r"item_emb.weight is \[5, 64\], expected \[4, 64\]"),
        ([{"item_num": 4}, {"item_emb.weight": torch.zeros(5, 50)}], r"\[5, 50\], expected"),
    ],
)
def test_an_unfit_sasrec_is_refused(weights_dir: Path, content: object, message: str) -> None:
    torch.save(content, weights_dir / SASREC)
    with pytest.raises(CheckpointError, match=rf"SASRec_saving.*\.pth: .*{message}"):
        read_reference(weights_dir)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a dictionary, found list"),
        ({"time": {}}, "a dictionary with the items' titles"),
        ({"title": {1: "A title"}}, "the times of their interactions"),
        ({"title": {"1": "A title", 401: "Another"}, "time": {}}, "no title for any item id"),
        ({"title": {1: "A title", 2: ["b"]}, "time": {}}, r"the title of item 2 is \['b'\], not"),
        ({"title": {"1": "A title"}, "time": {}}, r"to 400 \(one of its keys is '1'\); use"),
        ({"title": {1: "A title"}, "time": {}}, "'time' holds no interaction with an item from 1"),
        ({"title": {1: "A title"}, "time": {1: 5}}, "expected times by item, user"),
        ({"title": {1: "A title"}, "time": {1: {9: -5}}}, "no interaction .* that could be dated"),
        ({"title": {1: "A title"}, "time": {1: {9: "soon"}}}, "'soon' is no time"),
    ],
)
def test_an_unfit_dictionary_is_refused(weights_dir: Path, content: object, message: str) -> None:
    write_titles(weights_dir, content)
    with pytest.raises(CheckpointError, match=rf"text_name_dict\.json\.gz.*{message}"):
        read_reference(weights_dir)


def test_histories_hold_the_newest_interactions_oldest_first(weights_dir: Path) -> None:
    content = read_titles(weights_dir)
    times: dict[int, dict[str, object]] = {n: {"ann": str(1000 + n)} for n in range(1, 13)}
    times[2]["bob"] = 7
    times[401] = {"bob": 9}
    write_titles(weights_dir, content | {"time": times})
    ann, bob = read_reference(weights_dir).histories
    assert ann == (list(range(2, 12)), list(range(1003, 1013)))
    assert bob == ([1], [7])


KINDS_OF_TIMES: dict[str, tuple[object, int | None]] = {
    "before 1970": (-86_400_000, None),
    "after 2099": (4_102_444_800_000, None),
    "seconds": (1_500_000_000, None),
    "missing": (None, None),
    "missing, as pandas says": (float("nan"), None),
    "infinite": (float("inf"), None),
    "float": (1.5e12, 1_500_000_000_000),
    "text of a float": ("1500000000000.0", 1_500_000_000_000),
    "text with spaces": (" 1500000000000\n", 1_500_000_000_000),
    "int64 of NumPy": (np.int64(1_500_000_000_000), 1_500_000_000_000),
    "float64 of NumPy": (np.float64(1.5e12), 1_500_000_000_000),
    "big-endian int of NumPy": (np.dtype(">i8").type(1_500_000_000_000), 1_500_000_000_000),
    "the first day": (0, 0),
}


@pytest.mark.parametrize(("time", "expected"), KINDS_OF_TIMES.values(), ids=KINDS_OF_TIMES)
def test_a_time_is_read_or_left_out_with_a_note(
    weights_dir: Path, time: object, expected: int | None
) -> None:
    times = {1: {"ann": time, "bob": 5}, 2: {"ann": 7}}
    write_titles(weights_dir, read_titles(weights_dir) | {"time": times})
    found = read_reference(weights_dir)
    ann = next(each for each in found.histories if 1 in each[0])
    if expected is None:
        assert ann == ([1], [7])
        assert ": 1 of 3 interactions, without a date from 1970 to 2099" in found.notes[-1]
    else:
        assert ann[1] == [7, expected] or ann[1] == [expected, 7]
        assert found.notes == []


def test_keys_of_numpy_are_item_ids(weights_dir: Path) -> None:
    content = read_titles(weights_dir)
    expected = read_reference(weights_dir)
    changed = {
        part: {np.int64(item_id): value for item_id, value in content[part].items()}
        for part in ("title", "time")
    }
    write_titles(weights_dir, content | changed)
    found = read_reference(weights_dir)
    assert (found.titles, found.histories) == (expected.titles, expected.histories)


def test_titles_stand_as_in_the_published_prompts_and_odd_ones_are_counted(
    weights_dir: Path,
) -> None:
    content = read_titles(weights_dir)
    del content["title"][1]
    content["title"] |= {2: None, 3: 7, 4: float("nan"), 5: "Robot \ud83d", 6: "\ud83d\ude00 whole"}
    write_titles(weights_dir, content)
    found = read_reference(weights_dir)
    expected = ["No Title", "None", "7", "nan", "Robot \ufffd", "\U0001f600 whole"]
    assert found.titles[:6] == expected
    counts = ["1 of 400 items (0.2%) without", "3 of 400 items (0.8%) with", "1 of 400 items"]
    assert [counts[n] in note for n, note in enumerate(found.notes)] == [True] * 3


def test_an_object_in_the_dress_of_a_number_is_refused(weights_dir: Path) -> None:
    write_titles(weights_dir, {"rank": np.datetime64("2020-01-01")})
    with pytest.raises(CheckpointError, match=r"a NumPy 'M8' is no number"):
        read_reference(weights_dir)


@pytest.mark.parametrize("name", [PROJECTOR, ITEM_READOUT])
def test_a_weight_that_is_not_finite_is_named(weights_dir: Path, name: str) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        next(iter(state.values()))[0] = torch.nan

    change_state(weights_dir / name, spoil)
    with pytest.raises(CheckpointError, match=f"{name}: .*weight holds NaN or infinity; train it"):
        read_reference(weights_dir)
