"""A world that asks a memory to hold several facts until a later segment says which of them counts.

A document reports on n towns. The flag of each is named once, two towns a segment; then, after `lag` segments of
remarks, one segment says which town today's report is from, and the segment after it lists who is on duty under each
flag. "Who is on duty today?" needs the flag of the town that is named late, so until then all n flags (the *load*).
Some towns' flags may change in between (*updates*): a memory that writes over one town's flag must leave the others.

    The flag in Ashford is green.           segments 0 to ceil(n / 2) - 1
    Now the flag in Ashford is blue.        ceil(u / 2) segments for the u updates
    (remarks)                               `lag` segments
    Today's report is from Ashford.         one segment
    On duty: red is Anna, blue is Boris, …  the last segment

Every fact is said as "key is value", so that a small encoder learns to look up one as it does the other. Remarks in
random order and people with fixed trades stand between. The flags of different towns are drawn
independently, so that the others' flags tell nothing: whoever remembers none finds one answer in four.

Question types:

* `cross_load4_lag1`, with updates `cross_load4_lag1_updated` or `cross_load4_lag1_untouched` after what became of the
  asked town's flag: "Who is on duty today?";
* `early_load4_lag1`, and so on: "Who is on duty in Ashford?", which says from the first segment on which flag counts;
* `local`: "Which flag is in Ashford?", "Who is on duty if red?" and "Who is the baker?"; the segment that holds the
  answer is enough (the flag is one that does not change);
* `unanswerable`: a trade that the document does not mention.

Train and dev draw disjoint combinations of person and trade, and of person and flag, as the sample does. Document i of
a split depends on the world, the seed, the split and i alone: for fresh documents in every epoch, ask for as many as
all epochs read together.

Run `python -m gmmxlnet.data.load data/load --num-towns 4` to write `train.json` and `dev.json` (SQuAD v2).
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gmmxlnet.data.sample import FLAGS, REMARKS, SEED, TOWNS, TRADES, Report
from gmmxlnet.errors import ConfigError
from gmmxlnet.utils.files import atomic_file

SPLITS = ("train", "dev")
ALL_TOWNS = (*TOWNS, "Ilford", "Jarrow", "Kelso", "Ludlow", "Morley", "Newport", "Oakham", "Pickering")
FACTS_PER_SEGMENT = 2
TRADES_NAMED = 2  # in each document; as many others are asked for in vain


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadWorld:
    """What the documents of a load world have in common.

    Args:
        num_towns: n, the load, 1 to 16.
        num_updates: u, how many of the towns change their flag, 0 to n.
        lag: segments of remarks between the last flag and the town of today.
        segment_tokens: words and punctuation marks of a segment, about `max_seq_length` less everything but context
            and less `doc_stride`. The sample profile shows 35 new ones a segment.

    Raises ConfigError for values out of range.
    """

    num_towns: int = 1
    num_updates: int = 0
    lag: int = 1
    segment_tokens: int = 35

    def __post_init__(self) -> None:
        if not 1 <= self.num_towns <= len(ALL_TOWNS):
            raise ConfigError(f"num_towns must be an integer in [1, {len(ALL_TOWNS)}], not {self.num_towns}")
        if not 0 <= self.num_updates <= self.num_towns:
            raise ConfigError(f"num_updates must be in [0, num_towns = {self.num_towns}], not {self.num_updates}")
        if self.lag < 0:
            raise ConfigError(f"lag must be an integer >= 0, not {self.lag}")
        if self.segment_tokens < 30:
            raise ConfigError(f"segment_tokens must be >= 30, the length of the list, not {self.segment_tokens}")

    def question_type(self, kind: str, *, updated: bool) -> str:
        """How a question about a town's flag is marked: `kind`, load, lag, and what became of the flag."""
        fate = ("_updated" if updated else "_untouched") if self.num_updates else ""
        return f"{kind}_load{self.num_towns}_lag{self.lag}{fate}"


