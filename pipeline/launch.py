"""A stage in several processes: `num_processes` of them are started here, by torch's own launcher, and find each other.

A stage that was started by a launcher already (`accelerate launch`, torchrun, a cluster's; they set WORLD_SIZE) is one
of its processes, whatever the parameter says.
"""

import atexit
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import PartialState
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gmmxlnet.devices import choose_device
from gmmxlnet.errors import GMMXLNetError, Interrupted
from gmmxlnet.interrupts import describe_exit, exit_status
from gmmxlnet.messages import say
from gmmxlnet.utils.processes import Processes
from pipeline.crash import what_to_try
from pipeline.params import Params
from pipeline.stage import LAUNCHED_HERE

# Until the interpreter ends its threads: a thread of torch's launcher that holds the last reference to it ends in a
# traceback ("cannot join current thread").
_KEPT: list[BaseException] = []


def run_together(params: Params) -> bool:
    """Run this stage in as many processes as the parameters say, and wait for them; False if it runs in this process.

    The first process that fails ends all of them, and this one with its exit status. A signal is passed on to all.
    """
    count = params.active.num_processes
    if count == 1 or "WORLD_SIZE" in os.environ:
        return False
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP would warn where no memory was left unused
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they would tell at length who failed
    os.environ[LAUNCHED_HERE] = "1"
    stage = Path(sys.argv[0]).stem
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            max_restarts=0,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # any port that is free
            local_addr="localhost",
            run_id=stage,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", f"pipeline.{stage}", *sys.argv[1:])
        except ChildFailedError as error:
            _KEPT.append(error)
            for rank, failure in error.failures.items():  # the others then fail too, or are ended by SIGTERM
                if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
                    killed = f"process {rank} of {count} was {describe_exit(failure.exitcode)}"
                    raise GMMXLNetError(f"{killed}; {what_to_try(-failure.exitcode)}") from None
            _, failure = error.get_first_failure()
            if Path(failure.error_file).is_file():  # written by `run_stage`; else a traceback has been printed
                for line in failure.message.splitlines():
                    say(line, file=sys.stderr)
            sys.exit(max(1, failure.exitcode))
        except SignalException as error:
            _KEPT.append(error)
            told = next(iter(sorted(Path(folder).rglob("error.json"))), None)  # of the first process that had begun
            if told is None:
                raise Interrupted(error.sigval) from None
            for line in json.loads(told.read_text(encoding="utf-8"))["message"].splitlines():
                say(line, file=sys.stderr)
            sys.exit(exit_status(error.sigval))
    return True


def join(device: str) -> Processes:
    """This process among those that its launcher started, each with a GPU of its own where the device is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        PartialState(cpu=choose_device(device).type == "cpu")
        atexit.register(torch.distributed.destroy_process_group)
    return Processes.current()


def check_agreement(processes: Processes, parts: Mapping[str, str]) -> None:
    """Raise GMMXLNetError in every process if one of them, on another machine, has other parts than the first.

    Args:
        parts: hashes by the names of what must be the same.
    """
    first, *others = processes.gather(dict(parts))
    for index, theirs in enumerate(others, start=1):
        for name in parts:
            if theirs[name] != first[name]:
                raise GMMXLNetError(
                    f"process {index} has another {name} than process 0; on every machine, check out the same commit "
                    "and dvc pull data/chunks"
                )
