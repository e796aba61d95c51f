"""Benchmarks of the engine: `python -m perf COMMAND --help`; results are JSON on stdout."""

import argparse
import sys

import msgspec

from perf import recommend


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "recommend",
        help="Recommend against the bare forward, and that against PyTorch",
        description=recommend.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recommend.add_arguments(command)
    result = recommend.run(parser.parse_args())
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
