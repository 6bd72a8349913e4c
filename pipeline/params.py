"""`params.yaml`, checked: unknown keys, wrong types and impossible values stop a stage before it does any work.

    params = load_params()          # every stage's first line
    params.num_memory_experts       # what experiments vary
    params.active.learning_rate     # the profile in use

Each field's description is the end of the sentence a user reads when the value is wrong: "<key> must be <description>".
"""

import argparse
import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.error import MarkedYAMLError

from gmmxlnet.data.squad import ContextKind
from gmmxlnet.errors import ConfigError, GMMXLNetError, is_out_of_memory
from gmmxlnet.memory_kinds import KINDS
from gmmxlnet.utils.logs import add_log_level, set_log_level
from pipeline.params_errors import explain

InitStrategy = Literal["learned", "zeros", "uniform", "orthogonal"]
Positive = Annotated[int, Field(ge=1, description="an integer >= 1")]
Limit = Annotated[int | None, Field(ge=1, description="an integer >= 1, or null for no limit")]
Weight = Annotated[float, Field(ge=0, description="a finite number >= 0")]
Share = Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")]
Name = Annotated[str, Field(min_length=1, description="a name in quotes or plain letters")]
Revision = Annotated[str | None, Field(min_length=1, description="a branch, tag or commit (in quotes), or null")]

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where torch's launcher looks for what ended a process
NOWHERE_TO_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
LESS_MEMORY = (
    "lower batch_size (and raise gradient_accumulation_steps as much) or eval_batch_size, num_memory_experts, "
    "memory_num_tokens or max_seq_length in params.yaml, or set gradient_checkpointing, bptt_segments or "
    "progressive_segments"
)


