"""Every tensor of an LLM comes from its files, and none that matters is left over."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.llm_folders import (
    EMBEDDING,
    INDEX,
    QUERY,
    WEIGHTS,
    Damage,
    as_head_alone,
    change_json,
    config,
    copy_llm,
    grow_tokenizer,
    split,
    spoil,
    weights,
    with_prefix,
    with_tensor,
    without,
)
from transformers import AutoModel, AutoTokenizer

from llmsrec import llm
from llmsrec.errors import CheckpointError
from llmsrec.llm_folder import read_folder
from llmsrec.tokens import PromptTokenizer

BIAS = "model.layers.0.self_attn.q_proj.bias"
EXTRA_LAYER = "model.layers.3.self_attn.q_proj.weight"


@pytest.fixture
def folder(reference_dir: Path, tmp_path: Path) -> Path:
    return copy_llm(reference_dir / "llm", tmp_path / "llm")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        llm.locate(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lora_inside(folder: Path) -> None:
    """Save a model from inside peft's wrapper, its adapter not merged."""
    with_prefix("base_model.model.")(folder)
    weights(
        lambda held: (
            {
                name.replace("q_proj.weight", "q_proj.base_layer.weight"): value
                for name, value in held.items()
            }
            | {f"base_model.{QUERY.replace('weight', 'lora_A.default.weight')}": torch.zeros(2, 64)}
        )
    )(folder)


def lose_a_shard(folder: Path) -> None:
    split(folder)[1].unlink()


def lose_the_index(folder: Path) -> None:
    split(folder)
    (folder / INDEX).unlink()


def keep_both(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    split(folder)
    (folder / WEIGHTS).write_bytes(whole)


def swap_shards(folder: Path) -> None:
    first, second = split(folder)
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)


def hold_twice(folder: Path) -> None:
    first, second = split(folder)
    save_file(load_file(first) | load_file(second), second, {"format": "pt"})


