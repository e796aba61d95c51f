"""The same model with its decoder compiled by `torch.compile`, once for all lengths."""

from perf.compare.messages import Encode, PeerTask
from perf.compare.peers import pytorch


def load(task: PeerTask) -> Encode:
    model = pytorch.load_model(task)
    model.llm.compile(dynamic=True)
    return pytorch.encode_with(model)
