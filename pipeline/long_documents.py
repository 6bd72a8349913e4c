"""`make long-documents`: is memory worth anything on whole articles? One encoder, every kind of memory, one budget.

    python -m pipeline.long_documents                                      # 19 variants, five of them with two seeds
    python -m pipeline.long_documents --variants none gmm-k4-write --seeds 13 --set profiles.articles.max_steps=200
    python -m pipeline.long_documents --prepare                            # only the token arrays, to carry to a GPU
    python -m pipeline.long_documents --report-only                        # from the result files that are there

The variants are those of `make compare`, one after the other in this process: a GPU lent by the hour waits for no
stage to start, and needs neither DVC's cache nor MLflow's store. Each leaves one small file in reports/long-documents/;
run again, on another machine too, only what has no file of the same parameters, code, encoder and data is done, and
what was killed goes on from its last checkpoint. reports/long-documents.md is made from all files that are there.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
import transformers

from gmmxlnet.analysis.analyzer import GMMAnalyzer, no_routing_report
from gmmxlnet.comparison import Result
from gmmxlnet.comparison.long_documents import render_long_documents
from gmmxlnet.comparison.questions import ScoredDocuments
from gmmxlnet.data import load
from gmmxlnet.data.chunks import build_chunks
from gmmxlnet.data.dataset_names import load_settings
from gmmxlnet.data.documents import Documents
from gmmxlnet.devices import choose_device, choose_precision
from gmmxlnet.errors import ConfigError, DataError, GMMXLNetError, is_out_of_memory
from gmmxlnet.messages import said, say
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.training import GMMTrainer
from gmmxlnet.training.resume import surroundings
from gmmxlnet.utils.files import atomic_file, digest_of, read_object, sha256_of, write_json
from gmmxlnet.utils.logs import add_log_level, set_log_level
from pipeline.chunk import chunk_settings
from pipeline.cost import cost_of_training, machine
from pipeline.experiment import Experiment, folder_hash
from pipeline.folder_lock import folder_lock
from pipeline.places import REPORTS, find_local
from pipeline.resume_key import code_hashes
from pipeline.scoring import score
from pipeline.stage import errors_on_one_line
from pipeline.training import train_model
from pipeline.variants import NO_RECONSTRUCTION, VARIANTS, WITHOUT_SLOTS, Planned, plan, setting

NAME = "long-documents"
SETTINGS = ("profile=articles", "memory_num_tokens=16")
WITHOUT_RECONSTRUCTION = tuple(name + NO_RECONSTRUCTION for name in VARIANTS if name not in WITHOUT_SLOTS)
EVERY = (*VARIANTS, *WITHOUT_RECONSTRUCTION)
SEVERAL_SEEDS = ("none", "mems", "token", "gmm-k4-write", "gmm-k4-read")  # what the conclusions rest on
COST = "cost.json"  # beside the model
WORK = Path(".long-documents")  # token arrays, checkpoints, trained models: not small, and not for git
WAIT_SECONDS = 3600.0  # for another process that makes something there


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="long-documents", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--name", default=NAME, help="of the report and of the folder of results in reports/")
    parser.add_argument("--variants", nargs="+", default=list(EVERY), help=f"of {' '.join(EVERY)}")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[13, 14], help=f"the first for all, the others for {SEVERAL_SEEDS}"
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], help="key=value, as of dvc exp run -S")
    parser.add_argument("--prepare", action="store_true", help="make the token arrays and stop")
    parser.add_argument("--report-only", action="store_true", help="train nothing: report on what is done")
    add_log_level(parser)
    return parser.parse_args(arguments)


def plan_all(arguments: argparse.Namespace) -> list[Planned]:
    """All experiments, checked before any of them runs. Raises ConfigError."""
    first, *others = arguments.seeds
    settings = [*SETTINGS, *arguments.set]
    again = [variant for variant in arguments.variants if variant in SEVERAL_SEEDS]
    planned = plan(arguments.name, arguments.variants, [first], settings)
    if planned[0].params.active.num_processes > 1:
        raise ConfigError("num_processes must be 1 here; on several GPUs run disjoint --variants, a GPU each, together")
    return planned + (plan(arguments.name, again, others, settings) if others and again else [])


def make_once(path: Path, make: Callable[[], object]) -> None:
    """Call `make` unless `path` is there. Of several processes that want it, one makes it and the others wait.

    What is there is whole, so nobody waits for it. Raises DataError if waiting takes more than an hour.
    """
    if path.exists():
        return
    WORK.mkdir(parents=True, exist_ok=True)
    refusal = DataError(f"{WORK}: another process has been busy in it for {WAIT_SECONDS / 60:.0f} minutes; end it")
    with folder_lock(WORK, WAIT_SECONDS, refusal):
        if not path.exists():
            make()


@dataclass(frozen=True)
class Job:
    """One experiment on this machine: where its parts lie, and what tells it from every other."""

    planned: Planned

    @cached_property
    def encoder(self) -> str | None:
        """SHA-256 of the folder that `base_model` names; None for a model from scratch or from the Hub."""
        folder = Path(find_local(self.planned.params.active.base_model))
        return folder_hash(folder) if folder.is_dir() else None

    @cached_property
    def chunks(self) -> Path:
        """The token arrays, made now if they are not there. A dataset is known by its name, as everywhere, or by its
        settings and the code that generates it.
        """
        settings = chunk_settings(self.planned.params)
        made_of = [settings.as_json(), self.encoder]
        if load_settings(settings.dataset) is not None:
            made_of += [sha256_of(file) for file in load.CODE]
        folder = WORK / f"chunks-{digest_of(made_of)[:12]}"
        make_once(folder, lambda: build_chunks(settings, folder, find_local))
        return folder

    @cached_property
    def identity(self) -> str:
        """Of parameters, data, encoder and the code that trains."""
        experiment = Experiment.of(self.planned.params, self.chunks)
        return digest_of([experiment.key, self.encoder, code_hashes()])

    @property
    def model(self) -> Path:
        """The trained model."""
        return WORK / "models" / f"{self.planned.name}-{self.identity[:12]}"

    def train(self) -> None:
        """Train, and write the model with its costs. Goes on from the last checkpoint of a training that was killed."""
        params = self.planned.params
        if choose_device(params.device).type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        place = WORK / "resume" / digest_of([self.identity, surroundings()])[:12]  # of this kind of machine

        def write_cost(folder: Path, trainer: GMMTrainer, model: GMMXLNetForQA) -> None:
            write_json(folder / COST, cost_of_training(trainer, model) | machine(trainer.args.device))

        trainer, _ = train_model(params, self.chunks, self.model, place, also=write_cost)
        trainer.remove_checkpoints()

    def score(self) -> ScoredDocuments:
        """Answer all questions of the dev articles, with the memory and without it, and follow the routing."""
        params = self.planned.params
        scored = score(params, self.chunks, self.model)
        routing = no_routing_report(scored.model.config.memory_type)
        if scored.model.config.has_router:
            dev = Documents.open(self.chunks, "dev")
            routing = GMMAnalyzer(scored.model).report(dev, params.active.eval_batch_size)
        result = Result(
            variant=self.planned.variant,
            seed=self.planned.seed,
            metrics=scored.metrics,
            routing=routing,
            cost=read_object(self.model / COST, missing="remove the folder around it and run again"),
        )
        precision = choose_precision(params.active.precision, choose_device(params.device))
        told = setting([self.planned], precision) | {
            "parameters set": ", ".join(text for text in self.planned.overrides if text not in self.planned.own),
            "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
        }
        return ScoredDocuments.of(result, scored.predictions, scored.threshold, identity=self.identity, setting=told)


def run(planned: Planned, results: Path, command: str = NAME) -> None:
    """Train and score what has no result yet; `command` begins the lines that tell of it."""
    file, job = results / f"{planned.name}.safetensors", Job(planned)
    if file.exists() and ScoredDocuments.read(file).identity == job.identity:
        say(f"{command}: {planned.name} is done")
        return
    if not job.model.exists():
        say(f"{command}: {planned.name}: training")
        job.train()
    scored = job.score()
    scored.write(file)
    value = scored.result.score("exact_match").value
    say(f"{command}: {planned.name}: EM {value:.2f} (floor {scored.result.floor:.2f}) -> {file}")


def run_all(planned: Sequence[Planned], results: Path, command: str = NAME) -> None:
    """Run one after another; one that fails is reported, since the others may fit, or have what it lacks."""
    for one in planned:
        try:
            run(one, results, command)
        except (GMMXLNetError, RuntimeError, MemoryError) as error:
            if not isinstance(error, GMMXLNetError) and not is_out_of_memory(error):
                raise
            say(f"{command}: {one.name} failed: {said(str(error), 400)}", file=sys.stderr)


def run_and_report(
    planned: Sequence[Planned],
    results: Path,
    command: str,
    report: Callable[[Sequence[Planned]], list[str]],
    *,
    report_only: bool,
) -> None:
    """Run what has no result, unless `report_only`, and report on all that have one.

    Args:
        report: writes the page; returns the names of the planned ones without a result.

    Raises GMMXLNetError that names these.
    """
    if not report_only:
        run_all(planned, results, command)
    missing = report(planned)
    if missing:
        raise GMMXLNetError(f"no result of {', '.join(missing)}; the same command again runs only these")


def report(planned: Sequence[Planned], name: str) -> list[str]:
    """Write the page from all results that are there; returns which of the planned ones are not."""
    files = sorted((REPORTS / name).glob("*.safetensors"))
    found = [ScoredDocuments.read(file) for file in files]
    for file, one in zip(files, found, strict=True):
        if one.result.variant not in EVERY:
            raise DataError(f"{file}: is of a variant that is not known here, {one.result.variant!r}; remove the file")
    found.sort(key=lambda one: (EVERY.index(one.result.variant), one.result.seed))
    there = {(one.result.variant, one.result.seed) for one in found}
    missing = [one.name for one in planned if (one.variant, one.seed) not in there]
    path = REPORTS / f"{name}.md"
    with atomic_file(path) as scratch:
        scratch.write_text(render_long_documents(found, missing), encoding="utf-8")
    say(f"long-documents: {len(found)} results, {len(missing)} missing -> {path}")
    return missing


def main(words: Sequence[str] | None = None) -> None:
    """Plan, run, report, as `words` or the shell's arguments say."""
    arguments = parse(words)
    set_log_level(arguments.log_level)
    planned = plan_all(arguments)
    if arguments.prepare:
        say(f"long-documents: {', '.join(sorted({str(Job(one).chunks) for one in planned}))}")
        return
    written = partial(report, name=arguments.name)
    run_and_report(planned, REPORTS / arguments.name, NAME, written, report_only=arguments.report_only)


if __name__ == "__main__":
    with errors_on_one_line("long-documents"):
        main()
