"""Reads an LLM's tokenizer and refuses one that the LLM, or serving, cannot follow."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gguf import GGUFReader
from tokenizers import Tokenizer, pre_tokenizers, processors
from transformers import AutoTokenizer

from llmsrec.errors import CheckpointError
from llmsrec.llm_folder import CONFIG, TOKENIZER, LLMFolder
from llmsrec.tokens import PromptTokenizer


def read_folder_tokenizer(folder: LLMFolder) -> Tokenizer:
    """Read the tokenizer as `transformers` does, from the files of the LLM's digest alone.

    Raises:
        CheckpointError: a file is damaged, or asks for others.
    """
    with tempfile.TemporaryDirectory(prefix="llmsrec-") as alone:
        for file in (folder.path / CONFIG, *folder.tokenizer_files):
            (Path(alone) / file.name).symlink_to(file.resolve())
        try:
            return AutoTokenizer.from_pretrained(alone, trust_remote_code=False).backend_tokenizer
        except Exception as error:  # tokenizers raises nothing narrower
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise CheckpointError(
                f"{folder.path / TOKENIZER}: transformers reads no fast tokenizer out of it and its"
                f" settings ({reason}); copy the tokenizer's files again"
            ) from error


def read_gguf_tokenizer(file: Path) -> Tokenizer:
    """Read a GGUF tokenizer; `transformers` keeps its vocabulary but not two of its settings."""
    legacy_notice = logging.getLogger("transformers.models.llama.tokenization_llama_fast")
    legacy_notice.addFilter(lambda record: "legacy behaviour" not in record.getMessage())
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).backend_tokenizer
    fields = GGUFReader(file).fields
    if fields["tokenizer.ggml.pre"].contents() == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if not fields["tokenizer.ggml.add_bos_token"].contents():
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def require_followed(place: object, tokenizer: Tokenizer, num_embedded: int) -> None:
    """Refuse a tokenizer that serving cannot join, or with tokens that the LLM does not embed.

    Special tokens may lie beyond the embedding, since a title's text never becomes one.

    Raises:
        CheckpointError: naming the text or the token.
    """
    prompts = PromptTokenizer(tokenizer)
    prompts.require_seams()
    beyond = [id_ for id_ in prompts.prefix_ids if id_ >= num_embedded]
    beyond += _text_ids_beyond(tokenizer, num_embedded)
    if beyond:
        raise CheckpointError(
            f"{place}: the token {tokenizer.id_to_token(beyond[0])!r} has the id {beyond[0]}, and"
            f" the LLM embeds {num_embedded} tokens, up to the id {num_embedded - 1}; resize its"
            " embedding and train it, or take the tokenizer that it was trained with"
        )


def _text_ids_beyond(tokenizer: Tokenizer, num_embedded: int) -> Sequence[int]:
    added = tokenizer.get_added_tokens_decoder()
    ids = sorted(tokenizer.get_vocab(with_added_tokens=True).values())
    return [id_ for id_ in ids if id_ >= num_embedded and not (id_ in added and added[id_].special)]
