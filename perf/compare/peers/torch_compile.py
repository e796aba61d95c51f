"""The same model with its decoder compiled by `torch.compile`, once for all lengths."""

from perf.compare.peers import pytorch
from perf.compare.task import Encode, Task


def load(task: Task) -> Encode:
    model = pytorch.load_model(task)
    model.llm.compile(dynamic=True)
    return pytorch.encode_with(model)
