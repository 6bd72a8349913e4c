"""Distillation: trains the hidden states of all layers of the student towards the teacher's.

1. Draw the batch of the step (a function of seed and step).
2. Loss: mean over layers of the mean squared error of student and teacher + shift, over the teacher's variance.
3. Adam without weight decay; positions, segments and biases at four times the rate, since they start from nothing.
4. Rate: warm-up, constant, then linearly to zero over the last quarter of the steps (a trapezoid: Hägele et al. 2024,
   https://arxiv.org/abs/2405.18392). Steps before the last quarter do not depend on the total, so a time budget may
   determine it late: a run with the reported number of steps repeats the result bitwise.

An interrupted run resumes bitwise from its newest state.
"""

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from typing_extensions import TypedDict

from gmmxlnet.conversion.families import Teacher
from gmmxlnet.conversion.report import student_states, teacher_states
from gmmxlnet.conversion.windows import Batch, Windows
from gmmxlnet.errors import CheckpointError, Interrupted, reason_of
from gmmxlnet.interrupts import StopRequest
from gmmxlnet.models.encoder import XLNetEncoder
from gmmxlnet.reports import Count, Number, first_fault
from gmmxlnet.training.resume import surroundings
from gmmxlnet.utils.files import atomic_folder, digest_of, read_json, write_json
from gmmxlnet.utils.progress import Progress

logger = logging.getLogger(__name__)
STATE, WEIGHTS = "state.json", "state.safetensors"
RELATIONAL = ("position.weight", "r_w_bias", "r_r_bias", "r_s_bias", "segment_embedding")
RELATIONAL_RATE = 4.0  # times the learning rate
BETAS = (0.9, 0.98)
WARMUP_STEPS = 20
COOLDOWN = 4  # the last 1/4 of the steps
MAX_GRAD_NORM = 1.0
SECONDS_BETWEEN_STATES = 120.0
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # Adam's state of a parameter


class Told(TypedDict):
    """`state.json`: attributes of a `Distiller`."""

    identity: str
    step: Count
    seconds: Annotated[float, Field(ge=0, le=1e12)]
    tokens_read: Count
    losses: list[Number]
    total_steps: Count | None


_TOLD = TypeAdapter(Told)


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Training options; `minutes` or `steps` give the duration."""

    minutes: float
    """Total training time including interrupted runs, without the time for saving states."""
    steps: int | None
    """Number of steps; replaces `minutes`."""
    tokens: int
    """Tokens per step."""
    longest: int
    """Maximum tokens per window."""
    learning_rate: float
    dtype: torch.dtype | None
    """Autocast dtype; None for float32."""


def cooldown_start(total_steps: int) -> int:
    """Return the step at which the learning rate starts to fall."""
    return total_steps - total_steps // COOLDOWN


def steps_from(start: int) -> int:
    """The total steps of a run whose rate falls from step `start` on: the inverse of `cooldown_start`."""
    return start + start // (COOLDOWN - 1)


def rate_at(step: int, total_steps: int | None) -> float:
    """The learning rate's factor; `total_steps` may be None as long as the rate does not fall."""
    factor = min(1.0, (step + 1) / WARMUP_STEPS)
    if total_steps is not None and step >= (start := cooldown_start(total_steps)):
        factor *= (total_steps - step) / (total_steps - start + 1)
    return factor


def distill_loss(teacher: Teacher, encoder: XLNetEncoder, shift_Nd: Tensor, batch: Batch) -> Tensor:
    """Mean over layers of the squared error divided by the teacher's variance, without padding."""
    with torch.no_grad():
        taught = teacher_states(teacher, batch)
    own = student_states(encoder, batch)
    there_BL = batch.attention_mask.bool()
    losses = []
    for taught_BLd, own_BLd, shift_d in list(zip(taught, own, shift_Nd, strict=True))[1:]:
        goal_Td = taught_BLd[there_BL].float()
        losses.append(F.mse_loss(own_BLd[there_BL].float(), goal_Td + shift_d) / goal_Td.var())
    return torch.stack(losses).mean()


