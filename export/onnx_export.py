"""Writes the encoder graph as ONNX, through Optimum's exporter."""

import warnings
from pathlib import Path
from typing import ClassVar

import onnx
import torch
from optimum.exporters.onnx import OnnxConfig
from optimum.exporters.onnx.convert import export_pytorch
from optimum.utils import DummyInputGenerator, NormalizedConfig

from engine.bundle.manifest import GRAPH_FILE, WEIGHTS_FILE
from export.encoder_graph import INPUTS, OUTPUTS, EncoderGraph
from export.fused_ops import TRACED_OPSET, promote
from llmsrec.model import COLLABORATIVE_DIM
from llmsrec.prompt import USER_READOUT_SLOT


class PromptInputs(DummyInputGenerator):  # type: ignore[misc]
    """Two short prompts over a table of three items: what the tracer sees."""

    SUPPORTED_INPUT_NAMES = tuple(INPUTS)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def generate(self, input_name: str, **_: object) -> torch.Tensor:
        slot_ids = torch.tensor([[0, 1, 0, 3, USER_READOUT_SLOT], [0, 2, USER_READOUT_SLOT, 0, 0]])
        inputs = {
            "input_ids": torch.ones_like(slot_ids),
            "slot_ids": slot_ids,
            "readout_position": torch.tensor([4, 2]),
            "item_table": torch.ones(3, COLLABORATIVE_DIM),
        }
        return inputs[input_name]


class EncoderOnnxConfig(OnnxConfig):  # type: ignore[misc]
    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    DUMMY_INPUT_GENERATOR_CLASSES = (PromptInputs,)
    inputs: ClassVar[dict[str, dict[int, str]]] = INPUTS
    outputs: ClassVar[dict[str, dict[int, str]]] = OUTPUTS


def export_onnx(graph: EncoderGraph, folder: Path) -> None:
    """Trace `graph` into `folder` as an opset-23 model with its weights in one file beside it."""
    traced = folder / "traced"
    traced.mkdir()
    with warnings.catch_warnings():
        # Optimum drives PyTorch's older exporter, which announces its end at every step.
        warnings.simplefilter("ignore", DeprecationWarning)
        # What it takes for constants are shapes of weights, which are constant.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        export_pytorch(graph, EncoderOnnxConfig(graph.config), TRACED_OPSET, traced / GRAPH_FILE)
    model = onnx.load(traced / GRAPH_FILE)
    promote(model)
    save_graph(model, folder)
    for file in traced.iterdir():
        file.unlink()
    traced.rmdir()


def save_graph(model: onnx.ModelProto, folder: Path) -> None:
    """Write a graph and its weights in place of those in `folder`; `model` loses its weights."""
    (folder / WEIGHTS_FILE).unlink(missing_ok=True)  # onnx would append to it
    onnx.save(model, folder / GRAPH_FILE, save_as_external_data=True, location=WEIGHTS_FILE)
    onnx.checker.check_model(folder / GRAPH_FILE)
