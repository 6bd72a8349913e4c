"""A world that asks a memory to hold several facts until a later segment says which of them counts.

A document reports on n towns. The flag of each is named once, two towns a segment; then, after `lag` segments of
remarks, one segment says which town today's report is from, and the next segment lists who is on duty under each
flag. "Who is on duty today?" needs the flag of the town named late, so all n flags must be kept until then (the
*load*). Some flags may change in between (*updates*): the memory must overwrite that flag and keep the others.

    The flag in Ashford is green.           segments 0 to ceil(n / 2) - 1
    Now the flag in Ashford is blue.        ceil(u / 2) segments for the u updates
    (remarks)                               `lag` segments
    Today's report is from Ashford.         one segment, or with the list
    On duty: red is Anna, blue is Boris, …  the last segment

If the town is named with the list (`town_with_list`), the last segment has to find one of the remembered facts. If it
is named before, the memory itself has to mark one of its facts, which is harder to learn (`reports/experiments.md`).

Every fact has the form "key is value", so that a small encoder can use the same lookup for all of them. Remarks in
random order and people with fixed trades are placed in between. The flags of different towns are drawn
independently, so one flag says nothing about another: without memory, one answer in four is right.

Question types:

* `cross_load4_lag1`, with updates `cross_load4_lag1_updated` or `cross_load4_lag1_untouched`, depending on whether
  the town's flag changed: "Who is on duty today?";
* `early_load4_lag1`, and so on: "Who is on duty in Ashford?", of up to three towns, named by the question itself;
* `local`: "Which flag is in Ashford?", "Who is on duty if red?" and "Who is the baker?"; the segment that
  contains the answer is enough (only flags that do not change are used);
* `unanswerable`: a trade that the document does not mention.

Train and dev use disjoint combinations of person and trade, and of person and flag, as the sample does. Document i
of a split depends only on the world, the seed, the split and i: for new documents in every epoch, generate as many
as all epochs read in total.

A profile's `dataset: {load: {num_towns: 4, …}}` makes the documents in memory (`sources.py`);
`python -m gmmxlnet.data.load data/load --num-towns 4` writes `train.json` and `dev.json` (SQuAD v2).
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from gmmxlnet.data import sample
from gmmxlnet.data.sample import FLAGS, REMARKS, SEED, TOWNS, TRADES, Report
from gmmxlnet.data.squad import write_squad_file
from gmmxlnet.errors import ConfigError
from gmmxlnet.options import LOAD, check_updates, require, shown

SPLITS = ("train", "dev")
ALL_TOWNS = (*TOWNS, "Ilford", "Jarrow", "Kelso", "Ludlow", "Morley", "Newport", "Oakham", "Pickering")
CODE = (Path(__file__), Path(str(sample.__file__)))  # whatever decides a document besides its settings
FACTS_PER_SEGMENT = 2
TOWNS_ASKED = 3  # at most, by questions that name the town
TRADES_NAMED = 2  # per document; the same number of other trades is asked about without an answer


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadWorld:
    """Settings of a load world.

    Args:
        num_towns: n, the load, 1 to 16.
        num_updates: u, number of towns whose flag changes, 0 to n.
        lag: segments of remarks between the last flag and the segment that names today's town.
        town_with_list: whether the last segment names today's town, before the list.
        segment_tokens: words and punctuation marks per segment, about the context tokens of a segment minus
            `doc_stride`. The sample profile has 35 new ones per segment.

    Raises ConfigError for values out of range.
    """

    num_towns: int = 1
    num_updates: int = 0
    lag: int = 1
    town_with_list: bool = False
    segment_tokens: int = 35

    def __post_init__(self) -> None:
        require(LOAD, asdict(self))
        check_updates(self.num_updates, self.num_towns)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "LoadWorld":
        """The world of a dataset's settings, which have all keys of `options.LOAD`. Raises ConfigError."""
        if not isinstance(settings, Mapping) or set(settings) != set(LOAD):
            raise ConfigError(f"dataset load must be a mapping with {', '.join(LOAD)}, not {shown(settings)}")
        require(LOAD, settings)
        return cls(**{field.name: settings[field.name] for field in fields(cls)})

    @property
    def num_questions(self) -> int:
        """Questions of each document."""
        return 4 + min(self.num_towns, TOWNS_ASKED) + (self.num_updates < self.num_towns)

    def question_type(self, kind: str, *, updated: bool) -> str:
        """Returns the `question_type`: `kind`, load, lag, and whether the town's flag was updated."""
        fate = ("_updated" if updated else "_untouched") if self.num_updates else ""
        return f"{kind}_load{self.num_towns}_lag{self.lag}{fate}"


