"""`perf/gpu.sh` goes through all its steps, past those that fail, and does none of them twice."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
INTERPRETER = """\
#!/usr/bin/env bash
# In the place of Python: writes down what it is asked for, and leaves what the step would leave.
folder=$(dirname "$0")
echo "$*" >> "$folder/calls"
[[ -f $folder/broken && "$*" == *"$(cat "$folder/broken")"* ]] && exit 9
[[ -f $folder/broken-once && "$*" == *$(cat "$folder/broken-once") ]] &&
  rm "$folder/broken-once" && exit 9
[[ -f $folder/endless && "$*" == *"$(cat "$folder/endless")"* ]] && sleep 60
output='' json=''
for ((i = 1; i <= $#; i++)); do
  next=$((i + 1))
  [[ ${!i} == --output ]] && output=${!next}
  [[ ${!i} == --json ]] && json=${!next}
done
case "$*" in
  *random-checkpoint*)
    mkdir -p "$output/checkpoint" && echo {} > "$output/checkpoint/config.json" ;;
  *build_engine*) mkdir -p "$output" && echo {} > "$output/manifest.json" ;;
  *'engine serve'*)
    echo $$ > "$folder/server"
    echo 'ready 127.0.0.1:9 model' && exec sleep 60 ;;
  *'perf load'*) echo '{}' > "$json" ;;
