"""A tiny random BERT with a real WordPiece tokenizer, and text for it."""

import re
from collections import Counter

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from gmmxlnet.data.sample import make_sample

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session")
def paragraphs():
    return [article["paragraphs"][0]["context"] for article in make_sample(num_train=120, num_dev=0)["train"]["data"]]


@pytest.fixture(scope="session")
def text_file(paragraphs, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "reports.txt"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def wordpiece(paragraphs):
    """A BERT's tokenizer: lower-cased words of the text, and all of their characters as pieces."""
    words = Counter(re.findall(r"\w+|[^\w\s]", " ".join(paragraphs).lower()))
    letters = sorted({letter for word in words for letter in word} | set("abcdefghijklmnopqrstuvwxyz"))
    pieces = dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *sorted(words)])
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{name}_token": token for name, token in names.items()}
    )


@pytest.fixture(scope="session")
def make_bert(wordpiece):
    """A function to a random BERT whose every weight differs from its neighbor, norms and biases too."""

    def make(seed=0, **other):
        size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
        how = {"max_position_embeddings": 128, "vocab_size": len(wordpiece), "initializer_range": 0.15}
        model = BertForMaskedLM(BertConfig(**{**size, **how, **other})).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in sorted(model.named_parameters()):
                start = 1.0 if "LayerNorm.weight" in name else 0.0
                parameter.copy_(start + 0.15 * torch.randn(parameter.shape, generator=generator))
        return model

    return make


@pytest.fixture(scope="session")
def bert_folder(make_bert, wordpiece, tmp_path_factory):
    """A BERT as the Hub has them: with the head of its masked language model, tokenizer and card. Not to be changed."""
    folder = tmp_path_factory.mktemp("bert") / "tiny-bert"
    make_bert().save_pretrained(folder)
    wordpiece.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Tiny\n", encoding="utf-8")
    return folder
