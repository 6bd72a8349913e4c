"""`make capacity`: how many facts does each memory keep, and does its routing matter? Variants, loads and seeds.

    python -m pipeline.capacity                                            # phase 1: all variants, two loads, two seeds
    python -m pipeline.capacity --loads 2 --variants gmm-write --seeds 13  # one cell
    python -m pipeline.capacity --report-only
    python -m pipeline.capacity --commands                                 # each cell as an experiment of DVC

The documents are those of `gmmxlnet.data.load` (`dataset: {load: …}`), enough that none is read twice. A cell is the
sample's profile with other parameters, so that `dvc exp run` can repeat it. As in `make long-documents`, whose jobs
these are, each experiment leaves one small file, here in reports/capacity/; run again, only what has no file of the
same parameters, code and data is done, and what was killed goes on from its last checkpoint. reports/capacity.md, .csv
and .png are made from all files that are there.
"""

import argparse
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict

from gmmxlnet.analysis.plots import save_figure
from gmmxlnet.comparison.capacity import Variant, plot_capacity, render_capacity, write_csv
from gmmxlnet.comparison.long_documents import settings_of
from gmmxlnet.comparison.questions import ScoredDocuments
from gmmxlnet.comparison.results import Result
from gmmxlnet.data.load import LoadWorld
from gmmxlnet.errors import ConfigError
from gmmxlnet.messages import say
from gmmxlnet.utils.files import atomic_file
from gmmxlnet.utils.logs import add_log_level, set_log_level
from pipeline.long_documents import run_and_report
from pipeline.places import PARAMS, REPORTS
from pipeline.stage import errors_on_one_line
from pipeline.variants import Planned, overridden

NAME = "capacity"
PROFILE = "profiles.sample."
WIDE = 16  # slots of one memory where four experts have as many in all
SEGMENT = 64  # tokens; the last one's town and list fit into it
NEW_TOKENS = 42  # of the text in each
ROOM = 2 * (WIDE - 4)  # more tokens of a segment, so that the wide memory leaves as much room for the text
GMM = ("memory_type=gmm", "num_memory_experts=4")
WIDER = (f"memory_num_tokens={WIDE}", f"{PROFILE}max_seq_length={SEGMENT + ROOM}")
VARIANTS = (
    Variant(name="none", words="no memory: each segment alone, the floor", overrides=("memory_type=none",)),
    Variant(name="token", words="one memory of 4 slots", overrides=("memory_type=token",)),
    Variant(
        name="token-no-lookup",
        words="one memory of 4 slots that tokens do not look up (a control)",
        overrides=("memory_type=token", "memory_lookup=false"),
    ),
    Variant(
        name="token-wide",
        words="one memory of 16 slots, as many as four experts have in all",
        overrides=("memory_type=token", *WIDER),
    ),
    Variant(
        name="token-slow",
        words="one memory of 4 slots that starts to be written as slowly as a quarter of the routing writes",
        overrides=("memory_type=token", "memory_gate_bias=-1.5"),
    ),
    Variant(name="gmm-write", words="four experts, read as they were written", overrides=GMM),
    Variant(
        name="gmm-read",
        words="four experts, read by a router of its own",
        overrides=(*GMM, "routing_mode=read-based"),
    ),
    Variant(
        name="gmm-uniform",
        words="four experts without a router: all are written and read alike (a control)",
        overrides=(*GMM, "router=uniform"),
    ),
    Variant(
        name="gmm-frozen",
        words="four experts, a router that keeps its random weights (a control; temperature 0.1, else it is even)",
        overrides=(*GMM, "router=frozen", "routing_temperature=0.1"),
    ),
    Variant(
        name="gmm-top1",
        words="four experts, one of them written and read a segment",
        overrides=(*GMM, "routing_top_k=1"),
    ),
    Variant(
        name="differentiable",
        words="a bank of 16 slots that every token reads by content",
        overrides=("memory_type=differentiable", f"memory_num_tokens={WIDE}", WIDER[1]),
    ),
)
BY_NAME = {variant.name: variant for variant in VARIANTS}
SETTINGS = (
    "profile=sample",
    "memory_num_tokens=4",
    "memory_association_weight=3.0",
    "memory_lookup=true",
    f"{PROFILE}max_seq_length={SEGMENT}",
    f"{PROFILE}portable_bits=false",  # in half the time
)
DIFFERS_BY_VARIANT = ("memory", "encoder")  # settings


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog=NAME, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--variants", nargs="+", choices=list(BY_NAME), default=list(BY_NAME), metavar="VARIANT")
    parser.add_argument("--loads", nargs="+", type=int, default=[2, 4], help="towns of a document")
    parser.add_argument("--seeds", nargs="+", type=int, default=[13, 14])
    parser.add_argument("--lag", type=int, default=0, help="segments of remarks between the flags and the town")
    parser.add_argument("--town-apart", action="store_true", help="name the town in a segment before the list's")
    parser.add_argument("--updates", type=int, default=0, help="towns whose flag changes")
    parser.add_argument("--steps", type=int, default=1200, help="of 32 questions each")
    parser.add_argument("--num-dev", type=int, default=100, help="documents that are scored")
    parser.add_argument("--set", nargs="+", action="extend", default=[], help="key=value, as of dvc exp run -S")
    parser.add_argument("--report-only", action="store_true", help="train nothing: report on what is done")
    parser.add_argument("--commands", action="store_true", help="print the command of each cell for DVC and stop")
    add_log_level(parser)
    return parser.parse_args(arguments)


