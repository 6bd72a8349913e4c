"""`params.yaml`, checked: unknown keys, wrong types and impossible values stop a stage before it does any work.

    params = load_params()          # every stage's first line
    params.num_memory_experts       # what experiments vary
    params.active.learning_rate     # the profile in use

What a value may be is said in `gmmxlnet.options`; here is which options `params.yaml` has, and where. A rule's words
are the end of the sentence a user reads when the value is wrong: "<key> must be <words>".
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError, create_model

from gmmxlnet import options
from gmmxlnet.errors import ConfigError
from gmmxlnet.memory_kinds import KINDS
from gmmxlnet.messages import holds_credentials
from gmmxlnet.options import Flag, Integer, Optional, Rule, Text
from gmmxlnet.windows import check_window
from pipeline.params_errors import explain
from pipeline.places import PARAMS
from pipeline.yaml_file import read_yaml

NAME = Text("a name in quotes or plain letters")
REVISION = Optional(Text("a branch, tag or commit (in quotes)"))
ORIGIN = Text("scratch, a folder, or a Hub id")
PROCESSES = {"portable_bits": Flag(), "num_processes": Integer(1, 1024)}


class Section(BaseModel):
    """Every key is known, present and of its type: `4.0` is no integer, `yes` no string, NaN no number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    if TYPE_CHECKING:  # the fields are made from the rules

        def __getattr__(self, name: str) -> Any: ...


class Params(Section):
    """What an experiment varies, and the profiles."""

    @property
    def active(self) -> Section:
        """The profile in use."""
        profile: Section = self.profiles[self.profile]
        return profile

    @property
    def dataset(self) -> Any:
        """The dataset of the profile in use, in plain values; `gmmxlnet.data.dataset_names` tells its forms apart."""
        dataset = self.active.dataset
        return dataset.model_dump() if isinstance(dataset, BaseModel) else dataset


def _fields(rules: Mapping[str, Rule]) -> dict[str, Any]:
    """Fields of a pydantic model that take what the rules take, and say so as the rules do."""
    return {name: _described(_annotation(rule), rule.words) for name, rule in rules.items()}


def _annotation(rule: Rule) -> Any:
    def check(value: object) -> object:
        if not rule.accepts(value):
            raise ValueError(rule.words)
        return value

    return Annotated[rule.type, BeforeValidator(check)]


def _described(annotation: Any, words: str, **bounds: Any) -> Any:
    return annotation, Field(description=words, **bounds)


