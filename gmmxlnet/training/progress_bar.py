"""The Trainer's progress as everywhere else in this project: loss, tokens per second, time left."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gmmxlnet.utils.progress import Progress


class ProgressCallback(TrainerCallback):
    """Takes the place of the Trainer's own bar and of its printed dictionaries."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self._tokens_per_step = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called once, resumed or not: the steps still to be done are counted."""
        if state.is_world_process_zero:
            self.progress = Progress("train", total=state.max_steps - state.global_step, unit="steps")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called after every optimizer step."""
        if self.progress is not None:
            self.progress.advance(tokens=round(self._tokens_per_step))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Called when the Trainer logs means over some steps."""
        if self.progress is not None and logs and "loss" in logs:
            self._tokens_per_step = float(logs.get("tokens", 0.0))
            self.progress.figures["loss"] = float(logs["loss"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called when all steps are done."""
        if self.progress is not None:
            self.progress.close()