def make_article(world: LoadWorld, name: str, rng: np.random.Generator, *, dev: bool) -> dict[str, Any]:
    """One document with its questions, as a SQuAD v2 article of one paragraph."""
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
    segments = [
        *_in_pairs(facts),
        *_in_pairs(changes),
        *([] for _ in range(world.lag)),
        [f"Today's report is from {today}."],
    ]
    for number, trade in enumerate(trades[:TRADES_NAMED]):
        segments[(number + int(rng.integers(len(segments)))) % len(segments)] += [trade]
    for number, sentences in enumerate(segments):
        report.fill_segment(sentences, until=(number + 1) * world.segment_tokens)
    report.list_duties()

    steady = [town for town in towns if town not in changing]
    asked_town, asked_flag = str(rng.choice(towns)), str(rng.choice(FLAGS))
    asked = [
        (world.question_type("cross", updated=today in changing), "Who is on duty today?", flag_of[today]),
        (
            world.question_type("early", updated=asked_town in changing),
            f"Who is on duty in {asked_town}?",
            flag_of[asked_town],
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
    """Documents `start` to `start + count - 1` of a split; each is the same whatever else is asked for."""
    stream = SPLITS.index(split)
    for i in range(start, start + count):
        yield make_article(world, f"{split}-{i}", np.random.default_rng([seed, stream, i]), dev=split == "dev")


def write_load(world: LoadWorld, folder: Path, *, num_train: int, num_dev: int, seed: int = SEED) -> None:
    """Write `train.json` and `dev.json`, a document a line, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in zip(SPLITS, (num_train, num_dev), strict=True):
        lines = ",\n".join(json.dumps(article) for article in articles(world, split, count, seed=seed))
        with atomic_file(folder / f"{split}.json") as scratch:
            scratch.write_text(f'{{"version": "v2.0", "data": [\n{lines}\n]}}\n', encoding="utf-8")


class _Writer(Report):
    """A document under construction."""

    def __init__(self, rng: np.random.Generator, *, dev: bool) -> None:
        super().__init__(rng, dev=dev)
        self._remarks: list[str] = []
        self._facts: dict[str, tuple[str, str]] = {}

    def fact(self, lead: str, town: str, flag: str) -> str:
        """A sentence that, once said, answers for the town."""
        sentence = f"{lead} flag in {town} is {flag}."
        self._facts[sentence] = (town, flag)
        return sentence

    def fill_segment(self, sentences: list[str], *, until: int) -> None:
        """Say the sentences (a trade stands for who has it) in random order among remarks, up to `until` tokens."""
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
        """Who is on duty under each flag, in random order."""
        self.say("On duty:")
        for flag in self.some(FLAGS, len(FLAGS)):
            self.say_who(flag, f"{flag} is")
            self.text += ","
        self.text = self.text[:-1] + "."

    def _remark(self) -> str:
        """The next remark; all are said once before any is said again."""
        if not self._remarks:
            self._remarks = self.some(REMARKS, len(REMARKS))
        return self._remarks.pop()


def _in_pairs(sentences: list[str]) -> list[list[str]]:
    return [sentences[i : i + FACTS_PER_SEGMENT] for i in range(0, len(sentences), FACTS_PER_SEGMENT)]


def main() -> None:
    """Write a load world into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-towns", type=int, default=1)
    parser.add_argument("--num-updates", type=int, default=0)
    parser.add_argument("--lag", type=int, default=1)
    parser.add_argument("--segment-tokens", type=int, default=35)
    parser.add_argument("--num-train", type=int, default=7000, help="documents, of five or six questions each")
    parser.add_argument("--num-dev", type=int, default=200)
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    names = ("num_towns", "num_updates", "lag", "segment_tokens")
    world = LoadWorld(**{name: getattr(asked, name) for name in names})
    write_load(world, asked.folder, num_train=asked.num_train, num_dev=asked.num_dev, seed=asked.seed)


if __name__ == "__main__":
    main()
