"""Writes what every peer is given, from a checkpoint and prompts of its histories."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from engine.query import Prompt
from llmsrec.checkpoint import Checkpoint
from perf.compare.peer_inputs import HEAD_LAYERS, PARTS_FILE, PROMPTS_FILE, PeerInputs


@torch.inference_mode()
def write_inputs(folder: Path, loaded: Checkpoint, prompts: Sequence[Prompt]) -> PeerInputs:
    inputs = PeerInputs(folder)
    rows = [(prompt.token_ids.tolist(), prompt.slot_ids.tolist()) for prompt in prompts]
    (folder / PROMPTS_FILE).write_bytes(msgspec.json.encode(rows))
    model, tokenizer = loaded.load_model()
    heads = model.heads.state_dict()
    parts = {
        "tokens": model.llm.get_input_embeddings().get_parameter("weight"),
        "items": model.heads.item_emb_proj(model.item_table),
        "readout": heads["CLS"],
        **{name: heads[f"pred_user.{name}"] for name in HEAD_LAYERS},
    }
    save_file({name: part.clone() for name, part in parts.items()}, folder / PARTS_FILE)
    model.llm.save_pretrained(inputs.llm)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(inputs.llm)
    return inputs
