"""`StepRecord`: the values of every training step, written to `training.csv`."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gmmxlnet.utils.tables import write_csv


@dataclass
class StepRecord:
    """Values of every step, kept on the device until they are read, so that recording does not synchronize it.

    `seconds` are wall-clock times, which are not reproducible and hence written to a separate file.
    """

    names: list[str] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, values: dict[str, Tensor], seconds: float) -> None:
        """Append one step's scalars (always the same names) and the time at its end."""
        self.names = list(values)
        self.rows.append(torch.stack([value.detach().float() for value in values.values()]))
        self.seconds.append(seconds)

    def means(self, num_steps: int) -> dict[str, float]:
        """Return each value's mean over the last steps, and their tokens per second."""
        rows, clock = torch.stack(self.rows[-num_steps:]), self.seconds[-num_steps - 1 :]
        means = dict(zip(self.names, rows.mean(0).tolist(), strict=True))
        if len(clock) > 1:
            means["tokens_per_second"] = means["tokens"] * (len(clock) - 1) / (clock[-1] - clock[0])
        return means

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors for a checkpoint: rows (N, values) and seconds relative to the last step (N,), <= 0."""
        seconds = torch.tensor(self.seconds, dtype=torch.float64)
        return {"rows": torch.stack(self.rows), "seconds": seconds - seconds[-1]}

    @classmethod
    def of(cls, names: list[str], tensors: dict[str, Tensor], device: torch.device) -> "StepRecord":
        """Restore a record from `names` and `tensors()`; the time of its last step is set to now."""
        seconds = tensors["seconds"] + time.perf_counter()
        return cls(names, list(tensors["rows"].to(device)), seconds.tolist())

    def write_csv(self, path: str | Path) -> None:
        """Write one line per step with all values; reproducible on the same machine."""
        rows = torch.stack(self.rows).double().numpy(force=True) if self.rows else np.empty((0, len(self.names)))
        table = pd.DataFrame(rows, columns=self.names)
        table.insert(0, "step", range(1, len(rows) + 1))
        write_csv(path, table, line_terminator="\r\n")

    def write_throughput_csv(self, path: str | Path) -> None:
        """Write one line per step, from the second on, with its duration in seconds and tokens per second."""
        seconds = np.diff(self.seconds)
        tokens = np.array([row[self.names.index("tokens")].item() for row in self.rows[1:]])
        columns = {"step": range(2, len(seconds) + 2), "seconds": seconds, "tokens_per_second": tokens / seconds}
        write_csv(path, pd.DataFrame(columns), line_terminator="\r\n")
