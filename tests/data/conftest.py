"""What the tests of data preparation share: a small dataset on disk, and the real files where they are at hand."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Paragraphs = list[tuple[str, list[tuple[str, str | None]]]]  # (context, [(question, answer or None)])


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of real data and the real tokenizer; most machines have none."""
    default = Path(__file__).resolve().parents[3] / "shared"
    folder = Path(os.environ.get("GMMXLNET_SHARED", default))
    if not (folder / "squad").is_dir():
        pytest.skip(f"no real data: neither GMMXLNET_SHARED nor {default.name}/ beside the repository is there")
    return folder


def squad_articles(articles: dict[str, Paragraphs]) -> dict[str, Any]:
    """A SQuAD v2 file of the given articles; ids are title-paragraph-question."""
    data = []
    for title, paragraphs in articles.items():
        records = []
        for number, (context, asked) in enumerate(paragraphs):
            qas = [
                {
                    "id": f"{title}-{number}-{index}",
                    "question": question,
                    "answers": [] if answer is None else [{"text": answer, "answer_start": context.index(answer)}],
                    "is_impossible": answer is None,
                }
                for index, (question, answer) in enumerate(asked)
            ]
            records.append({"context": context, "qas": qas})
        data.append({"title": title, "paragraphs": records})
    return {"version": "v2.0", "data": data}


def small_articles(num_articles: int, prefix: str) -> dict[str, Paragraphs]:
    """Articles of two paragraphs about people, towns and colors; some questions have no answer."""
    people, towns, colors = ("Anna", "Bob", "Clara", "Dev"), ("Oslo", "Lima", "Pune"), ("red", "green", "blue")
    articles: dict[str, Paragraphs] = {}
    for number in range(num_articles):
        person, town, color = people[number % 4], towns[number % 3], colors[number // 2 % 3]
        first = f"{person} lives in {town}, house {number}. " + "It rains there most of the year. " * (number % 4)
        second = f'The house number {number} is painted {color}; "{person}" likes it. ' + "Nobody else does. " * 3
        articles[f"{prefix}{number}"] = [
            (first, [(f"Where does {person} live?", town), ("Who is the mayor?", None)]),
            (second, [("What color is the house?", color), (f"Who likes {color}?", person)]),
        ]
    return articles


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """A folder with train.json (24 articles) and dev.json (6)."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps(squad_articles(small_articles(24, "t"))), encoding="utf-8")
    (folder / "dev.json").write_text(json.dumps(squad_articles(small_articles(6, "d"))), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def make_squad() -> Callable[[dict[str, Paragraphs]], dict[str, Any]]:
    return squad_articles
