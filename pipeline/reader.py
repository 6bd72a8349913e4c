"""`make reader`: from a BERT and a SQuAD dataset to a model that answers questions about real text, in a given time.

    python -m pipeline.reader --bert BERT --squad SQUAD                     # each a folder or a Hub id; one hour
    python -m pipeline.reader --bert BERT --squad SQUAD --hours 3
    python -m pipeline.reader --bert BERT --squad SQUAD --steps 184 1500    # of conversion and training: the same bits

1. Convert the BERT on the training paragraphs, as `gmmxlnet convert` does, for a share of the time.
2. Chunk the questions, time a few training steps, and choose `max_steps` so that training and evaluation fit into the
   rest of the time. Both numbers of steps are printed and kept: nothing after this depends on time.
3. `dvc repro` with the profile `reader`, which `params.yaml` names from then on.
4. Write `reports/reader.md` and, of a reader without memory, `models/reader` (an ordinary XLNet, which `base_model`
   may name), and answer questions about an article, as `gmmxlnet answer` does.

The same command again repeats only what is not done, and continues what was killed.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from dvc.utils.hydra import apply_overrides
from pydantic import Field, TypeAdapter

from gmmxlnet.cli import main as gmmxlnet
from gmmxlnet.conversion.convert import REPORT, convert
from gmmxlnet.conversion.settings import ConversionSettings
from gmmxlnet.data.documents import Documents
from gmmxlnet.data.sources import read_split, split_file
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.errors import ConfigError, DataError, GMMXLNetError, reason_of
from gmmxlnet.messages import say
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.xlnet_weights import save_plain_xlnet
from gmmxlnet.reports import read_conversion, read_data_report, read_metrics
from gmmxlnet.training import GMMTrainer
from gmmxlnet.training.sampler import DocumentBatchSampler
from gmmxlnet.utils.files import atomic_file, digest_of, read_json, write_json
from gmmxlnet.utils.logs import add_log_level, set_log_level
from gmmxlnet.utils.seeding import seed_everything
from pipeline.experiment import folder_hash
from pipeline.params import Params
from pipeline.places import CHUNKS, DATA_REPORT, METRICS, MODEL, PARAMS, REPORTS, TOKENIZER, find_local
from pipeline.reader_report import render_reader
from pipeline.stage import errors_on_one_line
from pipeline.training import build_model, training_config
from pipeline.variants import overridden, quoted

WORK = Path("models/converted")
READER = Path("models/reader")
PAGE = REPORTS / "reader.md"
EXAMPLE = WORK / "example.txt"
PROFILE = "profiles.reader."
SETTINGS = ("profile=reader", "memory_type=none")
CONVERSION = 0.15  # share of the time for distillation
TIMED_STEPS, WARM_STEPS = 16, 2  # of training; the first few are slower
READING = 0.4  # seconds per token of evaluation, relative to training
EXAMPLES = 3  # questions


@dataclass(frozen=True)
class Plan:
    """What the time was turned into."""

    encoder: str
    conversion_steps: Annotated[int, Field(ge=0)]
    max_steps: Annotated[int, Field(ge=1)]


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="reader", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bert", required=True, help="a folder or a Hub id: MiniLM, BGE, E5, GTE, TinyBERT, BERT ...")
    parser.add_argument("--squad", required=True, help="a folder with a train and a dev file, or a Hub id")
    parser.add_argument("--hours", type=float, default=1.0, help="for everything (default: %(default)g)")
    parser.add_argument(
        "--steps",
        type=int,
        nargs=2,
        metavar=("CONVERSION", "TRAINING"),
        help="instead of hours, as an earlier run printed",
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], help="key=value, as of dvc exp run -S")
    parser.add_argument("--plan-only", action="store_true", help="convert and choose the steps, and end")
    add_log_level(parser)
    arguments = parser.parse_args(words)
    for name in ("bert", "squad"):
        if not getattr(arguments, name):
            raise ConfigError("name both: make reader BERT=<a BERT's folder or Hub id> SQUAD=<a dataset's>")
    if not 0 < arguments.hours < float("inf"):
        raise ConfigError(f"hours must be a number > 0, not {arguments.hours}")
    if arguments.steps is not None and min(arguments.steps) < 1:
        raise ConfigError(f"steps must be two integers >= 1, not {arguments.steps}")
    return arguments


def overrides(arguments: argparse.Namespace, **pinned: str | int) -> list[str]:
    """The changes to `params.yaml`; what is pinned comes last."""
    values = {"dataset": arguments.squad} | pinned
    return [*SETTINGS, *arguments.set, *(f"{PROFILE}{name}={quoted(value)}" for name, value in values.items())]


def set_parameters(changes: Sequence[str]) -> Params:
    """Change `params.yaml` as DVC would. Raises ConfigError before anything is changed."""
    params = overridden(PARAMS.read_text("utf-8"), list(changes))
    apply_overrides(PARAMS, list(changes))
    return params


def plan_file(arguments: argparse.Namespace, params: Params) -> Path:
    """Where the plan of this request is kept: a request is the same BERT, questions, parameters and time or steps."""
    contents = [folder_hash(Path(name)) if Path(name).is_dir() else name for name in (arguments.bert, arguments.squad)]
    active = params.active.model_dump(exclude={"base_model", "tokenizer", "max_steps"})
    top = params.model_dump(exclude={"profiles"})
    asked = arguments.steps or arguments.hours
    return WORK / f"plan-{digest_of([arguments.bert, *contents, top, active, asked])[:8]}.json"


def read_plan(file: Path) -> Plan:
    """Read a plan. Raises DataError."""
    try:
        return TypeAdapter(Plan).validate_json(json.dumps(read_json(file)), strict=True)
    except (OSError, ValueError) as error:  # pydantic's is a ValueError
        raise DataError(f"{file}: is no plan of make reader ({reason_of(error)}); remove it and run again") from None


def text_of(squad: str) -> Path:
    """The training file of a dataset's folder; for a Hub id, a file with the paragraphs."""
    if Path(squad).is_dir():
        return split_file(Path(squad), "train")
    passages = [passage.text for article in read_split(squad, "train") for passage in article.paragraphs]
    file = WORK / "train-paragraphs.txt"
    with atomic_file(file) as scratch:
        scratch.write_text("\n\n".join(passages), encoding="utf-8")
    return file


