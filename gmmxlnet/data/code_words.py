"""Documents of real text in which entities have code words that only the first segment defines.

    In this text Hawk is Warsaw. Lotus is Vienna. …                        the first segment
    (sentences of the same article)
    Chopin returned to Lotus in 1829.                                      later segments, among other sentences
    Chopin returned to Hawk in 1931.

    When did Chopin return to Vienna?                                      1829

The number of code words is the *load* n. A document starts from one fact of a SQuAD file: a sentence and a question
that share a name, and a short answer (`named_facts.py`). The sentence is written n times, each time with another code
word in place of the name and another answer of the same kind from other articles. A random permutation says which of n
names of the same kind each code word stands for, and the question is asked once for each name.

Why this requires a memory: without the definitions a document is the same for every permutation, so the name in the
question tells nothing about which of the n sentences is meant, and neither do topic, style or what is known about the
world. No reader of single segments can expect to be right more often than 1 in n, and one that gives the n questions
of a document the same answer is right exactly once. The definitions are followed by at least `segment_words` words and
punctuation marks, so no segment with fewer tokens contains both a definition and one of the n sentences.

Three controls, `definitions`:

* `repeated`: the definition of a code word is repeated before its sentence. A segment is enough: the ceiling.
* `asked`: the question has the code word instead of the name. A segment is enough, and no definition is needed.
* `removed`: there are no definitions, and more sentences of the article stand in their place: the floor.

All have the same sentences, answers and code words for the same seed; only `asked` has other questions. Names,
sentences and answers of train and dev are from disjoint sets of articles. Document i of a split depends only on the
file, the settings, the seed, the split and i. The `question_type` is `code_load4`, with a control such as
`code_load4_repeated`.

Run `python -m gmmxlnet.data.code_words train-v2.0.json data/code-words --load 4` to write `train.json` and `dev.json`.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from gmmxlnet.data.answer_text import normalize_answer
from gmmxlnet.data.named_facts import (
    NamedFact,
    count_words,
    facts_of,
    filler_sentences,
    mentions,
    split_articles,
    unique,
)
from gmmxlnet.data.squad import PARAGRAPH_SEPARATOR, Article, read_squad_file, write_squad_file
from gmmxlnet.errors import ConfigError, DataError

SPLITS = ("train", "dev")
SEED = 13
Definitions = Literal["first", "repeated", "asked", "removed"]
# Each is one token of BERT's and of XLNet's vocabulary.
CODE_WORDS = (
    *("Amber", "Falcon", "Cedar", "Coral", "Hazel", "Ivory", "Jasper", "Lotus", "Maple", "Raven", "Scarlet"),
    *("Tiger", "Violet", "Willow", "Crystal", "Granite", "Eclipse", "Lantern", "Magnet", "Pepper", "Velvet"),
    *("Walnut", "Ginger", "Panther", "Phoenix", "Cobra", "Dragon", "Hawk", "Copper", "Saturn", "Omega", "Rocket"),
)
MAX_LOAD = 16
TRIES = 200  # draws of a fact, a name or an answer before the file counts as too small


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeWordSettings:
    """Settings of code-word documents.

    Args:
        loads: numbers of code words, each 2 to 16; document i has the load `loads[i % len(loads)]`.
        definitions: `first`, or a control: `repeated`, `asked`, `removed`.
        segment_words: words and punctuation marks before the first of the n sentences, at least the context tokens of
            a segment.
        passage_words: words and punctuation marks of each paragraph around one of the n sentences, at least.
        max_sentence_words: longest sentence; with at most `doc_stride` tokens, some segment contains it whole.

    Raises ConfigError for values out of range.
    """

    loads: tuple[int, ...] = (4,)
    definitions: Definitions = "first"
    segment_words: int = 112
    passage_words: int = 60
    max_sentence_words: int = 25

    def __post_init__(self) -> None:
        if not self.loads or not all(2 <= load <= MAX_LOAD for load in self.loads):
            raise ConfigError(f"load must be an integer in [2, {MAX_LOAD}], not {', '.join(map(str, self.loads))}")
        if self.definitions not in get_args(Definitions):
            known = ", ".join(get_args(Definitions))
            raise ConfigError(f"definitions must be one of {known}, not {self.definitions!r}")
        if self.max_sentence_words < 10:
            raise ConfigError(f"max_sentence_words must be >= 10, not {self.max_sentence_words}")
        if min(self.segment_words, self.passage_words) < 0:
            raise ConfigError("segment_words and passage_words must be >= 0")

    def question_type(self, load: int) -> str:
        """Returns the `question_type`: the load, and the control if it is one."""
        return f"code_load{load}" + ("" if self.definitions == "first" else f"_{self.definitions}")


@dataclass(frozen=True, slots=True)
class Pool:
    """The facts of one split, with names and answers by kind."""

    facts: list[NamedFact]
    filler: dict[str, list[str]]  # sentences by title
    names: dict[str, list[str]]  # by kind
    answers: dict[tuple[str, ...], list[str]]  # by question word and shape, and by shape alone

    @classmethod
    def of(cls, articles: Sequence[Article], settings: CodeWordSettings, split: str) -> "Pool":
        """Collects the facts of articles. Raises DataError if there are none."""
        longest = settings.max_sentence_words
        facts = unique(fact for article in articles for fact in facts_of(article, max_sentence_words=longest))
        if not facts:
            raise DataError(
                f"the {split} articles have no question whose name and short answer stand in one sentence; "
                "give a larger SQuAD file in English"
            )
        filler: dict[str, list[str]] = {}
        for article in articles:
            filler.setdefault(article.title, []).extend(filler_sentences(article, max_sentence_words=longest))
        names: dict[str, dict[str, None]] = defaultdict(dict)  # dicts as ordered sets
        answers: dict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
        for fact in facts:
            names[fact.name_kind][fact.name] = None
            for kind in (fact.answer_kind, fact.answer_kind[1:]):
                answers[kind][fact.answer] = None
        return cls(
            facts,
            {title: list(dict.fromkeys(sentences)) for title, sentences in filler.items()},
            {kind: list(found) for kind, found in names.items()},
            {kind: list(found) for kind, found in answers.items()},
        )


def make_article(
    pool: Pool, settings: CodeWordSettings, name: str, load: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Generates one document with its `load` questions, as a SQuAD v2 article with one paragraph.

    Raises DataError if the pool has too few names or answers of any kind.
    """
    draft = _Draft.draw(pool, load, rng)
    text, starts = draft.write(settings, rng)
    questions = [
        {
            "id": f"{name}-{i}",
            "question": draft.question_about((draft.codes if settings.definitions == "asked" else draft.names)[i]),
            "question_type": settings.question_type(load),
            "answers": [{"text": draft.answers[i], "answer_start": starts[i]}],
            "is_impossible": False,
        }
        for i in range(load)
    ]
    return {"title": f"{draft.fact.title} {name}", "paragraphs": [{"context": text, "qas": questions}]}


