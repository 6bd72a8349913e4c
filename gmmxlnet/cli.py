"""The shell command `gmmxlnet`: one subcommand a module in `gmmxlnet/commands/`.

    gmmxlnet --help

A command's module has `add_arguments(parser)`, `run(arguments) -> int` (the exit status) and, if it has options that a
dataclass explains, that dataclass as `SETTINGS`. An error that is the input's fault ends as one line on standard error
and status 1.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from gmmxlnet import garbage
from gmmxlnet.errors import GMMXLNetError, Interrupted, cannot_write, is_out_of_memory
from gmmxlnet.interrupts import exit_status, name_of, raise_on_signals
from gmmxlnet.messages import say
from gmmxlnet.native_settings import set_native_defaults
from gmmxlnet.utils.logs import add_log_level, quiet_without_a_terminal, set_log_level

COMMANDS = {  # modules in gmmxlnet/commands, as typed in the shell, and what they do
    "answer": "answer questions about a document of any length",
    "convert": "make a small pretrained XLNet from a BERT",
    "export": "write a model in bfloat16, with a card and hashes",
    "pretrain": "pretrain an encoder on plain text, for base_model to name",
    "verify": "check that a checkpoint is whole, unaltered and alive",
}


def make_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """A parser for `arguments`. Only a command that they name is imported, since torch takes seconds."""
    parser = argparse.ArgumentParser(prog="gmmxlnet", description="XLNet with a gated mixture of memories.")
    add_log_level(parser)
    quiet_without_a_terminal()
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, purpose in COMMANDS.items():
        if name not in arguments:
            subparsers.add_parser(name, help=purpose, description=purpose)
            continue
        module = importlib.import_module(f"gmmxlnet.commands.{name}")
        parents = [_options_of(module.SETTINGS)] if hasattr(module, "SETTINGS") else []
        subparser = subparsers.add_parser(name, help=purpose, description=purpose, parents=parents)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def _options_of(settings: type) -> argparse.ArgumentParser:
    """An option for each field of a dataclass: its type, its default, and the help in its metadata."""
    from transformers import HfArgumentParser  # a second, which `gmmxlnet --help` need not wait

    return HfArgumentParser(settings, add_help=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (the shell's, when left out) name; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    set_native_defaults()
    garbage.leave_at_exit()
    program = " ".join(["gmmxlnet", *[name for name in arguments if name in COMMANDS][:1]])
    try:
        with raise_on_signals():
            parsed = make_parser(arguments).parse_args(arguments)
            set_log_level(parsed.log_level)
            return parsed.run(parsed)
    except Interrupted as error:
        told = f"{program}: stopped by {name_of(error.signum)} {error.kept}".rstrip()
        say(f"{told}; the same command goes on from there" if error.kept else told, file=sys.stderr)
        return exit_status(error.signum)
    except GMMXLNetError as error:
        for line in f"{program}: {error}".splitlines():
            say(line, file=sys.stderr)
        return 1
    except Exception as error:
        reason = "out of memory; give it less to read at a time" if is_out_of_memory(error) else cannot_write(error)
        if reason is None:
            raise
        say(f"{program}: {reason}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