def index_of_a_path(folder: Path) -> None:
    split(folder)
    places = dict.fromkeys([QUERY], "../model.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def quantise(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return held | {QUERY: torch.zeros(64, 64, dtype=torch.int8)}


def save_eighths(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return held | {QUERY: held[QUERY].to(torch.float8_e4m3fn)}


def make_config_a_folder(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


def write(name: str, content: str = "{}") -> Damage:
    return lambda folder: (folder / name).write_text(content)


UNFIT: dict[str, tuple[Damage, str]] = {
    "one tensor missing": (without(QUERY), f"{WEIGHTS} lacks {QUERY}; save the LLM again"),
    "final norm missing": (without("model.norm.weight"), f"{WEIGHTS} lacks model.norm.weight;"),
    "embedding missing": (without(EMBEDDING), f"{WEIGHTS} lacks {EMBEDDING};"),
    "a whole layer missing": (
        weights(lambda held: {name: held[name] for name in held if ".layers.2." not in name}),
        "config.json: num_hidden_layers is 3, and the weights hold 2 layers; keep",
    ),
    "prefix of a LoRA wrapper": (
        with_prefix("base_model.model."),
        "lacks embed_tokens.weight and 28 more and holds base_model.model.model.embed_tokens.weight"
        " and 28 more; save the model itself, outside of its wrapper",
    ),
    "prefix of DDP": (with_prefix("module."), "holds module.model.embed_tokens.weight and 28 more"),
    "prefix of FSDP": (with_prefix("_fsdp_wrapped_module."), "FSDP: the full state dict"),
    "prefix of torch.compile": (with_prefix("_orig_mod."), "outside of its wrapper"),
    "adapter not merged": (lora_inside, "merge the adapter first"),
    "bias that the config leaves out": (
        with_tensor(BIAS, torch.zeros(64)),
        f"{WEIGHTS}: {BIAS} has no place in the llama that config.json describes",
    ),
    "bias that the files leave out": (
        config(attention_bias=True),
        "lacks model.layers.0.self_attn",
    ),
    "one layer too many": (
        with_tensor(EXTRA_LAYER, torch.zeros(64, 64)),
        "num_hidden_layers is 3, and the weights hold 4 layers",
    ),
    "head of a classifier": (with_tensor("score.weight", torch.zeros(2, 64)), "score.weight has"),
    "weights of another model type": (config(model_type="qwen3"), "lacks model.layers.0.self_attn"),
    "a tensor of another shape": (
        with_tensor(QUERY, torch.zeros(64, 32)),
        rf"{WEIGHTS}: {QUERY} is [64, 32], and config.json asks for [64, 64]",
    ),
    "an emptied tensor of ZeRO": (with_tensor(QUERY, torch.zeros(0)), f"{QUERY} is [0], and"),
    "embedding resized, config not": (config(vocab_size=600), f"{EMBEDDING} is [598, 64], and"),
    "adapter beside the base": (
        write("adapter_config.json"),
        "holds an adapter (adapter_config.json), which is not applied; merge the adapter first",
    ),
    "adapter's weights alone": (write("adapter_model.bin"), "merge the adapter first"),
    "quantised by bitsandbytes": (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
        "is quantised (bitsandbytes); give the weights in fp32, bf16 or fp16",
    ),
    "quantised by gptq": (config(quantization_config={"quant_method": "gptq"}), "(gptq); give"),
    "quantised by compressed-tensors": (config(compression_config={"a": 1}), "(unknown); give"),
    "quantised by an old gptq": (write("quantize_config.json"), "(quantize_config.json); give"),
    "int8 without a word": (weights(quantise), f"{WEIGHTS}: {QUERY} is quantised (I8); give"),
    "fp8 without a word": (weights(save_eighths), f"{QUERY} is quantised (F8_E4M3); give"),
    "shard missing": (
        lose_a_shard,
        f"lacks model-00002-of-00002.safetensors, which {INDEX} names; copy all files",
    ),
    "index missing": (lose_the_index, f"lacks {INDEX}, which tells how model-00001-of-00002"),
    "whole model and shards": (
        keep_both,
        "holds model-00001-of-00002.safetensors, model-00002-of-00002.safetensors beside"
        f" {WEIGHTS}, which would not be read; keep the files of one model",
    ),
    "a stray file": (
        lambda folder: shutil.copyfile(folder / WEIGHTS, folder / "old.safetensors"),
        f"holds old.safetensors beside {WEIGHTS}, which would not be read",
    ),
    "shards swapped": (swap_shards, f"which {INDEX} looks for there; keep the files of one model"),
    "a tensor in two shards": (hold_twice, "both hold model.embed_tokens.weight and 14 more"),
    "index that leaves the folder": (index_of_a_path, "which is no name of a file"),
    "index without a map": (write(INDEX, "{}"), f"{INDEX} holds no weight_map; copy it again"),
    "config.json empty": (write("config.json", ""), "config.json is no JSON"),
    "config.json of an empty object": (write("config.json"), "config.json: a None model; served"),
    "config.json of a list": (write("config.json", "[]"), "config.json holds no JSON object"),
    "config.json nested without end": (write("config.json", "[" * 100_000), "is no JSON"),
    "config.json that is a folder": (
        make_config_a_folder,
        "lacks config.json; save it with transformers",
    ),
    "tokenizer.json empty": (write("tokenizer.json", ""), "tokenizer.json: transformers reads no"),
    "tokenizer.json of an empty object": (write("tokenizer.json"), "tokenizer.json: transformers"),
    "tokenizer.json of another vocabulary": (
        lambda folder: change_json(folder / "tokenizer.json", model={"type": "BPE"}),
        "tokenizer.json: transformers reads no fast tokenizer",
    ),
    "tokenizer_config.json lost": (
        lambda folder: (folder / "tokenizer_config.json").unlink(),
        "lacks tokenizer_config.json; save it with transformers",
    ),
    "tokenizer_config.json empty": (
        write("tokenizer_config.json"),
        "tokenizer_config.json names no tokenizer_class, and another class prepends other tokens",
    ),
    "tokenizer of a class of its own": (
        lambda folder: change_json(
            folder / "tokenizer_config.json",
            tokenizer_class="OwnTokenizer",
            auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]},
        ),
        "transformers reads no fast tokenizer",
    ),
    "begin-of-text beyond the embedding": (
        lambda folder: change_json(
            folder / "tokenizer_config.json",
            tokenizer_class="LlamaTokenizerFast",
            add_bos_token=True,
            bos_token="<begin>",
        ),
        "the token '<begin>' has the id 598, and the LLM embeds 598 tokens, up to the id 597",
    ),
    "added token beyond the embedding": (
        lambda folder: grow_tokenizer(folder, special=False),
        "tokenizer.json: the token '<think>' has the id 598, and the LLM embeds 598 tokens",
    ),
    "weights cut short": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100]),
        f"{WEIGHTS} is damaged",
    ),
    "weights that Git LFS holds": (
        write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"),
        f"{WEIGHTS} is damaged",
    ),
    "code of its own": (
        config(auto_map={"AutoModel": "modeling.Own"}),
        "config.json asks for code of its own (auto_map), which is never run",
    ),
    "an encoder and decoder": (config(model_type="t5"), "a 't5' model; served are llama, mistral"),
    "a multimodal wrapper": (config(model_type="mistral3"), "a 'mistral3' model; served are"),
    "rotary that changes": (
        config(rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
        "config.json: this LLM's rotary embedding 'dynamic' changes with the length",
    ),
    "rotary without its factor": (
        config(rope_scaling={"rope_type": "linear"}),
        "config.json describes no llama",
    ),
    "rotary of a part": (config(partial_rotary_factor=0.5), "rotates a part of each head"),
    "heads that do not divide": (config(num_key_value_heads=3), "which does not divide; mend"),
    "an odd head": (config(head_dim=15), "heads are 15 wide, which a rotary embedding cannot"),
    "an unknown activation": (config(hidden_act="swish9"), "config.json describes no llama"),
    "padding beyond the embedding": (config(pad_token_id=598), "config.json describes no llama"),
    "width that is text": (config(hidden_size="64"), "config.json describes no llama"),
    "layers that are too many": (
        config(num_hidden_layers=10**9),
        "num_hidden_layers is 10000000",
    ),
    "window shorter than a prompt": (
        config(model_type="mistral", sliding_window=1023),
        "config.json: this LLM attends to 1023 tokens only; a prompt may have 1024",
    ),
}


