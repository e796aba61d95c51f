"""Pickles of other people's making are read as data or refused by the name of what they call."""

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmsrec.errors import CheckpointError
from llmsrec.unpickle import load_pickle, load_torch

Load = Callable[[Path], object]
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Command:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.target}'",)


class Innocent:
    """A class that no reader knows."""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_that_runs_a_command_is_refused(tmp_path: Path, protocol: int) -> None:
    target, path = tmp_path / "ran", tmp_path / "titles"
    path.write_bytes(pickle.dumps({"title": Command(target)}, protocol))
    with pytest.raises(CheckpointError, match=rf"titles wants to call {os.name}\.system; refused"):
        load_pickle(path)
    assert not target.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_torch_file_that_runs_a_command_is_refused(tmp_path: Path, protocol: int) -> None:
    target, path = tmp_path / "ran", tmp_path / "head.pt"
    content = {"weight": torch.ones(2), "more": Command(target)}
    torch.save(content, path, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=rf"head\.pt wants to call .*{os.name}\.system"):
        load_torch(path)
    assert not target.exists()


@pytest.mark.parametrize("name", ["builtins eval", "torch.hub load", "torch.serialization load"])
def test_calls_without_a_shell_are_refused_too(tmp_path: Path, name: str) -> None:
    path = tmp_path / "titles"
    path.write_bytes(b"c" + name.replace(" ", "\n").encode() + b"\n.")
    with pytest.raises(CheckpointError, match=name.replace(" ", r"\.")):
        load_pickle(path)


def test_an_unknown_class_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.pt"
    torch.save(Innocent(), path)
    with pytest.raises(CheckpointError, match=r"wants to call .*\.Innocent; refused"):
        load_torch(path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_comes_back_as_it_was(tmp_path: Path, protocol: int) -> None:
    times: defaultdict[int, dict[int, int]] = defaultdict(dict)
    times[3][7] = 1_304_266_820_870
    content = {"title": {1: "Étoile", 2: ""}, "time": times, "more": OrderedDict(a=[1.5, None])}
    path = tmp_path / "titles"
    path.write_bytes(pickle.dumps(content, protocol))
    found = load_pickle(path)
    assert found == content
    assert isinstance(found, dict)
    assert found["time"].default_factory is dict


def test_tensors_and_a_command_line_come_back_as_they_were(tmp_path: Path) -> None:
    arguments = argparse.Namespace(device=torch.device("cuda", 1), maxlen=128)
    layer = torch.nn.Linear(3, 2)
    path = tmp_path / "model.pth"
    torch.save([{"args": arguments}, layer.state_dict(), layer.weight, torch.ones(2).half()], path)
    content = load_torch(path)
    assert isinstance(content, list)
    settings, state, parameter, halves = content
    assert settings == {"args": arguments}
    torch.testing.assert_close(state, layer.state_dict())
    torch.testing.assert_close(parameter, layer.weight)
    assert halves.dtype == torch.float16


@pytest.mark.parametrize("load", [load_pickle, load_torch])
@pytest.mark.parametrize("content", [b"", b"{}", b"no pickle at all", b"PK\x03\x04 no zip at all"])
def test_what_is_no_pickle_is_refused_with_its_name(
    tmp_path: Path, load: Load, content: bytes
) -> None:
    path = tmp_path / "strange"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"strange is no whole .*; copy it again"):
        load(path)


def test_a_zip_without_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/readme", "nothing")
    with pytest.raises(CheckpointError, match=r"head\.pt is no whole zip file of torch\.save"):
        load_torch(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, part: float) -> None:
    path = tmp_path / "cut"
    torch.save({"weight": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="cut is no whole zip file"):
        load_torch(path)
    whole = pickle.dumps({"title": dict.fromkeys(range(100), "A title")})
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(CheckpointError, match="cut is no whole plain pickle"):
        load_pickle(path)
