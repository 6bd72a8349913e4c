"""A batch is what putting each segment together by hand, token by token, would give."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmxlnet.data.chunks import ChunkSettings, build_chunks
from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.data.documents import Document, Documents

M = 3


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory, make_squad) -> Documents:
    folder = tmp_path_factory.mktemp("collator")
    paragraphs = []
    for number in range(12):
        text = " ".join(f"w{place % 17}" for place in range(3 + 11 * number)) + f" answer{number} end."
        paragraphs.append((text, [("where is it", f"answer{number}"), ("who " * number + "came?", None)]))
    record = make_squad({"a": paragraphs})
    for name in ("train", "dev"):
        (folder / f"{name}.json").write_text(json.dumps(record))
    chunk_settings = ChunkSettings(
        dataset=str(folder),
        tokenizer="scratch",
        max_seq_length=48,
        doc_stride=7,
        memory_num_tokens=M,
        max_question_length=16,
        seed=1,
    )
    build_chunks(chunk_settings, folder / "chunks")
    return Documents.open(folder / "chunks", "dev")


def by_hand(docs: list[Document], layout: Any, memory_tokens: bool) -> dict[str, Any]:
    """The batch as nested lists, built one token after the other."""
    V, slots = layout.vocab_size, M if memory_tokens else 0
    rows: list[list[dict[str, Any]]] = []
    for document in docs:
        segments = []
        for start, end in document.segments.tolist():
            tokens = [(int(token), 0, index) for index, token in enumerate(document.context_tokens)][start:end]
            tokens += [(V + M + slot, 0, None) for slot in range(slots)] + [(layout.sep_id, 0, None)]
            tokens += [(V + slot, 1, None) for slot in range(slots)]
            tokens += [(int(token), 1, None) for token in document.question_tokens] + [(layout.sep_id, 1, None)]
            segments.append({"tokens": [*tokens, (layout.cls_id, 2, None)], "start": start})
        rows.append(segments)
    S = max(len(row) for row in rows)
    L = max(len(segment["tokens"]) for row in rows for segment in row)
    names = ("input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions", "segment_offsets")
    batch: dict[str, Any] = {name: [] for name in names}
    for document, row in zip(docs, rows, strict=True):
        lines: dict[str, list] = {name: [] for name in names}
        for segment in [*row, *[{"tokens": [], "start": -1}] * (S - len(row))]:
            padding = L - len(segment["tokens"])
            filled = [(layout.pad_id, 3, None)] * padding + segment["tokens"]
            places = {index: place for place, (_, _, index) in enumerate(filled) if index is not None}
            label = document.label or (None, None)
            held = all(token in places for token in label)
            lines["input_ids"].append([token for token, _, _ in filled])
            lines["attention_mask"].append([0] * padding + [1] * len(segment["tokens"]))
            lines["token_type_ids"].append([kind for _, kind, _ in filled])
            lines["segment_offsets"].append(segment["start"])
            for name, token in zip(("start_positions", "end_positions"), label, strict=True):
                lines[name].append(-100 if segment["start"] < 0 else places[token] if held else L - 1)
        for name in names:
            batch[name].append(lines[name])
    return {
        **batch,
        "num_segments": [len(row) for row in rows],
        "document_index": [document.index for document in docs],
    }


@pytest.mark.parametrize("memory_tokens", [True, False])
@given(chosen=st.lists(st.integers(0, 23), min_size=1, max_size=5))
@settings(max_examples=25)
def test_a_batch_equals_the_plain_construction(documents: Documents, memory_tokens: bool, chosen: list[int]) -> None:
    docs = [documents[index] for index in chosen]
    batch = DocumentCollator(layout=documents.layout, memory_tokens=memory_tokens)(docs)
    expected = by_hand(docs, documents.layout, memory_tokens)
    assert set(batch) == set(expected)
    for name, tensor in batch.items():
        assert tensor.dtype == torch.int64
        assert tensor.tolist() == expected[name], name


def test_the_label_leads_back_to_the_answer(documents: Documents) -> None:
    batch = DocumentCollator(layout=documents.layout, memory_tokens=True)(list(documents))
    L = batch["input_ids"].shape[2]
    found = set()
    for row, segment in (
        (batch["start_positions"] < L - 1).logical_and(batch["start_positions"] >= 0).nonzero().tolist()
    ):
        length = int(batch["attention_mask"][row, segment].sum())
        shift = int(batch["segment_offsets"][row, segment]) - (L - length)
        tokens = [int(batch[name][row, segment]) + shift for name in ("start_positions", "end_positions")]
        start, end = documents.token_char_span(row, *tokens)
        assert documents.context_text(row)[start:end] == documents.gold_answers(row)[0]
        found.add(row)
    assert found == {row for row in range(len(documents)) if not documents.is_impossible(row)}


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_cut_document_keeps_a_run_with_its_answer(documents: Documents, most: int) -> None:
    collator = DocumentCollator(layout=documents.layout, memory_tokens=True, max_segments=most, seed=5)
    whole = DocumentCollator(layout=documents.layout, memory_tokens=True)(list(documents))
    seen: dict[int, set[int]] = {}
    for epoch in range(12):
        collator.epoch = epoch
        batch = collator(list(documents))
        assert batch["input_ids"].shape[1] == most
        for row in range(len(documents)):
            count = int(batch["num_segments"][row])
            assert count == min(most, int(whole["num_segments"][row]))
            offsets = batch["segment_offsets"][row, :count].tolist()
            every = whole["segment_offsets"][row].tolist()
            first = every.index(offsets[0])
            assert offsets == every[first : first + count]
            has_answer = (batch["start_positions"][row, :count] < batch["input_ids"].shape[2] - 1).any()
            assert bool(has_answer) != documents.is_impossible(row)
            seen.setdefault(row, set()).add(first)
    assert max(len(starts) for starts in seen.values()) > 1  # the epoch moves the run


def test_the_cut_depends_on_seed_epoch_and_document_alone(documents: Documents) -> None:
    collator = DocumentCollator(layout=documents.layout, memory_tokens=True, seed=5, epoch=3)
    together = collator(list(documents), max_segments=2)
    alone = collator([documents[23]], max_segments=2)
    assert torch.equal(together["segment_offsets"][23], alone["segment_offsets"][0])


def test_a_document_looks_the_same_beside_others(documents: Documents) -> None:
    collator = DocumentCollator(layout=documents.layout, memory_tokens=True)
    alone, together = collator([documents[0]]), collator([documents[23], documents[0]])
    L = alone["input_ids"].shape[2]
    assert torch.equal(together["input_ids"][1, 0, -L:], alone["input_ids"][0, 0])
    assert not together["attention_mask"][1, 1:].any()
    assert not together["attention_mask"][1, 0, :-L].any()


def test_no_segment_is_longer_than_allowed_nor_wastes_memory_slots(documents: Documents, tmp_path: Path) -> None:
    docs = list(documents)
    with_memory = DocumentCollator(layout=documents.layout, memory_tokens=True)(docs)
    without = DocumentCollator(layout=documents.layout, memory_tokens=False)(docs)
    assert with_memory["input_ids"].shape[2] == 48  # some segment is full
    assert torch.equal(with_memory["segment_offsets"], without["segment_offsets"])  # all variants read the same windows
    lengths = with_memory["attention_mask"].sum(-1) - without["attention_mask"].sum(-1)
    assert set(lengths[with_memory["segment_offsets"] >= 0].tolist()) == {2 * M}