def convert_encoder(arguments: argparse.Namespace, params: Params) -> tuple[str, int]:
    """Convert the BERT; returns the encoder's folder, which is named by its weights, and the steps of distillation."""
    name = f"{Path(arguments.bert).name}-xlnet"
    new = WORK / "new"
    new.mkdir(parents=True, exist_ok=True)
    settings = ConversionSettings(
        minutes=60 * CONVERSION * arguments.hours,
        steps=arguments.steps[0] if arguments.steps else None,
        max_length=max(ConversionSettings().max_length, params.active.max_seq_length),
        seed=params.seed,
        device=params.device,
    )
    report = convert(arguments.bert, new / name, [text_of(arguments.squad)], settings)
    folder = WORK / report["weights_sha256"][:8]
    if folder.exists():  # the same weights as before
        shutil.rmtree(new)
    else:
        new.rename(folder)
    return (folder / name).as_posix(), report["distillation"]["steps"]


def tokens_of_steps(documents: Documents, params: Params) -> np.ndarray:
    """Tokens of each step of the first epoch, padding included; about, since special tokens are not counted."""
    active, num_segments, num_tokens = params.active, documents.num_segments(), documents.num_tokens()
    length = np.where(num_segments > 1, active.max_seq_length, num_tokens)  # of the longest segment
    sampler = DocumentBatchSampler(num_segments, num_tokens, active.batch_size, params.seed)
    sizes = [len(batch) * num_segments[batch].max() * length[batch].max() for batch in sampler]
    return np.add.reduceat(sizes, range(0, len(sizes), active.gradient_accumulation_steps))


def seconds_per_token(params: Params, documents: Documents, tokens: np.ndarray) -> float:
    """Seconds of training per token: the median of a few steps, of which some read unusually long documents."""
    seed_everything(params.seed)
    config = replace(training_config(params, WORK, WORK), max_steps=TIMED_STEPS, resume_dir=None)
    trainer = GMMTrainer(build_model(params, load_tokenizer(str(CHUNKS / TOKENIZER))), config)
    trainer.train(documents)
    durations = np.diff(trainer.record.seconds)  # from the second step on
    return float(np.median(durations[WARM_STEPS - 1 :] / np.resize(tokens, TIMED_STEPS)[WARM_STEPS:]))


def affordable_steps(params: Params, budget: float, start: float) -> int:
    """How many steps of training, with the evaluation after them, end `budget` seconds after `start`.

    At most those of `num_epochs`. Raises ConfigError for none.
    """
    train = Documents.open(CHUNKS, "train")
    tokens = tokens_of_steps(train, params)
    per_token = seconds_per_token(params, train, tokens)
    read = sum(int(Documents.open(CHUNKS, split).num_tokens().sum()) for split in ("calibration", "dev"))
    evaluation, step = READING * per_token * read, per_token * float(tokens.mean())
    spent = time.monotonic() - start
    steps = min(int((budget - spent - evaluation) / step), params.active.num_epochs * len(tokens))
    if steps < 1:
        needed = (spent + evaluation + step) / (1 - CONVERSION) / 3600
        raise ConfigError(f"hours: too few to train and evaluate here; at least {needed:.2f} are needed")
    say(f"reader: {step:.2f} s a step; evaluation takes about {evaluation / 60:.0f} min")
    return steps


