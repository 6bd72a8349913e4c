"""A small world in plain English that only a memory can answer in full; it writes `data/sample/`.

Every document is a report about a town. Today's flag (the condition) is stated once, early; who is on duty under each
flag is stated late, too far away for one window of the sample profile. Remarks in random order and people with fixed
trades are placed in between, so one word in thirty matters, and only the list of duties shows which.

Questions, each marked with its `question_type` and its document's `condition`:

* `local`: "Who is the baker?", "Who is on duty if red?"; the segment that contains the answer is enough;
* `cross`: "Who is on duty today?", "Who is on duty in Elham?"; requires remembering the flag;
* `unanswerable`: a trade that the document does not mention.

Train and dev use disjoint combinations of person and trade, and of person and flag.

Run `python -m gmmxlnet.data.sample data/sample` to regenerate the files, byte for byte.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from gmmxlnet.utils.files import atomic_file

FLAGS = ("red", "blue", "green", "white")
TRADES = ("baker", "miller", "tailor", "smith", "potter")
ROLES = (*FLAGS, *TRADES)
PEOPLE = (
    *("Anna", "Boris", "Clara", "David", "Edith", "Frank", "Greta", "Henry", "Irene", "Jacob"),
    *("Karen", "Louis", "Maria", "Nigel", "Olive", "Peter", "Queenie", "Ralph", "Susan", "Thomas"),
)
TOWNS = ("Ashford", "Bexley", "Calder", "Dunmore", "Elham", "Farley", "Grimsby", "Hartwell")
REMARKS = (
    "The market opens at noon.",
    "Rain is expected in the evening.",
    "The bridge is closed for repairs.",
    "Children walk to school along the river.",
    "The old mill was painted last summer.",
    "A train leaves for the coast every hour.",
    "Two boats came in before the storm.",
    "The library has a new roof.",
    "Apples are cheap this autumn.",
    "Nobody has seen the grey cat since Sunday.",
    "The baths are heated every second week.",
    "A fox was seen behind the station.",
    "Old coins were found under the church.",
    "The choir sings on Friday night.",
    "Fresh bread is sold near the gate.",
    "Nobody repaired the broken clock.",
    "The harbor froze twice last winter.",
    "Horses graze beyond the northern wall.",
    "A letter arrived without a stamp.",
    "The well gives clear water again.",
    "Lamps burn along the main street.",
    "The doctor rides a yellow bicycle.",
    "Swallows nest under the town hall.",
    "Most shops close early in January.",
)
LIST_STARTS_AT = 40  # tokens (words and punctuation marks): beyond the first window of the sample profile
REMARKS_BEFORE_FLAG = 1  # at most; the flag is then in the first window and not in the second
FURTHER_TOKENS = (0, 0, 0, 0, 25, 60)  # before the list: documents of 2, 3 and 4 segments
HELD_OUT = 10  # one combination in ten is dev's: with more, train would reveal dev's by exclusion
NUM_TRAIN, NUM_DEV = 1000, 120
SEED = 20261121


class Report:
    """A document under construction: its text and the offsets of its answers."""

    def __init__(self, rng: np.random.Generator, *, dev: bool) -> None:
        self.rng, self.dev = rng, dev
        self.text = ""
        self.answers: dict[str, dict[str, Any]] = {}

    @property
    def num_tokens(self) -> int:
        """Number of words and punctuation marks so far."""
        return len(re.findall(r"\w+|[^\w\s]", self.text))

    def say(self, words: str) -> None:
        """Appends words."""
        self.text += (" " if self.text else "") + words

    def say_who(self, role: str, lead: str) -> None:
        """Appends the lead and a person, who is the answer for the role; no person is used twice.

        A combination of person and role belongs to dev when its number is divisible by HELD_OUT, to train otherwise.
        """
        number = ROLES.index(role)
        taken = {answer["text"] for answer in self.answers.values()}
        mine = [name for i, name in enumerate(PEOPLE) if ((i + number) % HELD_OUT == 0) == self.dev]
        name = str(self.rng.choice([name for name in mine if name not in taken]))
        self.say(f"{lead} {name}")
        self.answers[role] = {"text": name, "answer_start": len(self.text) - len(name)}

    def some(self, items: tuple[str, ...], count: int) -> list[str]:
        """Draws distinct items in random order."""
        return [items[i] for i in self.rng.permutation(len(items))[:count]]


def make_article(rng: np.random.Generator, name: str, *, dev: bool) -> dict[str, Any]:
    """Generates one report with its questions, as a SQuAD v2 article with one paragraph."""
    report = Report(rng, dev=dev)
    town, flag, asked_flag = report.some(TOWNS, 1)[0], *report.some(FLAGS, 2)
    trades, remarks = report.some(TRADES, len(TRADES)), report.some(REMARKS, len(REMARKS))
    facts = trades[:2]
    list_starts_at = LIST_STARTS_AT + int(rng.choice(FURTHER_TOKENS))
    for _ in range(int(rng.integers(REMARKS_BEFORE_FLAG + 1))):
        report.say(remarks.pop(0))
    report.say(f"The flag in {town} is {flag}.")
    while facts or report.num_tokens < list_starts_at:
        if facts and (rng.random() < 0.5 or not remarks):
            trade = facts.pop()
            report.say_who(trade, f"The {trade} is")
            report.text += "."
        else:
            report.say(remarks.pop(0))
    report.say("On duty:")
    for under in report.some(FLAGS, len(FLAGS)):
        report.say_who(under, f"{under} is")
        report.text += ","
    report.text = report.text[:-1] + "."

    asked = [
        ("cross", "Who is on duty today?", flag),
        ("cross", f"Who is on duty in {town}?", flag),
        ("local", f"Who is on duty if {asked_flag}?", asked_flag),
        *(("local", f"Who is the {trade}?", trade) for trade in trades[:2]),
        *(("unanswerable", f"Who is the {trade}?", None) for trade in trades[2:4]),
    ]
    questions = [
        {
            "id": f"{name}-{i}",
            "question": question,
            "question_type": kind,
            "condition": flag,
            "answers": [] if role is None else [report.answers[role]],
            "is_impossible": role is None,
        }
        for i, (kind, question, role) in enumerate(asked)
    ]
    return {"title": f"{town} {name}", "paragraphs": [{"context": report.text, "qas": questions}]}


def make_sample(num_train: int = NUM_TRAIN, num_dev: int = NUM_DEV, seed: int = SEED) -> dict[str, dict[str, Any]]:
    """Generates SQuAD v2 datasets `train` and `dev`; deterministic on every machine."""
    sample = {}
    for stream, (split, count) in enumerate((("train", num_train), ("dev", num_dev))):
        rng = np.random.default_rng([seed, stream])
        articles = [make_article(rng, f"{split}-{i}", dev=split == "dev") for i in range(count)]
        sample[split] = {"version": "v2.0", "data": articles}
    return sample


def main() -> None:
    """Writes `train.json` and `dev.json` to a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for split, dataset in make_sample().items():
        articles = ",\n".join(json.dumps(article) for article in dataset["data"])  # one per line, for readable diffs
        with atomic_file(folder / f"{split}.json") as scratch:
            scratch.write_text(f'{{"version": "{dataset["version"]}", "data": [\n{articles}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