def _form_of_dataset(value: object) -> str | None:
    """Which form of a dataset a value is meant to have, so that an error is about its keys; None for no form."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        return "generated" if "load" in value else "files" if value.keys() & {"train", "dev"} else None
    return "name" if isinstance(value, str) else None


DatasetFiles = create_model("DatasetFiles", __base__=Section, **_fields({"train": NAME, "dev": NAME}))
LoadSettings = create_model("LoadSettings", __base__=Section, **_fields(options.LOAD))
GeneratedDataset = create_model(
    "GeneratedDataset", __base__=Section, load=_described(LoadSettings, f"a mapping with {', '.join(options.LOAD)}")
)
Dataset: Any = Annotated[
    Annotated[_annotation(NAME), Tag("name")]
    | Annotated[DatasetFiles, Tag("files")]
    | Annotated[GeneratedDataset, Tag("generated")],
    Discriminator(_form_of_dataset),
]
ScratchSize = create_model("ScratchSize", __base__=Section, **_fields(options.ENCODER))
# What depends on where and on what an experiment runs; the keys are explained in `params.yaml`.
Profile = create_model(
    "Profile",
    __base__=Section,
    dataset=_described(
        Dataset, "a folder with train.json and dev.json, {train: FILE, dev: FILE}, a Hub id, or {load: SETTINGS}"
    ),
    **_fields(
        {"dataset_revision": REVISION, "tokenizer": ORIGIN, "base_model": ORIGIN, "base_model_revision": REVISION}
        | options.BASE
    ),
    scratch_size=_described(ScratchSize, "a mapping with n_layer, d_model, n_head, d_inner, …"),
    **_fields(options.CHUNKING | PROCESSES | options.TRAINING | options.EVALUATION),
)
_Params = create_model(
    "Params",
    __base__=Params,
    **_fields({"profile": NAME} | options.RUN | options.MEMORY | options.LOSS | options.ADAPTER | options.HUB),
    profiles=_described(
        dict[str, Profile],  # type: ignore[valid-type]  # known when it runs
        "a mapping from names to profiles",
        min_length=1,
    ),
)


def load_params(path: str | Path = PARAMS) -> Params:
    """Read and check the parameters; raises ConfigError with one line that names file, key, value and remedy."""
    values = read_yaml(Path(path))
    for key in _credentials(values):
        raise ConfigError(
            f"{path}: {key} holds a password or a token, which reports and checkpoints would show; log in with "
            "`hf auth login` or set HF_TOKEN, and write the name alone"
        )
    try:
        params = _Params.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, _Params)}") from None
    try:
        for check in CHECKS:
            check(params)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return params


def _credentials(values: Any, key: str = "") -> Iterator[str]:
    """The dotted keys whose values hold credentials."""
    if isinstance(values, dict | list):
        for name, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _credentials(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, str) and holds_credentials(values):
        yield key


def _check_profile(params: Params) -> None:
    if params.profile not in params.profiles:
        raise ConfigError(f"profile must be one of {', '.join(params.profiles)}, not {params.profile}")


def _check_memory(params: Params) -> None:
    options.check_slots(params.memory_type, params.memory_num_tokens)
    if KINDS[params.memory_type].routes:
        options.check_top_k(params.routing_top_k, params.num_memory_experts)
    options.check_strategies(params.expert_init_strategies, params.num_memory_experts)


def _check_adapter(params: Params) -> None:
    if params.adapter == "lora" and params.active.base_model == "scratch":
        raise ConfigError(
            f"adapter lora needs a pretrained encoder, and profiles.{params.profile}.base_model is scratch; give it a "
            "folder or a Hub id, or set adapter to none"
        )


def _check_scratch_size(params: Params) -> None:
    size = params.active.scratch_size
    with _in_profile(params, "scratch_size."):
        options.check_heads("n_head", size.n_head, size.d_model)
    if params.memory_type == "differentiable" and params.active.base_model == "scratch":
        options.check_heads("memory_heads", params.memory_heads, size.d_model)


def _check_dataset(params: Params) -> None:
    dataset = params.active.dataset
    if isinstance(dataset, GeneratedDataset):
        with _in_profile(params, "dataset.load."):
            options.check_updates(dataset.load.num_updates, dataset.load.num_towns)


def _check_dropout(params: Params) -> None:
    if params.active.dropout is not None and params.active.base_model == "scratch":
        raise ConfigError(
            f"profiles.{params.profile}.dropout is for a pretrained base_model, and this one is scratch; set it to "
            "null and scratch_size.dropout instead"
        )


def _check_windows(params: Params) -> None:
    active = params.active
    with _in_profile(params):
        check_window(active.max_seq_length, active.max_question_length, params.memory_num_tokens, active.doc_stride)


def _check_schedule(params: Params) -> None:
    active = params.active
    with _in_profile(params):
        options.check_schedule(
            active.num_epochs, active.progressive_segments, active.warmup_fraction, active.decay_fraction
        )


def _check_processes(params: Params) -> None:
    active = params.active
    if active.num_processes > active.batch_size:
        raise ConfigError(
            f"profiles.{params.profile}.num_processes must be at most batch_size {active.batch_size}, the documents "
            f"that the processes share, not {active.num_processes}"
        )


def _check_precision(params: Params) -> None:
    if params.active.precision == "float16" and params.device == "cpu":
        raise ConfigError(
            f"profiles.{params.profile}.precision float16 needs a GPU; use bfloat16 or float32 with device cpu"
        )


def _check_hub(params: Params) -> None:
    if params.hub_push_chunks and params.hub_dataset_id is None:
        raise ConfigError(
            "hub_push_chunks needs hub_dataset_id: the owner/name of the dataset repository to push the chunks to"
        )


@contextmanager
def _in_profile(params: Params, section: str = "") -> Iterator[None]:
    """Let an error that begins with an option's name begin with where `params.yaml` has it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"profiles.{params.profile}.{section}{error}") from None


CHECKS = (
    _check_profile,
    _check_memory,
    _check_adapter,
    _check_scratch_size,
    _check_dataset,
    _check_dropout,
    _check_windows,
    _check_schedule,
    _check_processes,
    _check_precision,
    _check_hub,
)