esac
echo '{"a": 1}'
"""
STEPS = [
    "versions",
    "tests",
    "topk-fp32",
    "tiny-checkpoint",
    "tiny-pytorch",
    "tiny-pytorch-compiled",
    "tiny-onnxruntime-build",
    "tiny-onnxruntime-check",
    "tiny-onnxruntime-encoder",
    "tiny-onnxruntime-load",
]


class Script(NamedTuple):
    folder: Path

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "calls").write_text("")
        command = ["perf/gpu.sh", "some/checkpoint", "--device", "cpu", "--output"]
        command += [str(self.output), "--python", str(self.folder / "python"), *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def left(self) -> list[str]:
        return sorted(file.stem for file in self.output.glob("*.json"))


@pytest.fixture
def script(tmp_path: Path) -> Script:
    interpreter = tmp_path / "python"
    interpreter.write_text(INTERPRETER)
    interpreter.chmod(0o755)
    return Script(tmp_path)


def asked(calls: Sequence[str], *words: str) -> list[str]:
    return [call for call in calls if all(word in call for word in words)]


def test_every_step_leaves_its_json(script: Script) -> None:
    done = script.run()
    assert done.returncode == 0, done.stderr
    assert script.left() == sorted(STEPS)
    for step in STEPS:
        assert isinstance(json.loads((script.output / f"{step}.json").read_text()), dict)
    calls = script.calls()
    (load,) = asked(calls, "perf load 127.0.0.1:9", "--search", "--lengths 10-20=1")
    assert calls.index(load) > calls.index(asked(calls, "serve", "--config")[0])
    assert calls[-1] == f"-m perf.gpu summary {script.output}"
    config = (script.output / "work" / "server.toml").read_text()
    assert "max_batch_tokens = 2048" in config


def test_what_is_measured_is_not_measured_again(script: Script) -> None:
    script.run()
    (script.output / "tiny-onnxruntime-encoder.json").unlink()
    assert script.run().returncode == 0
    assert [call.split()[2] for call in script.calls()] == ["encoder", "summary"]


def test_another_machine_builds_again_only_what_is_still_needed(script: Script) -> None:
    script.run()
    work, elsewhere = script.output / "work", script.folder / "elsewhere"
    assert script.run("--work", str(elsewhere)).returncode == 0
    assert asked(script.calls(), "random-checkpoint") == []
    (script.output / "tiny-onnxruntime-check.json").unlink()
    work.rename(script.folder / "lost")
    assert script.run().returncode == 0
    calls = script.calls()
    words = ["random-checkpoint", "build_engine", "engine check", "summary"]
    assert len(calls) == len(words)
    assert all(word in call for word, call in zip(words, calls, strict=True))


@pytest.mark.parametrize(
    ("broken", "failed", "num_left"),
    [
        ("-m pytest", "tests: exit code 9", 9),
        ("--compile", "tiny-pytorch-compiled: exit code 9", 9),
        ("build_engine", "tiny-onnxruntime-build: exit code 9", 6),
        ("random-checkpoint", "tiny-checkpoint: exit code 9", 3),
        ("engine check", "tiny-onnxruntime-check: exit code", 9),
        ("engine serve", "tiny-onnxruntime-load: the server did not start", 9),
        ("perf load", "tiny-onnxruntime-load: exit code 9", 9),
    ],
    ids=lambda value: value if isinstance(value, str) and "exit" not in value else "",
)
def test_failing_step_is_named_and_the_others_go_on(
    script: Script, broken: str, failed: str, num_left: int
) -> None:
    (script.folder / "broken").write_text(broken)
    done = script.run()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"FAILED  {failed}")
    assert done.stderr.count("FAILED  ") == 1
    assert len(script.left()) == num_left
    assert "perf.gpu summary" in script.calls()[-1]
    (script.folder / "broken").unlink()
    assert script.run().returncode == 0
    assert script.left() == sorted(STEPS)


def test_step_that_takes_too_long_is_ended(script: Script) -> None:
    (script.folder / "endless").write_text("-m perf topk")
    done = script.run("--seconds-per-step", "2")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "FAILED  topk-fp32: not done within 2 s"
    assert len(script.left()) == len(STEPS) - 1


def test_no_server_is_left_behind(script: Script) -> None:
    script.run()
    pid = int((script.folder / "server").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_backend_that_is_measured_is_not_built_again_for_its_shape(script: Script) -> None:
    script.run()
    (script.output / "tiny-pytorch.json").unlink()
    (script.output / "work").rename(script.folder / "lost")
    assert script.run().returncode == 0
    assert [call.split()[2] for call in script.calls()] == [
        "random-checkpoint",
        "pytorch",
        "summary",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frobnicate"], "unknown option --frobnicate"),
        (["--shape"], "--shape needs a value"),
        (["--device", "tpu"], "--device is cuda or cpu, not tpu"),
    ],
)
def test_what_is_misspelt_is_refused(script: Script, options: list[str], message: str) -> None:
    done = script.run(*options)
    assert done.returncode == 2
    assert message in done.stderr
    assert "usage" in done.stderr
    assert script.calls() == []


NVIDIA_SMI = """\
#!/bin/sh
case "$*" in *noheader*) echo 8.9 ;; *) echo name ;; esac
"""
GPU_STEPS = [
    *("versions", "tests", "topk-fp16", "topk-bf16", "topk-fp32"),
    *(
        f"{shape}-{step}"
        for shape in ("llama-3.2-3b", "smollm2-135m")
        for step in ("checkpoint", "pytorch", "pytorch-compiled", "tensorrt-plan")
    ),
    *(
        f"{shape}-{backend}-{step}"
        for shape in ("llama-3.2-3b", "smollm2-135m")
        for backend in ("onnxruntime-cuda", "tensorrt")
        for step in ("build", "check", "encoder", "load")
    ),
]


def run_with_gpu(script: Script, nvidia_smi: str) -> subprocess.CompletedProcess[str]:
    (script.folder / "nvidia-smi").write_text(nvidia_smi)
    (script.folder / "nvidia-smi").chmod(0o755)
    environment = os.environ | {"PATH": f"{script.folder}:{os.environ['PATH']}"}
    command = ["perf/gpu.sh", "some/checkpoint", "--output", str(script.output)]
    command += ["--python", str(script.folder / "python")]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )


def test_gpu_has_both_shapes_on_both_backends(script: Script) -> None:
    done = run_with_gpu(script, NVIDIA_SMI)
    assert done.returncode == 0, done.stderr
    assert script.left() == sorted(GPU_STEPS)
    calls = script.calls()
    for words in ("--device cuda --precision bf16", "--tokens 350 450"):
        assert len(asked(calls, "perf.gpu pytorch", words)) == 4
    assert len(asked(calls, "perf encoder", "--tokens 350 450")) == 4
    (kernels,) = asked(calls, "perf topk", "fp16")
    assert "--device cuda --items 1000000 --exclusions 1000" in kernels
    assert len(asked(calls, "build_engine", "--precision fp16", "--size 16x1024")) == 4
    assert (script.output / "gpu.csv").exists()


def test_plan_for_other_cards_is_compiled_for_this_one(script: Script) -> None:
    (script.folder / "broken-once").write_text("check /*/llama-3.2-3b/tensorrt")
    done = run_with_gpu(script, NVIDIA_SMI)
    assert done.returncode == 0, done.stderr
    bundle = script.output.joinpath("work", "llama-3.2-3b", "tensorrt")
    calls = [call for call in asked(script.calls(), "-m engine") if str(bundle) in call]
    check = f"-m engine check {bundle}"
    assert [call for call in calls if "serve" not in call] == [
        check,
        f"-m engine rebuild {bundle} --target 8.9",
        check,
    ]


def test_machine_without_a_gpu_is_told_so(script: Script) -> None:
    done = run_with_gpu(script, "#!/bin/sh\nexit 1\n")
    assert done.returncode == 1
    assert "nvidia-smi finds no GPU" in done.stderr