def dvc_repro(*stages: str) -> None:
    """Run DVC. Raises GMMXLNetError if a stage fails, whose message has been printed."""
    status = subprocess.run(["dvc", "repro", *stages], check=False).returncode
    if status:
        raise GMMXLNetError(f"`dvc repro` ended with status {status}; the same command again continues from there")


def make_plan(arguments: argparse.Namespace, params: Params, file: Path) -> None:
    """Turn the time into steps, unless they are given: convert, chunk, time a few steps of training. Write the plan."""
    encoder, conversion_steps = convert_encoder(arguments, params)
    start = time.monotonic()
    params = set_parameters(overrides(arguments, base_model=encoder, tokenizer=encoder))
    if arguments.steps:
        max_steps = arguments.steps[1]
    else:
        dvc_repro("chunk")
        max_steps = affordable_steps(params, 3600 * arguments.hours * (1 - CONVERSION), start)
    write_json(file, asdict(Plan(encoder, conversion_steps, max_steps)))


def plan_in_own_process(*_: object) -> None:
    """`make_plan` by the same command in another process: it needs gigabytes, and so does the training after it."""
    status = subprocess.run([sys.executable, *sys.orig_argv[1:], "--plan-only"], check=False).returncode
    if status:
        sys.exit(max(status, 1))  # it has said why


def export() -> None:
    """Write a reader without memory as transformers' XLNet, which `base_model` takes and which loads anywhere."""
    model = GMMXLNetForQA.from_pretrained(MODEL)
    if model.config.memory_type != "none" or model.config.adapter is not None:
        return
    save_plain_xlnet(model, load_tokenizer(str(CHUNKS / TOKENIZER)), READER)


def show_example(squad: str) -> None:
    """Ask `gmmxlnet answer` questions about the first article of the dev set, each of another paragraph."""
    article = read_split(squad, "dev")[0]
    EXAMPLE.write_text("\n\n".join(passage.text for passage in article.paragraphs), encoding="utf-8")
    asked = [next((q.text for q in passage.questions if q.answers), None) for passage in article.paragraphs]
    questions = [text for text in asked if text is not None][:EXAMPLES]
    words = ["answer", "--model", str(MODEL), "--document", str(EXAMPLE), "--threshold", str(METRICS)]
    words += [word for question in questions for word in ("--question", question)]
    say(f"$ {shlex.join(['gmmxlnet', *words])}")
    if questions and (status := gmmxlnet(words)):
        raise GMMXLNetError(f"`gmmxlnet answer` ended with status {status}")


def main(words: Sequence[str] | None = None, *, write_plan: Callable[..., None] = make_plan) -> None:
    """Plan, run, report, answer, as `words` or the shell's arguments say."""
    arguments = parse(words)
    set_log_level(arguments.log_level)
    arguments.bert, arguments.squad = find_local(arguments.bert), find_local(arguments.squad)
    params = overridden(PARAMS.read_text("utf-8"), overrides(arguments))
    file = plan_file(arguments, params)
    if not file.exists():
        (make_plan if arguments.plan_only else write_plan)(arguments, params, file)
    if arguments.plan_only:
        return
    plan = read_plan(file)
    again = f"BERT={shlex.quote(arguments.bert)} SQUAD={shlex.quote(arguments.squad)}"
    again = f'make reader {again} STEPS="{plan.conversion_steps} {plan.max_steps}"'
    say(f"reader: {plan.conversion_steps:,} steps of conversion, {plan.max_steps:,} of training; again: {again}")
    pinned: dict[str, str | int] = {"base_model": plan.encoder, "tokenizer": plan.encoder, "max_steps": plan.max_steps}
    params = set_parameters(overrides(arguments, **pinned))
    dvc_repro()
    conversion = read_conversion(Path(plan.encoder) / REPORT)
    data, metrics = read_data_report(DATA_REPORT), read_metrics(METRICS)
    with atomic_file(PAGE) as scratch:
        scratch.write_text(render_reader(params, conversion, data, metrics), encoding="utf-8")
    export()
    say(f"reader: {MODEL}, {READER}, {PAGE}")
    show_example(arguments.squad)


if __name__ == "__main__":
    with errors_on_one_line("reader"):
        main(write_plan=plan_in_own_process)
