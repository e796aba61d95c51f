"""Writes the kit of a comparison from a checkpoint and a bundle of it."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from engine.request import Prompt
from llmsrec.checkpoint import Checkpoint
from perf.compare.kit import HEAD_LAYERS, PARTS_FILE, PROMPTS_FILE, Kit


@torch.inference_mode()
def make_kit(folder: Path, loaded: Checkpoint, prompts: Sequence[Prompt]) -> Kit:
    kit = Kit(folder)
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
    model.llm.save_pretrained(kit.llm)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(kit.llm)
    return kit
