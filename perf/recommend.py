"""Times `Recommend` over gRPC beside the bare forward of the same prompt, in one run.

Each round times, in turn: the call to a real server, ONNX Runtime alone on the same inputs, and
the model in PyTorch fp32. Vectors are compared before any time is taken. Medians are reported.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from engine import Interaction, RecommendRequest
from engine.bundle.opened import Bundle, open_bundle
from engine.config import EncoderConfig
from engine.encoders.cpu import OnnxRuntimeEncoder
from engine.prompts.join import render
from engine.request import Prompt
from engine.rpc.client import recommend
from llmsrec import checkpoint
from llmsrec.checkpoint import Checkpoint
from llmsrec.model import LLMSRec
from perf.server_process import serving

TARGET_TOKENS = 350
MIN_COSINE = 0.99999
PAUSE_S = 0.2
"""Before each timing, so that none pays for threads that another left spinning."""


class Result(msgspec.Struct, frozen=True):
    num_tokens: int
    num_threads: int
    recommend_ms: float
    onnxruntime_ms: float
    pytorch_ms: float
    recommend_over_onnxruntime: float
    onnxruntime_over_pytorch: float
    server_ready_s: float
    server_peak_mb: float


class Case(NamedTuple):
    history: list[Interaction]
    prompt: Prompt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True, help="what it was built from")
    parser.add_argument("--rounds", type=int, default=20, help="timings of each kind")
    parser.add_argument("--warm-up", type=int, default=3, help="rounds that are not counted")


def run(arguments: argparse.Namespace) -> Result:
    bundle = open_bundle(arguments.bundle)
    loaded = checkpoint.load(arguments.checkpoint)
    case = _choose(bundle, loaded)
    model, _ = loaded.load_model()
    encoder = OnnxRuntimeEncoder(bundle.path, bundle.item_table, EncoderConfig())
    _require_equal(encoder, model, case.prompt)
    request = RecommendRequest(case.history)
    with serving(arguments.bundle) as server:
        contenders: dict[str, Callable[[], object]] = {
            "recommend": lambda: recommend(server.address, request, timeout_s=60),
            "onnxruntime": lambda: encoder.encode([case.prompt], "user_vector"),
            "pytorch": lambda: _encode(model, case.prompt),
        }
        times = _time_in_turn(contenders, arguments.rounds, arguments.warm_up)
        peak_mb, ready_s = server.peak_mb(), server.ready_s
    return Result(
        num_tokens=len(case.prompt),
        num_threads=torch.get_num_threads(),
        recommend_ms=times["recommend"],
        onnxruntime_ms=times["onnxruntime"],
        pytorch_ms=times["pytorch"],
        recommend_over_onnxruntime=times["recommend"] / times["onnxruntime"],
        onnxruntime_over_pytorch=times["onnxruntime"] / times["pytorch"],
        server_ready_s=ready_s,
        server_peak_mb=peak_mb,
    )


def _choose(bundle: Bundle, loaded: Checkpoint) -> Case:
    """Take the history whose prompt is nearest to the target length."""
    cases = [
        Case(
            [
                Interaction(bundle.item_ids[row], time_ms)
                for row, time_ms in zip(rows, times, strict=True)
            ],
            render(bundle.fragments, rows, times)[0],
        )
        for rows, times in loaded.histories
    ]
    return min(cases, key=lambda case: abs(len(case.prompt) - TARGET_TOKENS))


@torch.inference_mode()
def _encode(model: LLMSRec, prompt: Prompt) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return model.user_vectors([(prompt.token_ids, prompt.slot_ids)]).numpy()


def _require_equal(encoder: OnnxRuntimeEncoder, model: LLMSRec, prompt: Prompt) -> None:
    ours = encoder.encode([prompt], "user_vector")[0]
    expected = _encode(model, prompt)[0]
    cosine = ours @ expected / np.linalg.norm(ours) / np.linalg.norm(expected)
    if not cosine >= MIN_COSINE:
        raise SystemExit(f"the bundle is not of this checkpoint: cosine {cosine:.6f}")


def _time_in_turn(
    contenders: dict[str, Callable[[], object]], rounds: int, warm_up: int
) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in track(range(rounds + warm_up), "rounds", console=Console(stderr=True)):
        for name, call in contenders.items():
            time.sleep(PAUSE_S)
            started = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(values[warm_up:]) for name, values in times.items()}
