"""Times `Recommend` over gRPC beside the bare forward of the same prompt, in one run.

Each round times, in turn: the call to a real server, the engine's encoder alone on the same inputs,
and the model in PyTorch fp32. The vectors and the ranking of every call must be PyTorch's. Medians
are reported.
"""

import argparse
import statistics
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from engine import Recommendation, RecommendRequest
from engine.bundle.opened import open_bundle
from engine.rpc.client import recommend
from llmsrec import checkpoint
from perf.answers import require_rankings, require_vectors, tolerance_of
from perf.command_line import count
from perf.engine_access import Engine, as_interactions, render_history
from perf.server_process import serving
from perf.timing import Timed, time_in_turn

TARGET_TOKENS = 350


class RecommendTimes(msgspec.Struct, frozen=True):
    num_tokens: int
    num_threads: int
    recommend_ms: float
    forward_ms: float
    pytorch_ms: float
    recommend_over_forward: float
    forward_over_pytorch: float
    server_ready_s: float
    server_peak_mb: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", type=Path, help="what to serve")
    add("--checkpoint", type=Path, required=True, help="what it was built from")
    add("--rounds", type=count, default=20, help="timings of each kind")
    add("--warm-up", type=int, default=3, help="rounds that are not counted")


def run(arguments: argparse.Namespace) -> RecommendTimes:
    bundle = open_bundle(arguments.bundle)
    loaded = checkpoint.load(arguments.checkpoint)
    history = min(
        loaded.histories,
        key=lambda history: abs(len(render_history(bundle, history)) - TARGET_TOKENS),
    )
    request = RecommendRequest(as_interactions(bundle, history))
    encode_in_pytorch = torch.inference_mode()(loaded.load_model()[0].user_vectors)
    tolerance = tolerance_of(bundle.manifest.encoder.precision)
    with closing(Engine(bundle)) as engine, serving(arguments.bundle) as server:
        query = engine.render(request)
        prompt = query.prompt
        arrays = [(prompt.token_ids, prompt.slot_ids)]
        expected = encode_in_pytorch(arrays).numpy()
        ranking = engine.rank([query], expected)

        def check_answer(answer: Recommendation) -> None:
            found = [item.item_id for item in answer.items], [item.score for item in answer.items]
            require_rankings("Recommend", [found], ranking, tolerance)

        check = partial(require_vectors, expected=expected, tolerance=tolerance)
        contenders: dict[str, Timed[Any]] = {
            "recommend": Timed(partial(recommend, server.address, request, 60.0), check_answer),
            "forward": Timed(partial(engine.encode, [prompt]), partial(check, "the forward")),
            "pytorch": Timed(lambda: encode_in_pytorch(arrays).numpy(), partial(check, "PyTorch")),
        }
        times_ms = time_in_turn(contenders, arguments.rounds, arguments.warm_up)
        peak_mb = server.peak_mb()
    recommend_ms, forward_ms, pytorch_ms = map(statistics.median, times_ms.values())
    return RecommendTimes(
        num_tokens=len(prompt),
        num_threads=torch.get_num_threads(),
        recommend_ms=recommend_ms,
        forward_ms=forward_ms,
        pytorch_ms=pytorch_ms,
        recommend_over_forward=recommend_ms / forward_ms,
        forward_over_pytorch=forward_ms / pytorch_ms,
        server_ready_s=server.ready_s,
        server_peak_mb=peak_mb,
    )
