"""`StepRecord`: what every step of a training was, written as `training.csv`."""

import csv
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmmxlnet.utils.files import atomic_file


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
        table = torch.stack(self.rows).tolist() if self.rows else []
        _write_csv(path, ["step", *self.names], ([n, *(f"{x:.6g}" for x in row)] for n, row in enumerate(table, 1)))

    def write_throughput_csv(self, path: str | Path) -> None:
        """A line a step: seconds since the first step ended, and tokens per second."""
        tokens = [row[self.names.index("tokens")].item() for row in self.rows]
        spans = [later - earlier for earlier, later in pairwise(self.seconds)]
        rows = ([n, f"{s:.3f}", f"{t / s:.1f}"] for n, (s, t) in enumerate(zip(spans, tokens[1:], strict=True), 2))
        _write_csv(path, ["step", "seconds", "tokens_per_second"], rows)


def _write_csv(path: str | Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    with atomic_file(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
