"""The peer: question answering the way transformers' example script documents it, written anew from that description.

Every question is tokenized together with its context; what is too long overflows into further features with a stride;
all features are padded to `max_length`; labels and answers are found by Python loops over offsets. Features pass
through a `datasets` map into an Arrow file, batches are stacked as they are, and the n best spans of each question
are sought in Python among the best starts and ends of its features.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

N_BEST, MAX_ANSWER = 20, 30


def read_questions(path: Path) -> datasets.Dataset:
    """Rows of id, question, context, answers from a SQuAD file."""
    return datasets.Dataset.from_list(_rows(path))


def rows(path: Path, ids: set[str]) -> datasets.Dataset:
    """Those of some questions."""
    return datasets.Dataset.from_list([row for row in _rows(path) if row["id"] in ids])


def _rows(path: Path) -> list[dict[str, Any]]:
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [
        {
            "id": qa["id"],
            "question": qa["question"],
            "context": paragraph["context"],
            "answers": {
                "text": [answer["text"] for answer in qa["answers"]],
                "answer_start": [answer["answer_start"] for answer in qa["answers"]],
            },
        }
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]


def tokenize(rows: dict[str, list[Any]], tokenizer: Any, max_length: int, stride: int) -> Any:
    """Features of a batch of questions, XLNet's order: the context first, padding on the left."""
    return tokenizer(
        rows["context"],
        [question.lstrip() for question in rows["question"]],
        truncation="only_first",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
        padding="max_length",
    )


def training_features(rows: dict[str, list[Any]], tokenizer: Any, max_length: int, stride: int) -> dict[str, Any]:
    """Features with start and end positions, those of `<cls>` where a feature does not hold the answer."""
    features = tokenize(rows, tokenizer, max_length, stride)
    sources, all_offsets = features.pop("overflow_to_sample_mapping"), features.pop("offset_mapping")
    starts, ends = [], []
    for i, offsets in enumerate(all_offsets):
        cls = features["input_ids"][i].index(tokenizer.cls_token_id)
        answers = rows["answers"][sources[i]]
        start, end = cls, cls
        if answers["answer_start"]:
            first_char = answers["answer_start"][0]
            last_char = first_char + len(answers["text"][0])
            of_which = features.sequence_ids(i)
            first = 0
            while of_which[first] != 0:
                first += 1
            last = len(of_which) - 1
            while of_which[last] != 0:
                last -= 1
            if offsets[first][0] <= first_char and offsets[last][1] >= last_char:
                while first < len(offsets) and offsets[first][0] <= first_char:
                    first += 1
                while offsets[last][1] >= last_char:
                    last -= 1
                start, end = first - 1, last + 1
        starts.append(start)
        ends.append(end)
    features["start_positions"], features["end_positions"] = starts, ends
    return features


def evaluation_features(rows: dict[str, list[Any]], tokenizer: Any, max_length: int, stride: int) -> dict[str, Any]:
    """Features with the question's id and the characters of context tokens; None elsewhere."""
    features = tokenize(rows, tokenizer, max_length, stride)
    sources = features.pop("overflow_to_sample_mapping")
    features["example_id"] = [rows["id"][source] for source in sources]
    features["offset_mapping"] = [
        [span if of == 0 else None for span, of in zip(offsets, features.sequence_ids(i), strict=True)]
        for i, offsets in enumerate(features["offset_mapping"])
    ]
    return features


def prepare(
    questions: datasets.Dataset, tokenizer: Any, *, make: Any, max_length: int, stride: int, cache: Path | None = None
) -> datasets.Dataset:
    """All features, by a `datasets` map in one process; written to `cache` if one is named."""
    return questions.map(
        make,
        batched=True,
        remove_columns=questions.column_names,
        fn_kwargs={"tokenizer": tokenizer, "max_length": max_length, "stride": stride},
        cache_file_name=str(cache) if cache else None,
        keep_in_memory=cache is None,
        load_from_cache_file=False,
    )


def stack(features: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch: the model's columns as tensors."""
    names = ("input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions")
    return {name: torch.tensor([feature[name] for feature in features]) for name in names if name in features[0]}


def answers(
    questions: datasets.Dataset, features: datasets.Dataset, start_logits: np.ndarray, end_logits: np.ndarray
) -> dict[str, str]:
    """The best answer of every question, the empty one where it scores best."""
    features_of = defaultdict(list)
    for i, example in enumerate(features["example_id"]):
        features_of[example].append(i)
    found = {}
    for question in questions:
        null, candidates = None, []
        for i in features_of[question["id"]]:
            offsets = features[i]["offset_mapping"]
            score = start_logits[i][-1] + end_logits[i][-1]
            null = score if null is None else min(null, score)
            for start in np.argsort(start_logits[i])[: -N_BEST - 1 : -1].tolist():
                for end in np.argsort(end_logits[i])[: -N_BEST - 1 : -1].tolist():
                    if offsets[start] is None or offsets[end] is None or not 0 <= end - start < MAX_ANSWER:
                        continue
                    span = (offsets[start][0], offsets[end][1])
                    candidates.append((start_logits[i][start] + end_logits[i][end], span))
        best = sorted(candidates, key=lambda candidate: candidate[0], reverse=True)[:N_BEST]
        text = question["context"][best[0][1][0] : best[0][1][1]] if best else ""
        found[question["id"]] = text if best and best[0][0] > null else ""
    return found
