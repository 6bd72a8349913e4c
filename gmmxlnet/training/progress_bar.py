"""Progress bar of the Trainer, in the style of the other commands: loss, tokens per second, time left."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gmmxlnet.utils.progress import Progress


class ProgressCallback(TrainerCallback):
    """Replaces the Trainer's own progress bar and printed logs."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self._tokens_per_step = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start a progress bar at the step from which training starts."""
        if state.is_world_process_zero:
            self.progress = Progress("train", total=state.max_steps, unit="steps", done=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance by one optimizer step."""
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
        """Show the logged loss."""
        if self.progress is not None and logs and "loss" in logs:
            self._tokens_per_step = float(logs.get("tokens", 0.0))
            self.progress.figures["loss"] = float(logs["loss"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the progress bar."""
        self.close()

    def close(self) -> None:
        """Close the progress bar, if there is one."""
        if self.progress is not None:
            self.progress.close()
