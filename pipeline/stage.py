"""How a stage runs: its command line, and errors that end it with one line on standard error."""

import argparse
import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from gmmxlnet.errors import DatasetError, GMMXLNetError, is_out_of_memory
from gmmxlnet.utils.logs import add_log_level, set_log_level

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where torch's launcher looks for what ended a process
NOWHERE_TO_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
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
        main()


@contextmanager
def errors_on_one_line(program: str) -> Iterator[None]:
    """End the program with status 1 on an error that users should read: one line on stderr, or one for each fault."""
    try:
        yield
    except GMMXLNetError as error:
        lines = str(error).splitlines() if isinstance(error, DatasetError) else [str(error)]
        _end(f"{program}: " + "\n".join(" ".join(line.split()) for line in lines))
    except OSError as error:
        if error.errno not in NOWHERE_TO_WRITE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        done = "opened" if error.errno in (errno.EACCES, errno.EPERM) else "written"
        _end(f"{program}: {where}cannot be {done} ({error.strerror}); make room or give permission, and run it again")
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        _end(f"{program}: out of memory ({str(error).partition('. ')[0]}); {LESS_MEMORY}")


def _end(line: str) -> NoReturn:
    """Say it, or tell the launcher that started this process among others: it says once what all of them found."""
    if ERROR_FILE in os.environ:
        error = {"message": line, "timestamp": int(time.time())}
        Path(os.environ[ERROR_FILE]).write_text(json.dumps(error), encoding="utf-8")
    else:
        print(line, file=sys.stderr)
    sys.exit(1)
