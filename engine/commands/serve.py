"""Runs `serve`: reads the configuration, loads the bundle, and answers until it is stopped."""

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engine.bundle.manifest import read_manifest
from engine.config import Config, load_config
from engine.live import Live, open_generation
from engine.pipelines.open import require_fitting
from engine.rpc.listening import require_free
from engine.rpc.server import serve
from engine.signals import StopSignals


def run(options: argparse.Namespace, signals: StopSignals) -> None:
    config = make_config(options.config, options.listen)
    require_free(config.server.listen)
    if options.check_config:
        if options.bundle is not None:
            require_fitting(config, read_manifest(options.bundle))
        sys.stdout.write("".join(f"{line}\n" for line in describe(config)))
        return
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    with contextlib.closing(Live(open_generation(options.bundle, config))) as live:
        asyncio.run(serve(live, config, signals))


def make_config(path: Path | None, listen: str | None) -> Config:
    """Read the file, if any; `listen` overrides its server.listen."""
    config = Config() if path is None else load_config(path)
    if listen is None:
        return config
    server = msgspec.structs.replace(config.server, listen=listen)
    return msgspec.structs.replace(config, server=server)


def describe(config: Config) -> Iterator[str]:
    """Give every setting as a line of `section.key = value`, defaults included."""
    for section, settings in msgspec.to_builtins(config).items():
        for key, value in settings.items():
            shown = "unset" if value is None else msgspec.json.encode(value).decode()
            yield f"{section}.{key} = {shown}"
