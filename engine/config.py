"""The server's configuration: one strict struct per stage, read from one TOML file."""

import codecs
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from engine.errors import ConfigError

Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
Threads = Annotated[int, msgspec.Meta(ge=0, le=1024)]
BatchTokens = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
BatchSize = Annotated[int, msgspec.Meta(ge=1, le=2**16)]
Requests = Annotated[int, msgspec.Meta(ge=1, le=10**6)]
Ids = Annotated[int, msgspec.Meta(ge=1, le=10**7)]
MessageBytes = Annotated[int, msgspec.Meta(ge=2**14, le=2**31 - 1)]

ItemPrecision = Literal["fp32", "fp16", "bf16"]


class EncoderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    num_threads: Threads = 0
    """Threads of one forward; 0 leaves it to the runtime."""


class RetrievalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device: Literal["gpu", "cpu"] = "gpu"
    """Where a bundle for a GPU ranks the catalogue; one for the CPU ranks there."""
    item_precision: ItemPrecision = "fp32"
    """What a GPU holds item vectors in; half the memory and time of a search in fp16 or bf16."""


class BatcherConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_batch_tokens: BatchTokens | None = None
    """Tokens of one micro-batch, padding included; a single prompt always fits.
    Without it 2048 on a CPU, and what the bundle was made ready for on a GPU."""
    max_batch_size: BatchSize | None = None
    """Without it 32 on a CPU, and what the bundle was made ready for on a GPU."""


class AdmissionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_in_flight: Requests = 256
    """Requests admitted and not yet answered; more are refused at once."""


class RequestConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one request may ask for: its work is done between those of all others."""

    max_interactions: Ids = 2_500
    """A prompt holds the newest ten; the rest of a history is not recommended again."""
    max_excluded_ids: Ids = 5_000
    max_id_characters: Annotated[int, msgspec.Meta(ge=1, le=2**16)] = 1_024
    """A reply repeats the ids that were ignored."""
    max_k: Annotated[int, msgspec.Meta(ge=10, le=10**7)] = 1_000
    """No less than the ten of a request that does not say."""


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    listen: str = "127.0.0.1:50051"
    """`HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`."""
    max_request_bytes: MessageBytes = 1_048_576
    max_reply_bytes: MessageBytes = 4_194_304
    """What clients take unless told otherwise; a longer reply is refused."""
    min_ping_interval_seconds: Seconds = 5.0
    """Clients that send keepalive pings more often are cut off."""
    drain_seconds: Seconds = 20.0
    """How long a stopping server waits for the requests that it has admitted."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    server: ServerConfig = ServerConfig()
    request: RequestConfig = RequestConfig()
    admission: AdmissionConfig = AdmissionConfig()
    batcher: BatcherConfig = BatcherConfig()
    encoder: EncoderConfig = EncoderConfig()
    retrieval: RetrievalConfig = RetrievalConfig()


def load_config(path: Path) -> Config:
    """Read a TOML file; a misspelt key is refused with its path.

    Raises:
        ConfigError: the file cannot be read, is no TOML or does not fit.
    """
    try:
        if not path.is_file() and path.exists():
            raise ConfigError(f"cannot read the configuration {path}: it is no regular file")
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        return msgspec.toml.decode(content, type=Config)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
