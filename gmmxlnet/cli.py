"""The shell command `gmmxlnet`: one subcommand a module in `gmmxlnet/commands/`.

    gmmxlnet --help

A command's module has `HELP` (one line), `add_arguments(parser)` and `run(arguments) -> int` (the exit status). An
error that is the input's fault ends as one line on standard error and status 1.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from gmmxlnet.errors import GMMXLNetError

COMMANDS: tuple[str, ...] = ("answer",)  # names of modules in gmmxlnet/commands, as typed in the shell


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (the shell's, when left out) name; returns its exit status."""
    parser = argparse.ArgumentParser(prog="gmmxlnet", description="XLNet with a gated mixture of memories.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name in COMMANDS:
        module = importlib.import_module(f"gmmxlnet.commands.{name}")
        subparser = subparsers.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed)
    except GMMXLNetError as error:
        print(f"gmmxlnet {parsed.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