class Section(BaseModel):
    """Every key is known, present and of its type: `4.0` is no integer, `yes` no string, NaN no number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DatasetFiles(Section):
    """A dataset given as two files of SQuAD-format JSON."""

    train: Name
    dev: Name


class ScratchSize(Section):
    """Size of an encoder that starts from random weights."""

    n_layer: Positive
    d_model: Annotated[int, Field(ge=2, multiple_of=2, description="an even integer >= 2")]
    n_head: Positive
    d_inner: Positive
    dropout: Share
    initializer_range: Annotated[float, Field(gt=0, description="a finite number > 0")]


class Profile(Section):
    """What depends on where and on what an experiment runs; the keys are explained in `params.yaml`."""

    dataset: Annotated[
        Name | DatasetFiles,
        Field(description="a folder with train.json and dev.json, {train: FILE, dev: FILE}, or a Hub id"),
    ]
    dataset_revision: Revision
    tokenizer: Annotated[str, Field(min_length=1, description="scratch, a folder, or a Hub id")]
    base_model: Annotated[str, Field(min_length=1, description="scratch, a folder, or a Hub id")]
    base_model_revision: Revision
    scratch_size: Annotated[ScratchSize, Field(description="a mapping with n_layer, d_model, n_head, d_inner, …")]
    max_seq_length: Positive
    doc_stride: Annotated[int, Field(ge=0, description="an integer >= 0: the tokens that consecutive windows share")]
    max_question_length: Positive
    context: Annotated[ContextKind, Field(description="paragraph or article")]
    max_train_documents: Limit
    max_eval_documents: Limit
    calibration_fraction: Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1, neither of them")]
    num_processes: Positive
    batch_size: Positive
    eval_batch_size: Positive
    gradient_accumulation_steps: Positive
    num_epochs: Positive
    max_steps: Limit
    progressive_segments: Annotated[
        list[Annotated[int, Field(ge=1)]] | None,
        Field(min_length=1, description="a list of integers >= 1 such as [2, 4, 6], or null to never cut a document"),
    ]
    learning_rate: Annotated[float, Field(gt=0, le=1, description="a number in (0, 1]")]
    warmup_fraction: Share
    decay_fraction: Annotated[float, Field(ge=0, le=1, description="a number in [0, 1]")]
    weight_decay: Weight
    max_grad_norm: Annotated[float, Field(gt=0, description="a finite number > 0")]
    gradient_checkpointing: Annotated[bool, Field(description="true or false")]
    precision: Annotated[Literal["float32", "bfloat16", "float16"], Field(description="float32, bfloat16 or float16")]
    num_workers: Annotated[int, Field(ge=0, description="an integer >= 0")]
    save_steps: Annotated[int | None, Field(ge=1, description="an integer >= 1, or null to choose by time")]
    save_total_limit: Positive
    n_best_size: Positive
    max_answer_length: Positive


class Params(Section):
    """What an experiment varies, and the profiles."""

    profile: Name
    seed: Annotated[int, Field(ge=0, lt=2**32, description="an integer in [0, 4294967295]")]
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="auto, cpu or cuda")]
    memory_type: Annotated[
        Literal[tuple(KINDS)],  # type: ignore[valid-type]  # installed packages may add some
        Field(description=f"{', '.join([*KINDS][:-1])} or {[*KINDS][-1]}"),
    ]
    num_memory_experts: Annotated[int, Field(ge=2, le=8, description="an integer in [2, 8]")]
    memory_num_tokens: Annotated[
        int, Field(ge=0, le=32, description="an integer in [1, 32], or 0 with memory_type none or mems")
    ]
    routing_mode: Annotated[Literal["write-based", "read-based"], Field(description="write-based or read-based")]
    routing_temperature: Annotated[float, Field(gt=0, description="> 0")]
    pooling_method: Annotated[Literal["mean", "max", "attention"], Field(description="mean, max or attention")]
    memory_heads: Positive
    memory_sharpness: Annotated[float, Field(gt=0, description="a finite number > 0")]
    usage_tracking: Annotated[bool, Field(description="true or false")]
    expert_init_strategies: Annotated[
        InitStrategy | list[InitStrategy],
        Field(description="learned, zeros, uniform or orthogonal, or a list with one of them for each expert"),
    ]
    expert_dropout: Share
    load_balance_weight: Weight
    entropy_regularization_weight: Weight
    memory_reconstruction_weight: Weight
    memory_reconstruction_target: Annotated[Literal["recurring", "segment"], Field(description="recurring or segment")]
    span_loss: Annotated[Literal["segment", "document"], Field(description="segment or document")]
    bptt_segments: Annotated[int | None, Field(ge=1, description="an integer >= 1, or null for all segments")]
    adapter: Annotated[Literal["none", "lora"], Field(description="none or lora")]
    lora_rank: Positive
    lora_alpha: Positive
    lora_dropout: Share
    hub_model_id: Annotated[
        str | None, Field(pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name of a Hub repository, or null")
    ]
    hub_dataset_id: Annotated[
        str | None, Field(pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name of a Hub dataset, or null")
    ]
    hub_push_chunks: Annotated[bool, Field(description="true or false")]
    profiles: Annotated[dict[str, Profile], Field(min_length=1, description="a mapping from names to profiles")]

    @property
    def active(self) -> Profile:
        """The profile in use."""
        return self.profiles[self.profile]


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check the parameters; raises ConfigError with one line that names file, key, value and remedy."""
    values = read_yaml(Path(path))
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, Params)}") from None
    for check in CHECKS:
        problem = check(params)
        if problem:
            raise ConfigError(f"{path}: {problem}")
    return params


def read_yaml(path: Path) -> dict[str, object]:
    """Read YAML the way DVC does (YAML 1.2: `1e-3` is a number, duplicate keys are errors)."""
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; run from the root of the repository") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{path}: {where}{error.problem}; mend the YAML there") from None
    except YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping from keys to values, not {type(values).__name__}")
    return values


def find_local(name: str) -> str:
    """`name` as a path that exists here or, for an experiment queued elsewhere, in the main repository; else as it is.

    Queued experiments run in a copy below `.dvc/tmp`, where `../shared` is another place; DVC_ROOT is the main one.
    """
    main = Path(os.environ.get("DVC_ROOT", "."))
    return str(main / name) if not Path(name).exists() and (main / name).exists() else name


def point_to_base(params: Params) -> None:
    """Tell whoever loads a checkpoint with an adapter, here or in a fresh process, where the main repository's base is.

    The checkpoint names the base as `params.yaml` does, so that its bytes do not depend on where it was trained.
    """
    # Here, because torch comes with it, and not every reader of parameters wants that.
    from gmmxlnet.models.adapter_settings import BASE_VARIABLE

    found = find_local(params.active.base_model)
    if params.adapter != "none" and found != params.active.base_model:
        os.environ.setdefault(BASE_VARIABLE, found)


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
    """Let an error that a user is meant to read end the program: one line on stderr, exit status 1."""
    try:
        yield
    except GMMXLNetError as error:
        _end(f"{program}: {' '.join(str(error).split())}")
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


