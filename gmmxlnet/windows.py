"""How documents are cut: what a document is, and how many of its tokens a segment has room for.

    window = max_seq_length - question - 2m - 3      (m slots for read and write tokens each, reserved for every memory)

Consecutive windows share `doc_stride` tokens, so a window must exceed it. Nothing here needs NumPy or torch: whatever
subtracts will do, an integer as well as an array of one question length a document.
"""

from typing import Any, Literal

from gmmxlnet.errors import ConfigError

ContextKind = Literal["paragraph", "article"]  # what a document is: a paragraph, or all paragraphs of an article
NUM_SPECIAL_TOKENS = 3  # two <sep> and <cls>


def context_window(max_seq_length: int, question_length: Any, memory_num_tokens: int) -> Any:
    """Context tokens that fit into a segment beside a question, or beside each of an array of questions."""
    return max_seq_length - question_length - 2 * memory_num_tokens - NUM_SPECIAL_TOKENS


def check_window(max_seq_length: int, max_question_length: int, memory_num_tokens: int, doc_stride: int) -> None:
    """Raise ConfigError unless the longest question leaves room for more context than segments share."""
    window = context_window(max_seq_length, max_question_length, memory_num_tokens)
    if window <= doc_stride:
        raise ConfigError(
            f"max_seq_length {max_seq_length} is too small: beside max_question_length {max_question_length}, "
            f"2 x memory_num_tokens {memory_num_tokens} and {NUM_SPECIAL_TOKENS} special tokens it leaves "
            f"{max(window, 0)} tokens of context a segment, which must exceed doc_stride {doc_stride}; "
            f"give it {max_seq_length - window + doc_stride + 1} or more"
        )