@pytest.mark.parametrize(("damage", "message"), UNFIT.values(), ids=UNFIT)
def test_a_folder_that_is_not_one_whole_served_llm_is_refused(
    folder: Path, damage: Damage, message: str
) -> None:
    damage(folder)
    assert message in refusal(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused(folder: Path, value: float) -> None:
    spoil(value)(folder)
    source = llm.locate(str(folder))
    expected = "llm: layers.1.self_attn.q_proj.weight holds NaN or infinity; copy or train"
    with pytest.raises(CheckpointError, match=expected):
        llm.load(source, torch.float32)


@pytest.mark.parametrize(
    "damage",
    [
        weights(lambda held: held | {"lm_head.weight": held[EMBEDDING].clone()}),
        with_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", torch.zeros(8)),
        weights(lambda held: {name.removeprefix("model."): held[name] for name in held}),
        weights(as_head_alone),
        weights(lambda held: as_head_alone({n.removeprefix("model."): held[n] for n in held})),
        split,
        lambda folder: grow_tokenizer(folder, special=True),
    ],
    ids=[
        "head beside its table",
        "frequencies of an older release",
        "base model saved alone",
        "tied table saved as the head",
        "tied table of a base model saved as the head",
        "two shards",
        "special token beyond the embedding",
    ],
)
def test_every_weight_of_another_way_to_save_is_loaded(
    folder: Path, reference_dir: Path, damage: Damage
) -> None:
    damage(folder)
    found, _ = llm.load(llm.locate(str(folder)), torch.float32)
    expected = AutoModel.from_pretrained(reference_dir / "llm", dtype=torch.float32).state_dict()
    torch.testing.assert_close(dict(found.state_dict()), dict(expected), rtol=0, atol=0)


def test_a_head_that_is_not_tied_is_no_embedding(folder: Path) -> None:
    weights(as_head_alone)(folder)
    change_json(folder / "config.json", tie_word_embeddings=False)
    assert f"{WEIGHTS} lacks {EMBEDDING}; save" in refusal(folder)


def test_digest_follows_what_decides_a_prompt_and_nothing_else(folder: Path) -> None:
    before = llm.locate(str(folder)).sha256
    (folder / "special_tokens_map.json").unlink()
    (folder / "generation_config.json").unlink()
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert llm.locate(str(folder)).sha256 == before
    change_json(folder / "tokenizer_config.json", model_max_length=512)
    assert llm.locate(str(folder)).sha256 != before


def test_old_folder_that_lists_added_tokens_elsewhere_is_digested_with_that_file(
    folder: Path,
) -> None:
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text())
    del content["added_tokens_decoder"]
    path.write_text(json.dumps(content))
    before = llm.locate(str(folder)).sha256
    (folder / "special_tokens_map.json").unlink()
    assert llm.locate(str(folder)).sha256 != before


def test_files_outside_the_digest_do_not_reach_the_tokenizer(folder: Path) -> None:
    (folder / "special_tokens_map.json").write_text("[]")
    (folder / "added_tokens.json").write_text("[]")
    expected = PromptTokenizer(AutoTokenizer.from_pretrained(folder).backend_tokenizer)
    found = PromptTokenizer(llm.load_tokenizer(llm.locate(str(folder))))
    assert found.opening_ids(["This user"]) == expected.opening_ids(["This user"])


def test_a_digest_of_an_earlier_release_is_refused_with_the_new_one(folder: Path) -> None:
    source = llm.locate(str(folder))
    old = read_folder(folder).digest_of_release_0_1()
    with pytest.raises(CheckpointError) as caught:
        llm.load(msgspec.structs.replace(source, sha256=old), torch.float32)
    assert "which left out tokenizer_config.json" in str(caught.value)
    assert f"write {source.sha256} in its place" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"sha256": "1"}', "name the LLM by 'path' or by 'package'"),
        ('{"sha256": "1", "path": "llm"}', "'path' is 'llm'; write the LLM's folder from the root"),
        (
            '{"sha256": "1", "package": {"requirement": "x", "wheel_sha256": "..", "member": "y"}}',
            "'package' is none of those that are served: smollm2-135m",
        ),
    ],
    ids=["neither", "relative path", "unknown package"],
)
def test_a_source_that_names_no_llm_is_refused(content: str, message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.json.decode(content, type=llm.LLMSource)


def test_a_file_is_no_folder(folder: Path) -> None:
    assert "is a file; name the LLM's folder" in refusal(folder / WEIGHTS)


def test_a_missing_folder_is_named(folder: Path) -> None:
    assert f"{folder}x is not there" in refusal(folder.with_name(f"{folder.name}x"))


def test_the_same_weights_in_mistrals_own_format_may_lie_beside(folder: Path) -> None:
    before = llm.locate(str(folder))
    shutil.copy(folder / WEIGHTS, folder / "consolidated.safetensors")
    assert llm.locate(str(folder)) == before
