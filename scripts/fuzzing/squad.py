"""Damaged SQuAD files: what is read must say what the file says, and its labels must decode to its answers."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from gmmxlnet.data.chunks import build_split, make_layout
from gmmxlnet.data.squad import as_passages, parse_squad
from gmmxlnet.data.tokenizer import scratch_tokenizer
from scripts.fuzzing.damage import damaged_bytes, damaged_json

CONTEXTS = ("The Seine flows through Paris. Paris is in France.", "Dr. Ünal wrote “½ … and\u00a0more” in \uff11\uff19.")


class SquadCases:
    """Cases by seed and number."""

    name = "SQuAD files"

    def __init__(self, scratch: Path) -> None:
        self.tokenizer = scratch_tokenizer(CONTEXTS)
        sizes: dict[str, int] = {
            "max_seq_length": 48,
            "doc_stride": 4,
            "memory_num_tokens": 2,
            "max_question_length": 8,
        }
        self.layout = make_layout(self.tokenizer, **sizes)

    def __call__(self, seed: int, number: int) -> tuple[str, Callable[[], None]]:
        """The kind of damage, and the function that reads what was damaged."""
        rng = Random(f"{seed} {number}")
        version = rng.choice(("1.1", "2.0"))
        record = sound(version)
        if rng.random() < 0.5:
            raw = damaged_bytes(rng, json.dumps(record, ensure_ascii=rng.random() < 0.5).encode())
            return f"bytes of {version}", lambda: self._read(raw)
        text = damaged_json(rng, record)
        return f"json of {version}", lambda: self._read(text.encode("utf-8", "surrogatepass"))

    def _read(self, raw: bytes) -> None:
        articles = parse_squad(raw, "f.json")
        for context in ("paragraph", "article"):
            passages = as_passages(articles, context)
            asked = [(passage, question) for passage in passages for question in passage.questions]
            for passage, question in asked:
                assert question.is_impossible == (not question.answers)
                for text, start in question.answers:
                    assert passage.text[start : start + len(text)] == text
            built = build_split(asked, self.tokenizer, self.layout, 8, drop_unlabeled=False)
            chunks = built.chunks
            for n, (first, last) in enumerate(chunks.labels):
                if first < 0:
                    continue
                row = chunks.context_rows[chunks.document_contexts[n]]
                start, end = chunks.context_chars[row + first, 0], chunks.context_chars[row + last, 1]
                words = asked[n][0].text[start:end]
                assert any(text.strip() in words for text, _ in asked[n][1].answers), "a label is no answer"


def sound(version: str) -> dict[str, Any]:
    """A SQuAD file of this version without fault."""
    first: dict[str, Any] = {
        "id": "q1",
        "question": "Where is Paris?",
        "answers": [{"text": "France", "answer_start": 43}, {"text": "in France", "answer_start": 40}],
    }
    second: dict[str, Any] = {"id": "q2", "question": "Wer?", "answers": [{"text": "Ünal", "answer_start": 4}]}
    questions: list[list[dict[str, Any]]] = [[first], [second]]
    if version == "2.0":
        first |= {"is_impossible": False, "question_type": "local", "condition": "capital"}
        second["is_impossible"] = False
        questions[0].append({"id": "q3", "question": "Rome?", "answers": [], "is_impossible": True})
    paragraphs = [{"context": text, "qas": qas} for text, qas in zip(CONTEXTS, questions, strict=True)]
    return {"version": version, "data": [{"title": "Paris", "paragraphs": paragraphs}]}
