"""Convert a BERT's tokenizer: the same vocabulary, special tokens renamed, padding on the left.

Its ids stay, so the embeddings need no change; a pair becomes `A <sep> B <sep> <cls>` with segment ids 0, 1 and 2 as
XLNet's. It loads by `AutoTokenizer`, not by `XLNetTokenizerFast`, whose model has to be Unigram.
"""

import json
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gmmxlnet.conversion.families import SPECIAL_TOKENS
from gmmxlnet.data.collator import CLS_TYPE, CONTEXT_TYPE, QUESTION_TYPE
from gmmxlnet.errors import DataError


def renamed_tokenizer(tokenizer: PreTrainedTokenizerBase, longest: int) -> PreTrainedTokenizerFast:
    """The tokenizer with `<pad> <unk> <cls> <sep> <mask>`; WordPiece, BPE or Unigram.

    Args:
        longest: tokens that its model was made for, `model_max_length`.

    Raises DataError if one of these names is already used by another token.
    """
    names = {getattr(tokenizer, f"{name}_token"): f"<{name}>" for name in SPECIAL_TOKENS}
    vocabulary = tokenizer.get_vocab()
    for old, new in names.items():
        if new in vocabulary and vocabulary[new] != vocabulary[old]:
            raise DataError(f"tokenizer: {new} is another token already than {old}; it cannot be renamed")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state |= {"truncation": None, "padding": None, "post_processor": _template(tokenizer)}
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = state["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        **{f"{name}_token": f"<{name}>" for name in SPECIAL_TOKENS},
        padding_side="left",
        model_max_length=longest,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _template(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The post-processor that puts special tokens where XLNet has them."""

    def special(name: str, type_id: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": f"<{name}>", "type_id": type_id}}

    def sequence(name: str, type_id: int) -> list[dict[str, Any]]:
        return [{"Sequence": {"id": name, "type_id": type_id}}, special("sep", type_id)]

    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("sep", "cls")}
    first, cls = sequence("A", CONTEXT_TYPE), special("cls", CLS_TYPE)
    return {
        "type": "TemplateProcessing",
        "single": [*first, cls],
        "pair": [*first, *sequence("B", QUESTION_TYPE), cls],
        "special_tokens": {
            f"<{name}>": {"id": f"<{name}>", "ids": [i], "tokens": [f"<{name}>"]} for name, i in ids.items()
        },
    }
