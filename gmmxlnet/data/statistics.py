"""Statistics of a split and of what was dropped from it, for `reports/data.json`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.store import SPLITS, BuiltSplit

EXAMPLES = 20  # question ids listed for each reason; all are counted
NO_TOKEN_SPAN = "answer_is_no_token_span"
NOTICEABLE = 0.01  # warn if this share of a split's answers has no label
FEW_CALIBRATION = 30  # questions: a threshold chosen on fewer is unreliable


class LeftOut:
    """The questions that were dropped for one reason: their number, and the ids of the first."""

    def __init__(self) -> None:
        self.count, self.first_ids = 0, list[str]()

    def add(self, ids: Sequence[str]) -> None:
        """Counts questions, in the order of their file."""
        self.count += len(ids)
        self.first_ids += ids[: EXAMPLES - len(self.first_ids)]


class SplitCounts:
    """Counts of a split: documents, segments, positions of answers, what was truncated or dropped and why."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._num_segments: Counter[int] = Counter()  # number of segments -> documents
        self._by_type: dict[str, Counter[str]] = {}
        self._unlabeled = LeftOut()

    def add(self, built: BuiltSplit, *, num_contexts: int, num_context_tokens: int) -> None:
        """Adds a block of documents, with the number of its contexts and of their tokens that were not added before."""
        documents = Documents(built)
        num_segments_N = documents.num_segments()
        impossible = [not answers for answers in built.texts.answers]
        labeled_N, inside_N = documents.has_label(), documents.label_in_a_segment()
        num_answerable = len(impossible) - sum(impossible)
        self._counts += Counter(
            contexts=num_contexts,
            context_tokens=num_context_tokens,
            question_tokens=len(built.chunks.question_tokens),
            documents=len(documents),
            answerable=num_answerable,
            unanswerable=sum(impossible),
            segments=int(num_segments_N.sum()),
            inside_a_segment=int(inside_N.sum()),
            inside_no_segment=int((labeled_N & ~inside_N).sum()),
            no_token_span=num_answerable - int(labeled_N.sum()),
            cut_questions=built.num_cut_questions,
        )
        self._num_segments.update(num_segments_N.tolist())
        for name, is_impossible, segments in zip(
            built.texts.question_types, impossible, num_segments_N.tolist(), strict=True
        ):
            if name is not None:
                table = self._by_type.setdefault(name, Counter())
                table.update(documents=1, unanswerable=int(is_impossible), segments=segments)
        self._unlabeled.add(built.unlabeled_ids)

    def report(self, left_out: Mapping[str, LeftOut]) -> dict[str, Any]:
        """The entry of `reports/data.json`; `left_out`: the questions that were dropped before, by reason."""
        counts, dropped = self._counts, {**left_out, NO_TOKEN_SPAN: self._unlabeled}
        documents = counts["documents"]
        return {
            "contexts": counts["contexts"],
            "context_tokens": counts["context_tokens"],
            "question_tokens": counts["question_tokens"],
            "documents": documents,
            "answerable": counts["answerable"],
            "unanswerable": counts["unanswerable"],
            "segments": counts["segments"],
            "segments_per_document": {
                "mean": round(counts["segments"] / documents, 4) if documents else None,
                "max": max(self._num_segments, default=0),
                "histogram": {str(value): count for value, count in sorted(self._num_segments.items())},
            },
            "answers": {
                "inside_a_segment": counts["inside_a_segment"],
                "inside_no_segment": counts["inside_no_segment"],  # trained on as unanswerable
                "no_token_span": counts["no_token_span"],  # evaluated, never trained on
            },
            "by_question_type": {
                name: {key: table[key] for key in ("documents", "unanswerable", "segments")}
                for name, table in sorted(self._by_type.items())
            },
            "cut_questions": counts["cut_questions"],
            "left_out": {
                reason: {"documents": questions.count, "first_ids": questions.first_ids}
                for reason, questions in dropped.items()
                if questions.count
            },
        }


def notes(report: Mapping[str, Any]) -> list[str]:
    """Sentences on what was truncated or dropped, by kind and split, from the report of `build_chunks`."""
    said = []
    longest = report["settings"]["max_question_length"]
    for name in SPLITS:
        split = report[name]
        if split["cut_questions"]:
            said.append(
                f"{split['cut_questions']:,} of {split['documents']:,} {name} questions are cut to {longest} tokens "
                "(max_question_length)"
            )
        if split["answers"]["inside_no_segment"]:
            said.append(
                f"{split['answers']['inside_no_segment']:,} of {split['answerable']:,} {name} answers lie whole in no "
                "segment and count as not there; a larger doc_stride or max_seq_length would hold them"
            )
        for reason, questions in split["left_out"].items():
            if reason != NO_TOKEN_SPAN:
                said.append(f"{questions['documents']:,} {name} questions are left out ({reason.replace('_', ' ', 1)})")
    if report["calibration"]["documents"] < FEW_CALIBRATION:
        said.append(
            f"calibration on {report['calibration']['documents']} questions: too few to choose the no-answer threshold "
            "well; raise calibration_fraction, or give more contexts"
        )
    return said


def warnings(report: Mapping[str, Any]) -> list[str]:
    """Warnings for splits that lose a noticeable share of answers to the tokenizer, with cause and remedy."""
    said = []
    for name in SPLITS:
        split = report[name]
        left_out = split["left_out"].get(NO_TOKEN_SPAN, {"documents": 0})["documents"]
        lost, answerable = left_out + split["answers"]["no_token_span"], left_out + split["answerable"]
        if lost and lost >= NOTICEABLE * answerable:
            fate = "are left out of training" if name == "train" else "can be answered by no prediction"
            said.append(
                f"{lost:,} of {answerable:,} {name} answers ({lost / answerable:.0%}) begin or end inside a token, "
                f"which swallows their neighbors, and {fate}; name a tokenizer made for the text's language, or set "
                "tokenizer to scratch, which splits scripts without spaces letter by letter (docs/languages.md)"
            )
    return said