def _check_profile(params: Params) -> str | None:
    if params.profile not in params.profiles:
        return f"profile must be one of {', '.join(params.profiles)}, not {params.profile}"
    return None


def _check_memory(params: Params) -> str | None:
    if params.memory_num_tokens == 0 and KINDS[params.memory_type].slots:
        return (
            f"memory_num_tokens must be > 0 with memory_type {params.memory_type}, not 0: it is the number of "
            "memory slots (of each expert); 16 suits most uses"
        )
    strategies = params.expert_init_strategies
    if isinstance(strategies, list) and len(strategies) != params.num_memory_experts:
        return (
            f"expert_init_strategies must be one name or a list of num_memory_experts = {params.num_memory_experts} "
            f"names, not of {len(strategies)}"
        )
    return None


def _check_adapter(params: Params) -> str | None:
    if params.adapter == "lora" and params.active.base_model == "scratch":
        return (
            f"adapter lora needs a pretrained encoder, and profiles.{params.profile}.base_model is scratch; give it a "
            "folder or a Hub id, or set adapter to none"
        )
    return None


def _check_scratch_size(params: Params) -> str | None:
    size = params.active.scratch_size
    if size.d_model % size.n_head:
        return (
            f"profiles.{params.profile}.scratch_size.d_model must be a multiple of n_head, "
            f"and {size.d_model} is not one of {size.n_head}"
        )
    if (
        params.memory_type == "differentiable"
        and params.active.base_model == "scratch"
        and size.d_model % params.memory_heads
    ):
        return f"memory_heads must divide scratch_size.d_model = {size.d_model}, and {params.memory_heads} does not"
    return None


def _check_windows(params: Params) -> str | None:
    active, slots = params.active, params.memory_num_tokens
    window = active.max_seq_length - active.max_question_length - 2 * slots - 3
    if window <= active.doc_stride:
        return (
            f"profiles.{params.profile}.max_seq_length {active.max_seq_length} is too small: beside "
            f"max_question_length {active.max_question_length}, 2 x memory_num_tokens {slots} and 3 special tokens it "
            f"leaves {max(window, 0)} tokens of context a segment, which must exceed doc_stride {active.doc_stride}; "
            f"give it {active.max_seq_length - window + active.doc_stride + 1} or more"
        )
    return None


def _check_schedule(params: Params) -> str | None:
    active = params.active
    stages = len(active.progressive_segments or [])
    if stages > active.num_epochs:
        return (
            f"profiles.{params.profile}.num_epochs must be at least {stages}, one for each stage of "
            f"progressive_segments {active.progressive_segments}, not {active.num_epochs}"
        )
    if active.warmup_fraction + active.decay_fraction > 1:
        return (
            f"profiles.{params.profile}.decay_fraction must be at most {1 - active.warmup_fraction:g}, which is what "
            f"warmup_fraction {active.warmup_fraction} leaves, not {active.decay_fraction}"
        )
    return None


def _check_processes(params: Params) -> str | None:
    active = params.active
    if active.num_processes > active.batch_size:
        return (
            f"profiles.{params.profile}.num_processes must be at most batch_size {active.batch_size}, the documents "
            f"that the processes share, not {active.num_processes}"
        )
    return None


def _check_precision(params: Params) -> str | None:
    if params.active.precision == "float16" and params.device == "cpu":
        return f"profiles.{params.profile}.precision float16 needs a GPU; use bfloat16 or float32 with device cpu"
    return None


def _check_hub(params: Params) -> str | None:
    if params.hub_push_chunks and params.hub_dataset_id is None:
        return "hub_push_chunks needs hub_dataset_id: the owner/name of the dataset repository to push the chunks to"
    return None


CHECKS = (
    _check_profile,
    _check_memory,
    _check_adapter,
    _check_scratch_size,
    _check_windows,
    _check_schedule,
    _check_processes,
    _check_precision,
    _check_hub,
)
