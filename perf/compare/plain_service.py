"""The recommender as a team serves it first: FastAPI, Transformers, NumPy. The engine's rival."""

import argparse
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import fastapi
import numpy as np
import torch
import uvicorn
from safetensors.numpy import load_file

from llmsrec import checkpoint
from llmsrec.tokens import PromptTokenizer, PromptWriter

KEEP_ALIVE_SECONDS = 600
"""How long an idle connection lives, for a client that waits while another service has its turn."""


@dataclass
class Interaction:
    item_id: str
    timestamp_ms: int | None = None


@dataclass
class Request:
    history: list[Interaction]
    k: int = 10


@dataclass
class Item:
    item_id: str
    title: str
    score: float


class Recommender:
    def __init__(self, checkpoint_folder: Path, item_vectors: Path) -> None:
        loaded = checkpoint.load(checkpoint_folder)
        self.model, tokenizer = loaded.load_model()
        self.writer = PromptWriter(PromptTokenizer(tokenizer), loaded.titles)
        self.catalogue = loaded.catalogue
        self.row_of_id = {item.id: row for row, item in enumerate(loaded.catalogue)}
        self.item_vectors = load_file(item_vectors)["item_vectors"]  # [N, D]

    def recommend(self, request: Request) -> list[Item]:
        rows = [self.row_of_id[each.item_id] for each in request.history]
        prompt = self.writer.user(rows, [each.timestamp_ms for each in request.history])
        with torch.inference_mode():
            user_vector = self.model.user_vectors([prompt])[0].numpy()  # [D]
        scores = self.item_vectors @ user_vector  # [N]
        scores[rows] = -np.inf
        best = np.argsort(-scores)[: request.k]
        return [
            Item(self.catalogue[row].id, self.catalogue[row].title, float(scores[row]))
            for row in best
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("items", type=Path, help="item_vectors as safetensors")
    options = parser.parse_args()
    recommender = Recommender(options.checkpoint, options.items)
    app = fastapi.FastAPI()
    app.add_api_route("/recommend", recommender.recommend, methods=["POST"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"ready 127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=KEEP_ALIVE_SECONDS)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
