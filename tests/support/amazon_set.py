"""A small set of Amazon Reviews files that is whole, to be spoilt by tests, and what reads it."""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from llmsrec.amazon import AmazonFiles, Selection, load_amazon
from llmsrec.dataset import Dataset
from llmsrec.tally import Tally

Change = Callable[[bytes], bytes]

HEADER = "user_id,parent_asin,rating,timestamp"
NUM_USERS = 12
NUM_INTERACTIONS = 8 * NUM_USERS
FIRST_MS = 1_500_000_000_000
_MS_PER_DAY = 86_400_000
_ALL = Selection(sample_rate=1.0, min_interactions=1)


def write_amazon_set(folder: Path) -> AmazonFiles:
    """Write eight interactions of each user, a day apart: six to train, one each held out."""
    rng = random.Random(0)
    lines: dict[str, list[str]] = {"train": [HEADER], "valid": [HEADER], "test": [HEADER]}
    for user in range(NUM_USERS):
        for place, item in enumerate(rng.sample(range(60), 8)):
            split = "train" if place < 6 else "valid" if place == 6 else "test"
            lines[split].append(f"U{user},B{item},5.0,{FIRST_MS + place * _MS_PER_DAY}")
    for split, content in lines.items():
        (folder / f"{split}.csv").write_text("\n".join(content) + "\n")
    items = [
        {"parent_asin": f"B{item}", "title": f"Thing {item}", "price": 1.5} for item in range(60)
    ]
    metadata = "".join(json.dumps(item) + "\n" for item in items)
    (folder / "meta.jsonl").write_text(metadata)
    train, valid, test = (folder / f"{split}.csv" for split in lines)
    return AmazonFiles(train, valid, test, folder / "meta.jsonl")


def change(path: Path, to: Change) -> None:
    path.write_bytes(to(path.read_bytes()))


def read_amazon_set(files: AmazonFiles, selection: Selection = _ALL) -> tuple[Dataset, list[str]]:
    """Give the dataset, and the lines of the summary that tell more than what was read."""
    tally = Tally()
    with Progress(console=Console(file=io.StringIO())) as bars:
        dataset = load_amazon("tiny", files, selection, tally, bars)
    return dataset, [line for line in tally.lines() if not line.startswith("read: ")]
