"""A program that serves a generation without a model."""

import argparse
import asyncio
import logging
import sys

from engine.config import AdmissionConfig, Config, ServerConfig
from engine.errors import GpuFailed
from engine.live import Live
from engine.rpc.server import serve
from engine.signals import StopSignals
from support.generations import SummingPipeline, make_generation


def make_config(*, listen: str = "127.0.0.1:0", drain_seconds: float = 5.0) -> Config:
    return Config(
        server=ServerConfig(listen=listen, max_request_bytes=16_384, drain_seconds=drain_seconds),
        admission=AdmissionConfig(max_in_flight=4),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--drain-seconds", type=float, default=5.0)
    options = parser.parse_args()
    pipeline = SummingPipeline(options.delay)
    config = make_config(drain_seconds=options.drain_seconds)
    try:
        with StopSignals() as signals:
            asyncio.run(serve(Live(make_generation(pipeline)), config, signals))
    except GpuFailed as error:
        sys.exit(f"error: {error}")
