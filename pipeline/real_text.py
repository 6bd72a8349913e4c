"""`make real-text`: does a memory help on real text? One reader, every kind of memory, the same budget for each.

    python -m pipeline.real_text --reader models/reader --squad ../squad --stories ../fairytale
    python -m pipeline.real_text --reader models/reader --squad ../squad --tasks code-words --loads 4 --seeds 13
    python -m pipeline.real_text --reader models/reader --squad ../squad --report-only

Tasks are code-word documents of each load (`gmmxlnet.data.code_words`) with their two controls, whole stories, and
whole articles. As in `make long-documents`, whose jobs these are, each experiment leaves one small file, here in
reports/real-text/; run again, only what has no file of the same parameters, code, reader and data is done, and what was
killed goes on from its last checkpoint. reports/real-text.md, .csv and .png are made from all files that are there.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gmmxlnet.analysis.plots import save_figure
from gmmxlnet.comparison.questions import ScoredDocuments
from gmmxlnet.comparison.real_text import CODE_WORDS, CONTROLS, plot_real_text, render_real_text, write_csv
from gmmxlnet.data import code_words, named_facts
from gmmxlnet.data.code_words import CodeWordSettings, Definitions, write_code_words
from gmmxlnet.data.sources import split_file
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.messages import say
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.xlnet_weights import save_plain_xlnet
from gmmxlnet.utils.files import atomic_file, digest_of, read_object, sha256_of
from gmmxlnet.utils.logs import add_log_level, set_log_level
from pipeline.experiment import folder_hash
from pipeline.long_documents import WORK, make_once, run_and_report
from pipeline.places import REPORTS, find_local
from pipeline.stage import errors_on_one_line
from pipeline.variants import Planned, plan, quoted

NAME = "real-text"
VARIANTS = ("none", "mems", "words", "token", "differentiable", "gmm-k4-write", "gmm-k4-read")
TASKS = (CODE_WORDS, "stories", "articles")
PROFILE = "profiles.articles."
SETTINGS = (
    *("profile=articles", "memory_num_tokens=4", f"{PROFILE}num_workers=0", f"{PROFILE}gradient_accumulation_steps=1"),
    *(
        f"{PROFILE}learning_rate=1e-4",
        f"{PROFILE}learning_rate_memory=1e-3",
        f"{PROFILE}dropout=0.0",
        f"{PROFILE}max_question_length=32",
        f"{PROFILE}max_train_documents=null",
    ),
)
WHOLE = ("max_seq_length=256", "doc_stride=64", "context=article", "progressive_segments=[2,4,8]", "batch_size=8")
OF_TASK = {
    CODE_WORDS: (
        *("max_seq_length=128", "doc_stride=32", "context=paragraph", "progressive_segments=null"),
        "batch_size=16",
    ),
    "stories": WHOLE,
    "articles": WHOLE,
}
# For windows of at most 112 tokens of context, with sentences that the overlap of two windows has room for.
CODE_WORD_LENGTHS = {"segment_words": 96, "passage_words": 30, "max_sentence_words": 20}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog=NAME, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--name", default=NAME, help="of the report and of the folder of results in reports/")
    parser.add_argument("--reader", required=True, help="a folder or Hub id of an XLNet, or of a model without memory")
    parser.add_argument("--squad", required=True, type=Path, help="a folder with SQuAD's train and dev files")
    parser.add_argument("--stories", type=Path, help="a folder with train.json and dev.json, a story an article")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all")
    parser.add_argument("--loads", nargs="+", type=int, default=[4, 8], help="code words of a document")
    parser.add_argument("--num-train", type=int, default=4000, help="code-word documents")
    parser.add_argument("--num-dev", type=int, default=100, help="code-word documents")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[13, 14, 15])
    parser.add_argument("--set", nargs="+", action="extend", default=[], help="key=value, as of dvc exp run -S")
    parser.add_argument("--report-only", action="store_true", help="train nothing: report on what is done")
    add_log_level(parser)
    return parser.parse_args(arguments)


def plan_all(arguments: argparse.Namespace) -> list[Planned]:
    """All experiments, checked before any of them runs; makes the code-word documents. Raises GMMXLNetError."""
    planned: list[Planned] = []
    arguments.reader = base_model(arguments.reader)
    for task in arguments.tasks:
        if task == CODE_WORDS:
            for load in arguments.loads:
                name = f"{task}-load{load}"
                folder = code_word_folder(arguments, load, "first")
                planned += _plan_task(arguments, name, OF_TASK[task], folder, arguments.variants)
                for control in CONTROLS:
                    folder = code_word_folder(arguments, load, control)
                    planned += _plan_task(arguments, f"{name}-{control}", OF_TASK[task], folder, ["none"])
        elif task == "articles":
            planned += _plan_task(arguments, task, OF_TASK[task], arguments.squad, arguments.variants)
        elif arguments.stories is not None:
            planned += _plan_task(arguments, task, OF_TASK[task], arguments.stories, arguments.variants)
    return planned


def _plan_task(
    arguments: argparse.Namespace, task: str, settings: Sequence[str], folder: Path, variants: Sequence[str]
) -> list[Planned]:
    files = {split: f"{PROFILE}dataset.{split}={quoted(str(split_file(folder, split)))}" for split in ("train", "dev")}
    models = [f"{PROFILE}{key}={quoted(arguments.reader)}" for key in ("base_model", "tokenizer")]
    own = [f"{PROFILE}{setting}" for setting in settings]
    given = [*SETTINGS, *own, *models, *files.values(), *arguments.set]
    return plan(f"{arguments.name}-{task}", list(variants), arguments.seeds, given)


def base_model(reader: str) -> str:
    """The reader as a base model: a model of the train stage (memory_type none) is converted to a plain XLNet, once."""
    folder = Path(find_local(reader))
    config = folder / "config.json"
    if not config.is_file() or read_object(config, missing="name a folder").get("model_type") != "gmmxlnet":
        return reader
    plain = WORK / f"reader-{folder_hash(folder)[:12]}"

    def write() -> None:
        save_plain_xlnet(GMMXLNetForQA.from_pretrained(str(folder)), load_tokenizer(str(folder)), plain)

    make_once(plain, write)
    return str(plain)


def code_word_folder(arguments: argparse.Namespace, load: int, definitions: Definitions) -> Path:
    """The code-word documents, made now if they are not there; the name tells settings, SQuAD file and code."""
    settings = CodeWordSettings(loads=(load,), definitions=definitions, **CODE_WORD_LENGTHS)
    squad = split_file(Path(find_local(str(arguments.squad))), "train")
    code = [sha256_of(Path(str(module.__file__))) for module in (code_words, named_facts)]
    made_of = [str(settings), arguments.num_train, arguments.num_dev, sha256_of(squad), code]
    folder = WORK / "code-words" / f"load{load}-{definitions}-{digest_of(made_of)[:12]}"

    def write() -> None:
        write_code_words(squad, folder, settings, num_train=arguments.num_train, num_dev=arguments.num_dev)

    make_once(folder / "dev.json", write)  # written last
    return folder


def report(planned: Sequence[Planned], name: str) -> list[str]:
    """Write the report from all results that are there; returns which of the planned ones are not."""
    tasks: dict[str, list[ScoredDocuments]] = {}
    files = sorted((REPORTS / name).glob("*.safetensors"))
    for file in files:
        one = ScoredDocuments.read(file)
        task = file.stem.removeprefix(f"{name}-").removesuffix(f"-{one.result.variant}-s{one.result.seed}")
        tasks.setdefault(task, []).append(one)
    for scored in tasks.values():
        scored.sort(key=lambda one: (_place(one.result.variant), one.result.seed))
    missing = [one.name for one in planned if not (REPORTS / name / f"{one.name}.safetensors").exists()]
    page = REPORTS / f"{name}.md"
    with atomic_file(page) as scratch:
        scratch.write_text(render_real_text(tasks, missing, f"{name}.png"), encoding="utf-8")
    if tasks:
        write_csv(page.with_suffix(".csv"), tasks)
        save_figure(plot_real_text(tasks), page.with_suffix(".png"))
    say(f"{NAME}: {len(files)} results, {len(missing)} missing -> {page}")
    return missing


def _place(variant: str) -> tuple[int, str]:
    return (VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS), variant)


def main(words: Sequence[str] | None = None) -> None:
    """Plan, run, report, as `words` or the shell's arguments say."""
    arguments = parse(words)
    set_log_level(arguments.log_level)
    page = partial(report, name=arguments.name)
    run_and_report(plan_all(arguments), REPORTS / arguments.name, NAME, page, report_only=arguments.report_only)


if __name__ == "__main__":
    with errors_on_one_line(NAME):
        main()
