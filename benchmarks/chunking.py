"""From a SQuAD file to what training reads, on disk: ours by paragraph and by article, and the run_qa way."""

import tempfile
from functools import partial
from pathlib import Path

from benchmarks import run_qa
from benchmarks.inputs import Scale, Texts
from benchmarks.timing import Bar, Figure, figure, in_turns, mebibytes, milliseconds, time_figure
from gmmxlnet.data.chunks import build_split
from gmmxlnet.data.split_writer import SplitWriter
from gmmxlnet.windows import ContextKind

MAX_QUESTION = 64


def chunking_figures(scale: Scale, texts: Texts) -> list[Figure]:
    """All of dev: each run reads the file and writes its outcome anew, in one process; tokenizers' threads as set."""
    max_question = 12 if scale.quick else MAX_QUESTION
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = {
            "peer": partial(_peer, scale, texts, folder),
            "paragraph": partial(_ours, scale, texts, folder / "paragraph", "paragraph", max_question),
            "article": partial(_ours, scale, texts, folder / "article", "article", max_question),
        }
        taken = in_turns(runs, scale.repeats)
        disk = {context: _bytes(folder / context) for context in ("paragraph", "article")}
    questions = sum(len(passage.questions) for passage in texts.passages("dev"))
    what = {"text": texts.name, "questions": questions, **milliseconds(taken)}
    peer, paragraph, article = taken["peer"], taken["paragraph"], taken["article"]
    return [
        time_figure(
            "chunking: speed against run_qa",
            peer,
            paragraph,
            Bar(at_least=10),
            **what,
        ),
        time_figure(
            "chunking by article: time against by paragraph",
            article,
            paragraph,
            Bar(at_most=2),
            **what,
        ),
        figure(
            "chunking by article: disk against by paragraph",
            [disk["article"] / disk["paragraph"]],
            Bar(at_most=1.2),
            **mebibytes(disk, 2),
        ),
    ]


def _peer(scale: Scale, texts: Texts, folder: Path) -> None:
    cache = folder / "features.arrow"
    cache.unlink(missing_ok=True)
    run_qa.prepare(
        run_qa.read_questions(texts.dev),
        texts.tokenizer,
        make=run_qa.training_features,
        max_length=scale.max_length,
        stride=scale.stride,
        cache=cache,
    )


def _ours(scale: Scale, texts: Texts, folder: Path, context: ContextKind, max_question: int) -> None:
    documents = [(passage, question) for passage in texts.passages("dev", context) for question in passage.questions]
    built = build_split(
        documents,
        texts.tokenizer,
        scale.layout(texts.tokenizer),
        max_question,
        drop_unlabeled=False,
    )
    for file in folder.glob("*"):
        file.unlink()
    if folder.is_dir():
        folder.rmdir()
    with SplitWriter(folder) as writer:
        writer.append(built)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
