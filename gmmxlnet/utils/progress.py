"""Progress display: a bar on a terminal, periodic log lines elsewhere.

with Progress("evaluate", total=len(documents), unit="documents") as progress:
    progress.advance(8, tokens=3_000, EM=71.3)
"""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 30.0  # without a terminal; shorter tasks log nothing


class Progress:
    """Counts completed units and shows the latest figures, tokens per second and time left. Silent above level INFO.

    Args:
        done: units that were completed before, by the run that this one resumes.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self._done_before = done
        self.tokens = 0
        self.figures: dict[str, float] = {}
        self.start = self._last_line = time.monotonic()
        self.shown = logger.isEnabledFor(logging.INFO)  # lets callers skip computing figures
        on_terminal = self.shown and sys.stderr.isatty()
        self._lines = self.shown and not on_terminal
        self._bar = tqdm(
            total=total, initial=done, desc=what, unit=f" {unit}", disable=not on_terminal, dynamic_ncols=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def advance(self, num: int = 1, tokens: int = 0, **figures: float) -> None:
        """Adds `num` completed units and `tokens` read; figures are shown by name."""
        self.done += num
        self.tokens += tokens
        self.figures |= figures
        now = time.monotonic()
        words = self._words(now - self.start)
        self._bar.set_postfix_str(", ".join(words), refresh=False)
        self._bar.update(num)
        if self._lines and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self.start) * (self.total - self.done) / max(self.done - self._done_before, 1)
            words = [f"{self.done:,} of {self.total:,} {self.unit}", *words, f"{_duration(left)} left"]
            logger.info("%s: %s", self.what, ", ".join(words))

    def _words(self, seconds: float) -> list[str]:
        words = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in self.figures.items()]
        if self.tokens and seconds > 0:
            words.append(f"{self.tokens / seconds:,.0f} tokens/s")
        return words

    def close(self) -> None:
        """Closes the bar and leaves it on the terminal."""
        self._bar.close()


def _duration(seconds: float) -> str:
    """Formats a duration, e.g. 45 s, 12 min, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