def documents(
    pool: Pool, settings: CodeWordSettings, split: str, count: int, *, seed: int = SEED, start: int = 0
) -> Iterator[dict[str, Any]]:
    """Yields documents `start` to `start + count - 1` of a split; each one is independent of the range."""
    for i in range(start, start + count):
        load = settings.loads[i % len(settings.loads)]
        rng = np.random.default_rng([seed, SPLITS.index(split), i])
        yield make_article(pool, settings, f"{split}-{i}", load, rng)


def write_code_words(
    squad: str | Path,
    folder: Path,
    settings: CodeWordSettings,
    *,
    num_train: int,
    num_dev: int,
    dev_fraction: float = 0.2,
    seed: int = SEED,
) -> None:
    """Writes `train.json` and `dev.json` (SQuAD v2) atomically, one document per line.

    Raises DataError if the file cannot be read or has too few facts.
    """
    halves = split_articles(read_squad_file(squad), dev_fraction, seed)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, articles in zip(SPLITS, (num_train, num_dev), halves, strict=True):
        pool = Pool.of(articles, settings, split)
        write_squad_file(folder / f"{split}.json", documents(pool, settings, split, count, seed=seed))


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a document says: the fact, and code word, name and answer i of each of its n sentences."""

    fact: NamedFact
    codes: list[str]
    names: list[str]
    answers: list[str]
    filler: list[str]

    @classmethod
    def draw(cls, pool: Pool, load: int, rng: np.random.Generator) -> "_Draft":
        """Draws a fact, and names, answers, code words and filler for it."""
        for _ in range(TRIES):
            fact = pool.facts[int(rng.integers(len(pool.facts)))]
            names = _others(fact.name, pool.names[fact.name_kind], fact.sentence, load, rng)
            kinds = (fact.answer_kind, fact.answer_kind[1:])
            drawn = (_others(fact.answer, pool.answers[kind], fact.question, load, rng) for kind in kinds)
            answers = next((found for found in drawn if found), [])
            if not names or not answers or any(_alike(one, other) for one in names for other in answers):
                continue
            codes = [code for code in CODE_WORDS if not _occurs(code, [fact.sentence, fact.question, *names, *answers])]
            codes = [codes[i] for i in rng.permutation(len(codes))[:load]]
            banned = [*codes, *answers, *names]
            rest = [one for one in pool.filler[fact.title] if not any(_occurs(phrase, [one]) for phrase in banned)]
            if len(codes) == load and rest:
                # The permutation that makes names and sentences independent of each other.
                names = [names[i] for i in rng.permutation(load)]
                return cls(fact, codes, names, answers, [rest[i] for i in rng.permutation(len(rest))])
        raise DataError(f"no fact with {load} names and answers of the same kind; lower the load or give a larger file")

    def question_about(self, name: str) -> str:
        """Returns the fact's question with this name or code word."""
        return _replaced(self.fact.question, {self.fact.name: name})[0]

    def write(self, settings: CodeWordSettings, rng: np.random.Generator) -> tuple[str, list[int]]:
        """Returns the text, and the first character of each answer in it."""
        filler = _Filler(self.filler)
        order = rng.permutation(len(self.codes))
        definitions = [f"{code} is {name}." for code, name in zip(self.codes, self.names, strict=True)]
        block = "In this text " + " ".join(definitions[i] for i in rng.permutation(len(definitions)))
        opening = "" if settings.definitions == "removed" else block
        num_words = count_words(block) + settings.segment_words  # the same length with and without definitions
        text = filler.fill(opening, num_words)
        starts = [0] * len(self.codes)
        for i in order:
            sentence, places = _replaced(
                self.fact.sentence, {self.fact.name: self.codes[i], self.fact.answer: self.answers[i]}
            )
            lead = f"In this text {definitions[i]} " if settings.definitions == "repeated" else ""
            room = max(settings.passage_words - count_words(sentence), 0)
            before = filler.fill("", int(rng.integers(room + 1)))
            text += PARAGRAPH_SEPARATOR + (f"{before} " if before else "") + lead
            starts[i] = len(text) + places[self.fact.answer]
            text = filler.fill(text + sentence, count_words(text + sentence) + room - count_words(before))
        return text, starts


