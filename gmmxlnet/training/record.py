"""`StepRecord`: what every step of a training was, written as `training.csv`."""

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
    """Values of every step, kept on the device until somebody asks, so that recording does not hold up the device.

    `seconds` are wall-clock times, which no run repeats; they are written to a file of their own.
    """

    names: list[str] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, values: dict[str, Tensor], seconds: float) -> None:
        """Append one step's scalars (the same names every time) and its end on the clock."""
        self.names = list(values)
        self.rows.append(torch.stack([value.detach().float() for value in values.values()]))
        self.seconds.append(seconds)

    def means(self, num_steps: int) -> dict[str, float]:
        """Each value's mean over the last steps; and tokens per second over them."""
        rows, clock = torch.stack(self.rows[-num_steps:]), self.seconds[-num_steps - 1 :]
        means = dict(zip(self.names, rows.mean(0).tolist(), strict=True))
        if len(clock) > 1:
            means["tokens_per_second"] = means["tokens"] * (len(clock) - 1) / (clock[-1] - clock[0])
        return means

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside `names`: rows (N, values) and seconds since the last step (N,), all <= 0."""
        seconds = torch.tensor(self.seconds, dtype=torch.float64)
        return {"rows": torch.stack(self.rows), "seconds": seconds - seconds[-1]}

    @classmethod
    def of(cls, names: list[str], tensors: dict[str, Tensor], device: torch.device) -> "StepRecord":
        """The record that `tensors` was taken from; its last step ends now, on this process's clock."""
        seconds = tensors["seconds"] + time.perf_counter()
        return cls(names, list(tensors["rows"].to(device)), seconds.tolist())

    def write_csv(self, path: str | Path) -> None:
        """A line a step: all values, the same bits in every run on the same machine."""
        rows = torch.stack(self.rows).double().numpy(force=True) if self.rows else np.empty((0, len(self.names)))
        table = pd.DataFrame(rows, columns=self.names)
        table.insert(0, "step", range(1, len(rows) + 1))
        write_csv(path, table, line_terminator="\r\n")

    def write_throughput_csv(self, path: str | Path) -> None:
        """A line a step, from the second on: seconds that it took, and tokens per second."""
        seconds = np.diff(self.seconds)
        tokens = np.array([row[self.names.index("tokens")].item() for row in self.rows[1:]])
        columns = {"step": range(2, len(seconds) + 2), "seconds": seconds, "tokens_per_second": tokens / seconds}
        write_csv(path, pd.DataFrame(columns), line_terminator="\r\n")