class Distiller:
    """A student in training, with its optimizer, step and the seconds it has taken.

    Args:
        identity: further values that affect the result; a state of another identity, or of other libraries, another
            processor or number of threads, is ignored.
        resume_dir: folder of the saved state.
    """

    def __init__(
        self,
        teacher: Teacher,
        encoder: XLNetEncoder,
        shift_Nd: Tensor,
        windows: Windows,
        how: Distillation,
        *,
        identity: dict[str, Any],
        resume_dir: Path,
    ) -> None:
        self.teacher, self.encoder, self.shift_Nd, self.windows, self.how = teacher, encoder, shift_Nd, windows, how
        self.device = shift_Nd.device
        decisive = {name: str(value) for name, value in asdict(how).items() if name not in ("minutes", "steps")}
        self.identity = digest_of(identity | decisive | surroundings())
        self.resume_dir = resume_dir
        self.step, self.seconds, self.total_steps = 0, 0.0, how.steps
        self.tokens_read = 0
        self.losses: list[float] = []
        named = list(encoder.named_parameters())
        fast = [parameter for name, parameter in named if name.endswith(RELATIONAL)]
        slow = [parameter for name, parameter in named if not name.endswith(RELATIONAL)]
        self.optimizer = torch.optim.Adam([{"params": fast}, {"params": slow}], lr=0.0, betas=BETAS, fused=True)
        self._rates = (RELATIONAL_RATE * how.learning_rate, how.learning_rate)
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Train to the end of the steps or of the minutes, from the newest state if there is one.

        A signal ends it after the step, with a last state. Raises Interrupted.
        """
        self._resume()
        self.encoder.train()
        steps = self.how.steps
        goal, unit = (round(self.how.minutes * 60), "seconds") if steps is None else (steps, "steps")
        done = min(goal, int(self.seconds) if steps is None else self.step)
        with StopRequest() as stop, Progress("distill", total=goal, unit=unit, done=done) as progress:
            while self.total_steps is None or self.step < self.total_steps:
                begin = time.monotonic()
                loss, tokens = self._train_step()
                self.seconds += time.monotonic() - begin
                if self.total_steps is None and self.seconds >= 60 * self.how.minutes * (1 - 1 / COOLDOWN):
                    self.total_steps = steps_from(self.step)
                now_done = min(goal, int(self.seconds) if steps is None else self.step)
                progress.advance(now_done - done, tokens=tokens, loss=loss, step=self.step)
                done = now_done
                if time.monotonic() - self._saved_at >= SECONDS_BETWEEN_STATES:
                    self.save()
                if stop.signum is not None:
                    self.save()
                    raise Interrupted(stop.signum, f"after step {self.step:,}, which is kept in {self.resume_dir}")
        self.encoder.eval()

    def _train_step(self) -> tuple[float, int]:
        """Loss and number of tokens of one step."""
        batch = self.windows.draw(self.step, tokens=self.how.tokens, longest=self.how.longest).to(self.device)
        factor = rate_at(self.step, self.total_steps)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        with torch.autocast(self.device.type, self.how.dtype, enabled=self.how.dtype is not None):
            loss = distill_loss(self.teacher, self.encoder, self.shift_Nd, batch)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.encoder.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        value = loss.item()
        if not torch.isfinite(loss):
            raise CheckpointError(f"distillation: the loss of step {self.step} is {value}; lower --learning-rate")
        self.step += 1
        self.losses.append(round(value, 6))
        tokens = int(batch.attention_mask.sum())
        self.tokens_read += tokens
        return value, tokens

    def report(self) -> dict[str, Any]:
        """Return the training's figures for `conversion.json`; only the number of steps depends on time."""
        few = max(1, min(10, len(self.losses)))
        ends = {"first": self.losses[:few], "last": self.losses[-few:]}
        means = {f"loss_{name}_{few}_steps": round(sum(values) / few, 6) for name, values in ends.items()}
        precision = "float32" if self.how.dtype is None else str(self.how.dtype).removeprefix("torch.")
        done = {"steps": self.step, "tokens_read": self.tokens_read, "precision": precision}
        return done | {"device": self.device.type, "threads": torch.get_num_threads()} | (means if self.losses else {})

    def save(self) -> None:
        """Save the state atomically."""
        self._saved_at = time.monotonic()
        moments: dict[str, Tensor] = {}
        for name, parameter in self.encoder.named_parameters():
            moments |= {f"{kind} {name}": value for kind, value in self.optimizer.state[parameter].items()}
        weights = {f"weight {name}": tensor for name, tensor in self.encoder.state_dict().items()}
        told = {name: getattr(self, name) for name in Told.__annotations__}
        with atomic_folder(self.resume_dir) as folder:
            save_file({name: tensor.contiguous() for name, tensor in (weights | moments).items()}, folder / WEIGHTS)
            write_json(folder / STATE, told)

    def _resume(self) -> None:
        """Restore the newest state, unless there is none, it is damaged or it belongs to another run."""
        try:
            told = _TOLD.validate_python(read_json(self.resume_dir / STATE), strict=True)
            tensors = load_file(self.resume_dir / WEIGHTS, device=str(self.device))
        except FileNotFoundError:
            return
        except ValidationError as error:
            self._begin_anew(f"is not what convert wrote ({first_fault(error)})")
            return
        except (OSError, ValueError, SafetensorError) as error:
            self._begin_anew(f"cannot be read ({reason_of(error)})")
            return
        if told["identity"] != self.identity or not self._is_on_the_way(told["step"], told["total_steps"]):
            self._begin_anew("is of another conversion, library, processor or number of threads")
            return
        odd = "losses" if len(told["losses"]) != told["step"] else self._odd_tensor(tensors)
        if odd:
            self._begin_anew(f"is not what convert wrote ({odd} has another size)")
            return
        self.step, self.seconds, self.losses = told["step"], told["seconds"], told["losses"]
        self.tokens_read = told["tokens_read"]
        self.total_steps = told["total_steps"] if self.how.steps is None else self.how.steps
        if self.how.steps is None and self.total_steps and self.step < cooldown_start(self.total_steps):
            self.total_steps = None  # steps that were asked for then; now the minutes decide
        self.encoder.load_state_dict({name: tensors[f"weight {name}"] for name in self.encoder.state_dict()})
        for name, parameter in self.encoder.named_parameters():
            self.optimizer.state[parameter] = {kind: tensors[f"{kind} {name}"] for kind in MOMENTS}
        logger.info("going on from step %d", self.step)

    def _begin_anew(self, reason: str) -> None:
        logger.warning("%s: %s; beginning anew", self.resume_dir, reason)

    def _odd_tensor(self, tensors: dict[str, Tensor]) -> str | None:
        """Return the name of a tensor that a state of this training has not, or has with another shape or dtype."""
        expected = {f"weight {name}": tensor for name, tensor in self.encoder.state_dict().items()}
        for name, parameter in self.encoder.named_parameters():
            like = (torch.zeros(()), parameter, parameter)
            expected |= {f"{kind} {name}": tensor for kind, tensor in zip(MOMENTS, like, strict=True)}
        for name in sorted(expected.keys() | tensors.keys()):
            own, found = expected.get(name), tensors.get(name)
            if own is None or found is None or own.shape != found.shape or own.dtype != found.dtype:
                return name
        return None

    def _is_on_the_way(self, step: int, total_steps: int | None) -> bool:
        """Whether a run of this duration passes through such a state."""
        if self.how.steps is None or self.how.steps == total_steps:
            return True
        before_it_falls = total_steps is None or step <= cooldown_start(total_steps)
        return before_it_falls and step <= cooldown_start(self.how.steps)