class _Filler:
    """Sentences in the order given, again from the first after the last."""

    def __init__(self, sentences: list[str]) -> None:
        self.sentences, self.used = sentences, 0

    def fill(self, text: str, num_words: int) -> str:
        """Appends sentences until the text has `num_words` words and punctuation marks."""
        missing = num_words - count_words(text)
        while missing > 0:
            sentence = self.sentences[self.used % len(self.sentences)]
            text += (" " if text else "") + sentence
            missing -= count_words(sentence)
            self.used += 1
        return text


def _others(own: str, pool: Sequence[str], text: str, count: int, rng: np.random.Generator) -> list[str]:
    """Draws `own` and `count` - 1 others that share no word with each other or with `text`; empty if it fails."""
    chosen = [own]
    for _ in range(TRIES):
        if len(chosen) == count:
            return chosen
        other = pool[int(rng.integers(len(pool)))]
        if not any(_alike(other, one) for one in chosen) and not _occurs(other, [text]):
            chosen.append(other)
    return []


def _alike(one: str, other: str) -> bool:
    """Whether two texts share a word, or are the same for the metric."""
    first, second = (set(normalize_answer(text).split()) for text in (one, other))
    return bool(first & second) or first == second


def _occurs(phrase: str, texts: Sequence[str]) -> bool:
    return any(any(mentions(text.casefold(), phrase.casefold())) for text in texts)


def _replaced(text: str, replacements: dict[str, str]) -> tuple[str, dict[str, int]]:
    """Replaces phrases; also returns the first character of each phrase's last replacement."""
    found = sorted((match.start(), match.end(), phrase) for phrase in replacements for match in mentions(text, phrase))
    written, end, places = "", 0, {}
    for start, stop, phrase in found:
        written += text[end:start]
        places[phrase] = len(written)
        written += replacements[phrase]
        end = stop
    return written + text[end:], places


def main() -> None:
    """Writes code-word documents to a folder."""
    defaults = CodeWordSettings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("squad", type=Path, help="a SQuAD file, v1.1 or v2.0")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--load", type=int, nargs="+", default=list(defaults.loads), help="code words of a document")
    parser.add_argument("--definitions", choices=get_args(Definitions), default=defaults.definitions)
    for name in ("segment_words", "passage_words", "max_sentence_words"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name))
    parser.add_argument("--num-train", type=int, default=2000, help="documents, with `load` questions each")
    parser.add_argument("--num-dev", type=int, default=100)
    parser.add_argument("--dev-fraction", type=float, default=0.2, help="share of the articles")
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    names = [name for name in asdict(defaults) if name != "loads"]
    settings = CodeWordSettings(loads=tuple(asked.load), **{name: getattr(asked, name) for name in names})
    write_code_words(
        asked.squad,
        asked.folder,
        settings,
        num_train=asked.num_train,
        num_dev=asked.num_dev,
        dev_fraction=asked.dev_fraction,
        seed=asked.seed,
    )


if __name__ == "__main__":
    main()
