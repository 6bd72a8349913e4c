"""`ChunkedSquadDataset`: documents as a torch dataset of fixed shapes that any DataLoader can stack.

Chunks are built in memory when the dataset is created; the pipeline stores them in a folder and reads `Documents`.
"""

from typing import Literal

from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from gmmxlnet.data.chunks import build_split
from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.data.documents import Documents
from gmmxlnet.data.segments import make_layout
from gmmxlnet.data.selection import limit_documents
from gmmxlnet.data.sources import Source, Split, read_split
from gmmxlnet.data.squad import as_passages
from gmmxlnet.data.tokenizer import checked_tokenizer, num_memory_slots
from gmmxlnet.windows import ContextKind

_SPLITS: dict[str, Split] = {"train": "train", "validation": "dev"}


class ChunkedSquadDataset(Dataset[dict[str, Tensor]]):
    """Item i is document i as `DocumentCollator` describes it, without the batch dimension: S = `num_segments`,
    L = `max_seq_length`.

    Segments contain memory tokens if the tokenizer has them (`add_memory_tokens`). On "train", a document with more
    than `max_n_segs` segments is cut to a run of that many; on "validation" nothing is cut, and S is that of the
    longest document. `documents` holds the texts, ids and gold answers.
    """

    def __init__(
        self,
        split: Literal["train", "validation"],
        tokenizer: PreTrainedTokenizerFast,
        max_seq_length: int,
        max_n_segs: int,
        dataset: Source = "rajpurkar/squad_v2",
        doc_stride: int = 64,
        *,
        max_question_length: int = 64,
        context: ContextKind = "paragraph",
        max_documents: int | None = None,
        revision: str | None = None,
        seed: int = 0,
    ) -> None:
        num_slots = num_memory_slots(checked_tokenizer(tokenizer, tokenizer.name_or_path))
        layout = make_layout(
            tokenizer,
            max_seq_length=max_seq_length,
            doc_stride=doc_stride,
            memory_num_tokens=num_slots,
            max_question_length=max_question_length,
        )
        passages = as_passages(read_split(dataset, _SPLITS[split], revision), context)
        asked = [(passage, question) for passage in passages for question in passage.questions]
        training = split == "train"
        self.documents = Documents(
            build_split(
                limit_documents(asked, max_documents, seed),
                tokenizer,
                layout,
                max_question_length,
                drop_unlabeled=training,
            )
        )
        longest = int(self.documents.num_segments().max(initial=1))
        self.num_segments = max_n_segs if training else max(max_n_segs, longest)
        self.collator = DocumentCollator(
            layout=layout,
            memory_tokens=num_slots > 0,
            max_segments=max_n_segs if training else None,
            seed=seed,
            num_segments=self.num_segments,
            length=max_seq_length,
        )

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[0] for name, tensor in self.collator([self.documents[index]]).items()}
