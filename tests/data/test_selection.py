"""Splits and limits depend on what is in a document, not on where it stands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmmxlnet.data import selection
from gmmxlnet.data.keyed_hash import keyed_hash
from gmmxlnet.data.selection import Asked, choose, limit_documents
from gmmxlnet.data.squad import Passage, Question


def documents(texts: list[str]) -> list[Asked]:
    questions = [Question(id=f"q{number}", text="?", answers=(), is_impossible=True) for number in range(len(texts))]
    return [(Passage(text, ()), question) for text, question in zip(texts, questions, strict=True)]


def split_calibration(asked: list[Asked], fraction: float, seed: int) -> tuple[list[Asked], list[Asked]]:
    return choose([asked], None, fraction, seed).split(asked)


TEXTS = st.lists(st.sampled_from([f"text {number}" for number in range(30)]), max_size=40)


@given(TEXTS, st.floats(0, 0.99), st.integers(0, 5))
def test_calibration_shares_no_text_with_train(texts: list[str], fraction: float, seed: int) -> None:
    asked = documents(texts)
    train, calibration = split_calibration(asked, fraction, seed)
    assert sorted(train + calibration, key=asked.index) == asked
    train_texts, held_out = {p.text for p, _ in train}, {p.text for p, _ in calibration}
    assert not train_texts & held_out
    if fraction > 0 and len(set(texts)) > 1:
        assert train_texts
        assert held_out
    if fraction == 0 or len(set(texts)) == 1:
        assert not held_out


@given(TEXTS, st.randoms())
def test_the_order_of_documents_plays_no_part(texts: list[str], random) -> None:
    asked = documents(texts)
    shuffled = asked.copy()
    random.shuffle(shuffled)
    for select in (lambda docs: split_calibration(docs, 0.3, 1)[1], lambda docs: limit_documents(docs, 7, 1)):
        assert {q.id for _, q in select(asked)} == {q.id for _, q in select(shuffled)}


def test_a_limit_keeps_so_many_in_their_order_and_grows_by_adding() -> None:
    asked = documents([f"text {number}" for number in range(50)])
    fewer, more = limit_documents(asked, 10, 3), limit_documents(asked, 20, 3)
    assert len(fewer) == 10
    assert fewer == [document for document in more if document in fewer]
    assert limit_documents(asked, None, 3) == limit_documents(asked, 50, 3) == asked
    assert limit_documents(asked, 10, 4) != fewer


@given(TEXTS, st.sampled_from([None, 0, 3, 10, 50]), st.sampled_from([0.0, 0.4]), st.integers(1, 9))
def test_parts_have_the_choice_of_the_whole(texts: list[str], limit: int | None, fraction: float, size: int) -> None:
    asked = documents(texts)
    parts = [asked[first : first + size] for first in range(0, len(asked), size)]
    choice, whole = choose(parts, limit, fraction, 3), choose([asked], limit, fraction, 3)
    assert choice == whole
    assert choice.num_kept == len([question for _, question in asked if choice.keeps(question)])
    train, calibration = zip(*map(choice.split, parts), strict=True) if parts else ((), ())
    assert (sum(train, []), sum(calibration, [])) == whole.split(asked)  # noqa: RUF017
    kept = sorted(asked, key=lambda document: keyed_hash(3, "document", document[1].id))[:limit]
    assert choice.kept_ids == (None if limit is None else {question.id for _, question in kept})
    hashes = sorted({keyed_hash(3, "calibration", passage.text) for passage, _ in kept})
    if fraction and len(hashes) > 1:  # of what is kept, not of all
        held_out = sum(hash_ < fraction * 2**64 for hash_ in hashes)
        assert choice.bound == hashes[min(max(held_out, 1), len(hashes) - 1) - 1]


def test_about_the_fraction_is_held_out() -> None:
    _, calibration = split_calibration(documents([f"text {number}" for number in range(2000)]), 0.1, 13)
    assert 150 < len(calibration) < 250


def test_a_text_is_hashed_twice_however_many_questions_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text {number % 7}" for number in range(100)]  # a hash for each question would read an article 100 times
    hashed: list[str] = []

    def counting(seed: int, *parts: str) -> int:
        hashed.append(parts[-1])
        return keyed_hash(seed, *parts)

    before = split_calibration(documents(texts), 0.4, 13)
    monkeypatch.setattr(selection, "keyed_hash", counting)
    assert split_calibration(documents(texts), 0.4, 13) == before
    assert sorted(hashed) == sorted([*set(texts)] * 2)  # to choose, and to split
    held_out = {text for text in texts if keyed_hash(13, "calibration", text) < 0.4 * 2**64}
    assert {passage.text for passage, _ in before[1]} == held_out
    assert 0 < len(held_out) < 7
