"""What is measured: texts and their amount. Real paragraphs where `../shared/squad` is there, else the sample's."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import XLNetTokenizerFast

from gmmxlnet.data.segments import SegmentLayout, make_layout
from gmmxlnet.data.squad import Passage, as_passages, read_squad_file
from gmmxlnet.data.tokenizer import load_tokenizer, scratch_tokenizer
from gmmxlnet.windows import ContextKind

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("GMMXLNET_SHARED", ROOT.parent / "shared"))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large: full, or the miniature that a test runs."""

    quick: bool
    repeats: int
    max_length: int
    stride: int
    batch_size: int
    documents: int | None  # questions of the train text that are trained on

    @classmethod
    def of(cls, quick: bool, repeats: int | None = None) -> "Scale":
        """`repeats` overrides how often each run is repeated."""
        if quick:
            return cls(quick=True, repeats=repeats or 2, max_length=64, stride=8, batch_size=2, documents=6)
        return cls(quick=False, repeats=repeats or 7, max_length=384, stride=128, batch_size=8, documents=None)

    def layout(self, tokenizer: XLNetTokenizerFast) -> SegmentLayout:
        """Segments of this length, without memory tokens, for questions of any length."""
        return make_layout(
            tokenizer,
            max_seq_length=self.max_length,
            doc_stride=self.stride,
            memory_num_tokens=0,
            max_question_length=1,
        )


class Texts:
    """SQuAD files and a tokenizer for them."""

    def __init__(self, quick: bool) -> None:
        real = not quick and (SHARED / "squad").is_dir()
        self.name = "SQuAD paragraphs" if real else "the sample"
        folder = SHARED / "squad" if real else ROOT / "data/sample"
        self.train = folder / ("train-v2-style.json" if real else "train.json")
        self.dev = folder / ("dev-v2.0.json" if real else "dev.json")
        self._tokenizer_folder = SHARED / "xlnet-base-cased" if real else None

    @cached_property
    def tokenizer(self) -> XLNetTokenizerFast:
        if self._tokenizer_folder:
            return load_tokenizer(str(self._tokenizer_folder))
        return scratch_tokenizer(passage.text for passage in self.passages("train"))

    def passages(self, split: str, context: ContextKind = "paragraph") -> list[Passage]:
        return as_passages(read_squad_file(getattr(self, split)), context)
