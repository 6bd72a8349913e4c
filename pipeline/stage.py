"""How a stage runs: its command line, and errors that end it with one line on standard error."""

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NoReturn

from gmmxlnet import garbage
from gmmxlnet.errors import ConfigError, GMMXLNetError, Interrupted, cannot_write, is_out_of_memory
from gmmxlnet.interrupts import exit_status, name_of, raise_on_signals
from gmmxlnet.messages import guard_output, said, say
from gmmxlnet.utils.logs import add_log_level, set_log_level
from pipeline.folder_lock import folder_lock
from pipeline.places import REPORTS, main_root

LAUNCHED_HERE = "GMMXLNET_LAUNCHED"  # set by `pipeline.launch` for the processes that it starts
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where torch's launcher looks for what ended a process
OTHER_PROCESS_GONE = r"Connection (closed|reset) by peer|Broken pipe|Connection refused"  # as gloo and NCCL say it
WORKER_KILLED = r"DataLoader worker .* is killed by signal: ([^.]+)"
WAIT_SECONDS = 8.0
LESS_MEMORY = (
    "lower batch_size (and raise gradient_accumulation_steps as much) or eval_batch_size, num_memory_experts, "
    "memory_num_tokens or max_seq_length in params.yaml, or set gradient_checkpointing, bptt_segments or "
    "progressive_segments"
)


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main`, which takes no arguments; `--log-level` is every stage's."""
    stage = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(prog=f"python -m pipeline.{stage}")
    add_log_level(parser)
    arguments = parser.parse_args()
    with errors_on_one_line(stage):
        set_log_level(arguments.log_level)
        with only_stage_here():
            if main.__module__ == "__main__":  # this process is the stage's own
                _prepare_bits()
            main()


def _prepare_bits() -> None:
    from pipeline import params, portable_bits  # not before `crash` watches this process

    with suppress(ConfigError):  # the stage refuses such parameters itself, in its own words
        portable_bits.prepare(params.load_params())


def only_stage_here() -> AbstractContextManager[None]:
    """Keep other stages from the folder in which this one runs: they would write and remove the same files.

    Raises GMMXLNetError if another does not end within seconds (what a killed one left behind takes a few). The lock is
    on the folder of reports. Processes that a launcher started share its lock.
    """
    if "LOCAL_RANK" in os.environ or not REPORTS.is_dir():  # not in a repository: the stage will say what it lacks
        return nullcontext()
    refusal = GMMXLNetError(
        "another stage runs in this folder and would write the same files; wait until it has ended, or run "
        "experiments beside each other with dvc exp run --queue or --temp"
    )
    return folder_lock(REPORTS, WAIT_SECONDS, refusal)


@contextmanager
def errors_on_one_line(program: str) -> Iterator[None]:
    """End the program with status 1 on an error that users should read: one line on stderr, or one for each fault.

    Ctrl-C, SIGTERM and SIGHUP end it with one line and status 130, 143 and 129.
    """
    garbage.resume()
    guard_output()
    try:
        with raise_on_signals():
            yield
    except Interrupted as error:
        told = f"{program}: stopped by {name_of(error.signum)} {error.kept}".rstrip()
        _end(f"{told}; to go on: {command_to_go_on()}", exit_status(error.signum))
    except GMMXLNetError as error:
        _end(f"{program}: {error}")
    except Exception as error:
        if line := line_for(error):
            _end(f"{program}: {line}")
        raise


def line_for(error: BaseException) -> str | None:
    """What to say of an error of the machine, with a remedy; None for a bug, which keeps its traceback."""
    if is_out_of_memory(error):
        return f"out of memory ({str(error).partition('. ')[0] or type(error).__name__}); {LESS_MEMORY}"
    if isinstance(error, RuntimeError) and ERROR_FILE in os.environ and re.search(OTHER_PROCESS_GONE, str(error)):
        return "another of its processes has ended; see what that one says"
    if isinstance(error, RuntimeError) and (killed := re.search(WORKER_KILLED, str(error))):
        return f"a process that prepares batches was killed ({killed[1]}); lower num_workers"
    return cannot_write(error)


def command_to_go_on() -> str:
    """The command that runs again what a signal ended, as DVC or a person started it."""
    if "DVC_STAGE" not in os.environ:
        return shlex.join(["python", *sys.orig_argv[1:]])
    if "DVC_EXP_NAME" not in os.environ:
        return "dvc repro"
    here = Path.cwd() == main_root().resolve()
    return "dvc exp run" if here else f"queue {os.environ['DVC_EXP_NAME']} again with the same parameters"


def _end(text: str, status: int = 1) -> NoReturn:
    """Say it, or tell the launcher that started this process among others: it says once what all of them found."""
    if ERROR_FILE in os.environ:
        error = {"message": "\n".join(map(said, text.splitlines())), "timestamp": int(time.time())}
        Path(os.environ[ERROR_FILE]).write_text(json.dumps(error), encoding="utf-8")
    if ERROR_FILE not in os.environ or (status > 128 and _leads_others()):
        for line in text.splitlines():
            say(line, file=sys.stderr)
    sys.exit(status)


def _leads_others() -> bool:
    """Whether this is the first process of another launcher than `pipeline.launch`; on a signal those say nothing."""
    return os.environ.get("RANK") == "0" and LAUNCHED_HERE not in os.environ
