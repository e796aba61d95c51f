"""Turns the files of the published LLM-SRec code into a checkpoint."""

import argparse
import sys
from pathlib import Path

from llmsrec import checkpoint, llm
from llmsrec.catalogue import CatalogueItem
from llmsrec.files import claimed, require_apart
from llmsrec.model import Heads
from llmsrec.reference_files import ReferenceFiles, read_reference


def run(arguments: argparse.Namespace) -> None:
    output: Path = arguments.output
    require_apart(output, weights=arguments.weights, llm=Path(arguments.llm))
    checkpoint.require_replaceable(output)
    with claimed(output):
        files = read_reference(arguments.weights)
        sys.stderr.writelines(f"note: {note}\n" for note in files.notes)
        imported = to_checkpoint(files, llm.locate(arguments.llm))
        imported.load_model()
        checkpoint.save(output, imported)
    sys.stdout.write(
        f"{arguments.output}: {len(imported.catalogue)} items; build a bundle with\n"
        f"python export/build_engine.py --checkpoint {arguments.output} --output BUNDLE\n"
    )


def to_checkpoint(files: ReferenceFiles, source: llm.LLMSource) -> checkpoint.Checkpoint:
    """Join the files with their LLM; item ids are the published code's integers as text."""
    heads = Heads(files.heads["CLS"].numel())
    heads.load_state_dict(files.heads)
    catalogue = [CatalogueItem(str(row + 1), title) for row, title in enumerate(files.titles)]
    config = checkpoint.CheckpointConfig(
        model_version="reference",
        llm_dim=files.heads["CLS"].numel(),
        num_items=len(catalogue),
    )
    return checkpoint.Checkpoint(
        config=config,
        heads=heads,
        item_table=files.item_table,
        catalogue=catalogue,
        histories=files.histories,
        llm_source=source,
    )