def make_article(world: LoadWorld, name: str, rng: np.random.Generator, *, dev: bool) -> dict[str, Any]:
    """Generates one document with its questions, as a SQuAD v2 article with one paragraph."""
    report = _Writer(rng, dev=dev)
    towns = report.some(ALL_TOWNS[: max(world.num_towns, len(TOWNS))], world.num_towns)
    flag_of = {town: str(rng.choice(FLAGS)) for town in towns}
    changing = report.some(tuple(towns), world.num_updates)
    trades = report.some(TRADES, 2 * TRADES_NAMED)
    facts = [report.fact("The", town, flag_of[town]) for town in towns]
    for town in changing:
        flag_of[town] = str(rng.choice([flag for flag in FLAGS if flag != flag_of[town]]))
    changes = [report.fact("Now the", town, flag_of[town]) for town in changing]
    today = str(rng.choice(towns))
    segments = [*_in_pairs(facts), *_in_pairs(changes), *([] for _ in range(world.lag))]
    report_from = f"Today's report is from {today}."
    if not world.town_with_list:
        segments.append([report_from])
    for number, trade in enumerate(trades[:TRADES_NAMED]):
        segments[(number + int(rng.integers(len(segments)))) % len(segments)] += [trade]
    for number, sentences in enumerate(segments):
        report.fill_segment(sentences, until=(number + 1) * world.segment_tokens)
    if world.town_with_list:
        report.say(report_from)
    report.list_duties()

    steady = [town for town in towns if town not in changing]
    asked_towns, asked_flag = report.some(tuple(towns), TOWNS_ASKED), str(rng.choice(FLAGS))
    asked = [
        (world.question_type("cross", updated=today in changing), "Who is on duty today?", flag_of[today]),
        *(
            (world.question_type("early", updated=town in changing), f"Who is on duty in {town}?", flag_of[town])
            for town in asked_towns
        ),
        *(("local", f"Which flag is in {town}?", town) for town in steady[:1]),
        ("local", f"Who is on duty if {asked_flag}?", asked_flag),
        ("local", f"Who is the {trades[0]}?", trades[0]),
        ("unanswerable", f"Who is the {trades[-1]}?", None),
    ]
    questions = [
        {
            "id": f"{name}-{i}",
            "question": question,
            "question_type": kind,
            "condition": flag_of[today],
            "answers": [] if role is None else [report.answers[role]],
            "is_impossible": role is None,
        }
        for i, (kind, question, role) in enumerate(asked)
    ]
    return {"title": f"{today} {name}", "paragraphs": [{"context": report.text, "qas": questions}]}


def articles(world: LoadWorld, split: str, count: int, *, seed: int = SEED, start: int = 0) -> Iterator[dict[str, Any]]:
    """Yields documents `start` to `start + count - 1` of a split; each one is independent of the range."""
    stream = SPLITS.index(split)
    for i in range(start, start + count):
        yield make_article(world, f"{split}-{i}", np.random.default_rng([seed, stream, i]), dev=split == "dev")


def write_load(world: LoadWorld, folder: Path, *, num_train: int, num_dev: int, seed: int = SEED) -> None:
    """Writes `train.json` and `dev.json` atomically, one document per line."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in zip(SPLITS, (num_train, num_dev), strict=True):
        write_squad_file(folder / f"{split}.json", articles(world, split, count, seed=seed))


class _Writer(Report):
    """A document under construction."""

    def __init__(self, rng: np.random.Generator, *, dev: bool) -> None:
        super().__init__(rng, dev=dev)
        self._remarks: list[str] = []
        self._facts: dict[str, tuple[str, str]] = {}

    def fact(self, lead: str, town: str, flag: str) -> str:
        """Returns a sentence that states the town's flag, and records it as the town's answer."""
        sentence = f"{lead} flag in {town} is {flag}."
        self._facts[sentence] = (town, flag)
        return sentence

    def fill_segment(self, sentences: list[str], *, until: int) -> None:
        """Adds the sentences (a trade is replaced by its person) and remarks in random order, up to `until` tokens."""
        room = until - self.num_tokens
        for sentence in sentences:
            room -= 5 if sentence in TRADES else len(sentence.split()) + 1
        while room > 0:
            sentences = [*sentences, self._remark()]
            room -= len(sentences[-1].split()) + 1
        for sentence in self.some(tuple(sentences), len(sentences)):
            if sentence in TRADES:
                self.say_who(sentence, f"The {sentence} is")
                self.text += "."
                continue
            self.say(sentence)
            if sentence in self._facts:
                town, flag = self._facts[sentence]
                self.answers[town] = {"text": flag, "answer_start": len(self.text) - len(flag) - 1}

    def list_duties(self) -> None:
        """Lists who is on duty under each flag, in random order."""
        self.say("On duty:")
        for flag in self.some(FLAGS, len(FLAGS)):
            self.say_who(flag, f"{flag} is")
            self.text += ","
        self.text = self.text[:-1] + "."

    def _remark(self) -> str:
        """Returns the next remark; none is repeated before all have been used."""
        if not self._remarks:
            self._remarks = self.some(REMARKS, len(REMARKS))
        return self._remarks.pop()


def _in_pairs(sentences: list[str]) -> list[list[str]]:
    return [sentences[i : i + FACTS_PER_SEGMENT] for i in range(0, len(sentences), FACTS_PER_SEGMENT)]


def main() -> None:
    """Writes a load world to a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-towns", type=int, default=1)
    parser.add_argument("--num-updates", type=int, default=0)
    parser.add_argument("--lag", type=int, default=1)
    parser.add_argument("--town-with-list", action="store_true", help="name today's town in the last segment")
    parser.add_argument("--segment-tokens", type=int, default=35)
    parser.add_argument("--num-train", type=int, default=7000, help="documents, of five to eight questions each")
    parser.add_argument("--num-dev", type=int, default=200)
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    names = ("num_towns", "num_updates", "lag", "town_with_list", "segment_tokens")
    world = LoadWorld(**{name: getattr(asked, name) for name in names})
    write_load(world, asked.folder, num_train=asked.num_train, num_dev=asked.num_dev, seed=asked.seed)


if __name__ == "__main__":
    main()
