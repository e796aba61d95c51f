"""The exact top-k on a GPU beside PyTorch's matrix product and topk there."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from engine import query
from engine.gpu import Gpu
from engine.query import Ranking
from engine.ranking.cpu import CpuRanker
from engine.ranking.cuda_topk import CudaTopK, ItemDtype
from engine.ranking.ranker import cut
from perf.answers import Vectors, require_rankings
from perf.timing import Timed, best_ms

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Allowed distance of PyTorch's scores, as a share of the best one."""

Arrays = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Rows and scores `[B, k]`."""


class TopKCase(NamedTuple):
    queries: Vectors  # [B, D]
    items: torch.Tensor  # [N, D]
    excluded_rows: list[NDArray[np.int32]]
    """Sorted and unique for each query."""
    k: int

    def rank_on_cpu(self, num_threads: int) -> list[Ranking]:
        """Rank the items, widened to fp32."""
        ranker = CpuRanker(self.items.float().numpy(), num_threads)
        return ranker.rank(self.queries, self.searches())

    def searches(self) -> list[query.Search]:
        return [query.Search(self.k, rows) for rows in self.excluded_rows]


def draw(arguments: argparse.Namespace, dim: int) -> list[TopKCase]:
    """Draw as many searches as there are numbers of queries, over the same items."""
    rng = np.random.default_rng(0)
    items = rng.standard_normal((arguments.items, dim), np.float32)  # [N, D]
    stored = torch.from_numpy(items).to(DTYPES[arguments.dtype])
    return [
        TopKCase(
            queries=rng.standard_normal((num_queries, dim), np.float32),
            items=stored,
            excluded_rows=[
                np.sort(rng.choice(len(items), arguments.exclusions, replace=False)).astype(
                    np.int32
                )
                for _ in range(num_queries)
            ],
            k=arguments.k,
        )
        for num_queries in arguments.queries
    ]


def time_both(gpu: Gpu, device: str, search: TopKCase) -> tuple[float, float]:
    """Give the shortest milliseconds of ours and of PyTorch.

    Raises:
        WrongAnswer: ours differ from the CPU kernel's to the last bit, or PyTorch's too much.
    """
    expected = search.rank_on_cpu(num_threads=2)
    what = f"the top-k of {len(search.queries)} queries on the GPU"

    def check(found: Arrays) -> None:
        require_rankings(what, cut(*found), expected, tolerance=0)

    def check_theirs(found: tuple[torch.Tensor, torch.Tensor]) -> None:
        scores, rows = (part.float().cpu().numpy() for part in found)
        ranked = np.where(np.isfinite(scores), rows, -1).astype(np.int32)
        require_rankings(f"{what}, by PyTorch,", cut(ranked, scores), expected, tolerance)

    tolerance = TOLERANCES[search.items.dtype]
    ours, theirs = make_ours(gpu, search), make_pytorch(search, device)
    return best_ms(Timed(ours, check)), best_ms(Timed(theirs, check_theirs))


def make_ours(gpu: Gpu, search: TopKCase) -> Callable[[], Arrays]:
    """Give a call that ranks with the CUDA kernels; its answer is overwritten by the next one."""
    dtype = cast("ItemDtype", str(search.items.dtype).removeprefix("torch."))
    # NumPy knows no bfloat16.
    stored = search.items.view(torch.int16) if dtype == "bfloat16" else search.items
    topk = CudaTopK(gpu, stored.numpy(), len(search.queries), dtype)
    queries = gpu.allocate(search.queries.nbytes)
    gpu.upload(queries, search.queries)
    queue = partial(topk.queue, topk.make_buffers(), queries, search.searches())

    def rank() -> Arrays:
        found = queue()
        gpu.synchronize()
        return found

    return rank


def make_pytorch(search: TopKCase, device: str) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """Give a call that ranks with PyTorch alone, its inputs on the device already."""
    queries = torch.from_numpy(search.queries).to(device, search.items.dtype)
    items = search.items.to(device)
    num_excluded = torch.tensor([len(rows) for rows in search.excluded_rows])
    owners = torch.arange(len(queries)).repeat_interleave(num_excluded).to(device)
    rows = torch.from_numpy(np.concatenate(search.excluded_rows)).long().to(device)

    def rank() -> tuple[torch.Tensor, torch.Tensor]:
        scores = queries @ items.T  # [B, N]
        scores[owners, rows] = -torch.inf
        best = scores.topk(min(search.k, len(items)), dim=1)  # [B, k] each
        if device == "cuda":
            torch.cuda.synchronize()
        return best.values, best.indices

    return rank
