"""The README's code runs, its commands exist with the flags it names, its links lead somewhere."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import takewhile
from pathlib import Path

import msgspec
import pytest

from engine.config import Config
from engine.sizes import SizeLimits
from perf.server_process import serving

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    "README.md",
    "perf/README.md",
    *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*")),
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    text = "\n".join(blocks("sh")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words for words in lines if words[:1] == ["python"]]


def is_no_flag(word: str) -> bool:
    return not word.startswith("-")


def run(*command: str) -> str:
    finished = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_client_code_prints_five_titles(reference_bundle: Path) -> None:
    (client,) = (block for block in blocks("python") if "RecommenderServiceStub" in block)
    with serving(reference_bundle) as server:
        printed = run("-c", client.replace("127.0.0.1:50051", server.address))
    assert len(printed.splitlines()) == 5


def test_in_process_code_prints_five_titles(reference_bundle: Path) -> None:
    (code,) = (block for block in blocks("python") if "Recommender.open" in block)
    printed = run("-c", code.replace("demo/bundle", str(reference_bundle)))
    assert len(re.findall(r"'.+?'|\".+?\"", printed)) == 5


def test_settings_are_all_there_with_their_defaults() -> None:
    (text,) = blocks("toml")
    written = tomllib.loads(text)
    defaults = msgspec.to_builtins(Config())
    assert {stage: set(keys) for stage, keys in written.items()} == {
        stage: set(keys) for stage, keys in defaults.items()
    }
    # On a CPU the batcher's are these.
    limits = SizeLimits()
    usual = {
        "max_batch_tokens": limits.max_padded_tokens,
        "max_batch_size": limits.max_prompts,
    }
    assert written == {**defaults, "batcher": usual}
    assert msgspec.toml.decode(text, type=Config)


LIMITS = (ROOT / "docs/limits.md").read_text(encoding="utf-8")
SETTINGS = [
    (f"{section}.{key}", value)
    for section, values in msgspec.to_builtins(Config()).items()
    for key, value in values.items()
]


@pytest.mark.parametrize(("setting", "default"), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_bound_is_listed_with_its_default_and_range(setting: str, default: object) -> None:
    (row,) = (line for line in LIMITS.splitlines() if f"`{setting}`" in line)
    _, _, told, source, _ = row.split("|", 4)
    if default is not None:
        assert json.dumps(default) in re.findall(r'[\d.]+|"[^"]+"', told)
    section, key = setting.split(".")
    bounds = re.search(r"(\d+) to (\d+)", source)
    for beyond in [int(bounds[1]) - 1, int(bounds[2]) + 1] if bounds else []:
        with pytest.raises(msgspec.ValidationError):
            msgspec.toml.decode(f"[{section}]\n{key} = {beyond}", type=Config)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_exists_with_its_flags(words: list[str]) -> None:
    num_leading = 2 if words[1] == "-m" else 1
    program = [*words[1:num_leading], *takewhile(is_no_flag, words[num_leading:])]
    printed = run(*program, "--help")
    flags = [word for word in words if word.startswith("-") and word != "-m"]
    missing = [flag for flag in flags if not re.search(rf"(^|\s){flag}\b", printed)]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_named_tests_lead_to_files(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = [
        ROOT / document / ".." / link for link in re.findall(r"\]\((?!http)([^)#]+)\)", text)
    ]
    targets += [ROOT / name for name in re.findall(r"`(tests/[\w/]+\.py)`", text)]
    missing = [str(target) for target in targets if not target.resolve().exists()]
    assert not missing
