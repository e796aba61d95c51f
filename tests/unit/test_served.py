"""Only LLMs that an exported graph computes as PyTorch does are served."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.llm_folders import copy_llm, without
from tokenizers import Tokenizer, models
from transformers import AutoModel, MistralConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from llmsrec import llm
from llmsrec.errors import CheckpointError
from llmsrec.prompt import MAX_PROMPT_TOKENS
from llmsrec.served import require_served

SHAPE: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
SHORT = MAX_PROMPT_TOKENS - 1
FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SHAPE, sliding_window=MAX_PROMPT_TOKENS),
        Qwen2Config(**SHAPE, use_sliding_window=False, sliding_window=SHORT),
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=SHORT, max_window_layers=3),
        Qwen3Config(**SHAPE, use_sliding_window=True, sliding_window=SHORT, layer_types=[FULL] * 3),
        Qwen3Config(**SHAPE, use_sliding_window=True, sliding_window=4096, max_window_layers=0),
    ],
    ids=[
        "as long as a prompt",
        "not in use",
        "in use by no layer",
        "layers that are all full",
        "longer than a prompt in all layers",
    ],
)
def test_a_window_that_cuts_no_prompt_is_served(config: PretrainedConfig) -> None:
    require_served(config.to_dict())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MistralConfig(**SHAPE, sliding_window=SHORT), "attends to 1023 tokens only"),
        (
            Qwen3Config(
                **SHAPE,
                use_sliding_window=True,
                sliding_window=SHORT,
                layer_types=[FULL, FULL, SLIDING],
            ),
            "attends to 1023 tokens only",
        ),
        (
            Qwen2Config(**SHAPE, use_sliding_window=False, layer_types=[FULL, SLIDING, FULL]),
            "has layers of sliding_attention, and sliding_window is None; mend its config",
        ),
        (
            Qwen3Config(**SHAPE, layer_types=["chunked_attention", FULL, FULL]),
            r"has layers of chunked_attention \(layer_types\); served are full_attention and",
        ),
    ],
    ids=["mistral", "one layer of three", "layers without a window", "chunks"],
)
def test_a_window_that_cuts_a_prompt_is_refused(config: PretrainedConfig, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        require_served(config.to_dict())


def test_an_llm_is_refused_before_its_weights_are_loaded(
    reference_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_llm(reference_dir / "llm", tmp_path / "llm")
    source = llm.locate(str(folder))
    without("model.norm.weight")(folder)
    monkeypatch.setattr(AutoModel, "from_pretrained", None)
    with pytest.raises(CheckpointError, match=r"model\.safetensors lacks model\.norm\.weight"):
        llm.load(source, torch.float32)


def test_a_tokenizer_that_serving_cannot_join_is_refused_by_its_folder(
    reference_dir: Path, tmp_path: Path
) -> None:
    folder = copy_llm(reference_dir / "llm", tmp_path / "llm")
    letters = ["<unk>", "<s>", "</s>", *map(chr, range(32, 127)), "1,"]
    vocabulary = {token: index for index, token in enumerate(letters)}
    merging = Tokenizer(models.BPE(vocabulary, [("1", ",")]))
    merging.save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="joins characters across the pieces of"):
        llm.locate(str(folder))