def plan_all(arguments: argparse.Namespace) -> list[Planned]:
    """All experiments, checked before any of them runs. Raises ConfigError."""
    text, planned = PARAMS.read_text("utf-8"), []
    for load in arguments.loads:
        world = LoadWorld(
            num_towns=load,
            num_updates=min(load, arguments.updates),
            lag=arguments.lag,
            town_with_list=not arguments.town_apart,
            segment_tokens=NEW_TOKENS,
        )
        dataset = dataset_override(world, arguments.steps, arguments.num_dev)
        shared = (*SETTINGS, f"{PROFILE}max_steps={arguments.steps}", dataset)
        for seed in arguments.seeds:
            for name in arguments.variants:
                own = (*BY_NAME[name].overrides, f"seed={seed}")
                overrides = (*shared, *own, *arguments.set)
                params = overridden(text, overrides)
                planned.append(Planned(_name_of(load, name, seed), name, seed, overrides, own, params))
    return planned


def _name_of(load: int, variant: str, seed: int) -> str:
    return f"{NAME}-load{load}-{variant}-s{seed}"


def dataset_override(world: LoadWorld, steps: int, num_dev: int) -> str:
    """The dataset as an override: enough training documents that no question is read twice."""
    num_train = 32 * steps * 10 // (9 * world.num_questions) + 20  # a tenth is kept for calibration
    settings = asdict(world) | {"num_train": num_train, "num_dev": num_dev}
    values = ",".join(f"{name}:{json.dumps(value)}" for name, value in settings.items())
    return f"{PROFILE}dataset={{load:{{{values}}}}}"


def command_of(planned: Planned) -> str:
    """The cell as one command for a shell: the same parameters, through DVC's stages."""
    return shlex.join(["dvc", "exp", "run", *(part for text in planned.overrides for part in ("-S", text))])


def report(planned: Sequence[Planned]) -> list[str]:
    """Write the report from all results that are there; returns which of the planned ones are not."""
    cells: dict[tuple[int, str], list[Result]] = {}
    scored: dict[int, list[ScoredDocuments]] = {}
    files = sorted((REPORTS / NAME).glob("*.safetensors"))
    for file in files:
        found = re.fullmatch(rf"{NAME}-load(\d+)-(.+)-s\d+", file.stem)
        if found is None or found[2] not in BY_NAME:
            raise ConfigError(f"{file}: is not a result of make capacity; remove it")
        one, load = ScoredDocuments.read(file), int(found[1])
        scored.setdefault(load, []).append(one)
        cells.setdefault((load, found[2]), []).append(one.result)
    settings = {
        load: {name: said for name, said in settings_of(scored[load]).items() if name not in DIFFERS_BY_VARIANT}
        for load in sorted(scored)
    }
    for results in cells.values():
        results.sort(key=lambda result: result.seed)
    missing = [one.name for one in planned if not (REPORTS / NAME / f"{one.name}.safetensors").exists()]
    page = REPORTS / f"{NAME}.md"
    with atomic_file(page) as scratch:
        scratch.write_text(render_capacity(cells, VARIANTS, settings, missing, f"{NAME}.png"), encoding="utf-8")
    if cells:
        write_csv(page.with_suffix(".csv"), cells)
        save_figure(plot_capacity(cells, VARIANTS), page.with_suffix(".png"))
    say(f"{NAME}: {len(files)} results, {len(missing)} missing -> {page}")
    return missing


def main(words: Sequence[str] | None = None) -> None:
    """Plan, run, report, as `words` or the shell's arguments say."""
    arguments = parse(words)
    set_log_level(arguments.log_level)
    planned = plan_all(arguments)
    if arguments.commands:
        for one in planned:
            say(command_of(one))
        return
    run_and_report(planned, REPORTS / NAME, NAME, report, report_only=arguments.report_only)


if __name__ == "__main__":
    with errors_on_one_line(NAME):
        main()
