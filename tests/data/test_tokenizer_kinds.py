"""Any fast tokenizer with `<unk> <sep> <pad> <cls>` that pads left can be used, from the chunks to the Hub."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerFast

from gmmxlnet.cli import main
from gmmxlnet.data.chunks import ChunkSettings, build_chunks
from gmmxlnet.data.documents import Documents
from gmmxlnet.data.tokenizer import (
    add_memory_tokens,
    base_vocabulary_size,
    encode_texts,
    encode_whole,
    load_tokenizer,
    num_memory_slots,
)
from gmmxlnet.data.word_encoding import encode_by_words, encodes_words_alone
from gmmxlnet.errors import DataError
from gmmxlnet.evaluation.evaluator import QAEvaluator
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.models.checkpoint import seal
from gmmxlnet.sharing.model_card import model_card
from gmmxlnet.sharing.publish import publish_model
from gmmxlnet.verification import verify
from gmmxlnet.verification.fingerprint import Fingerprint
from tests.conftest import SLOTS, report
from tests.data.test_word_encoding import ODD
from tests.tokenizer_kinds import KINDS, SPECIAL, make_tokenizer

ARTICLES = [report(f"r{number}", number) for number in range(6)]
TEXTS = [article["paragraphs"][0]["context"] for article in ARTICLES] + ["Zoë's café — “naïve”; 2½ résumés!"]
SAMPLE = json.loads((Path(__file__).parents[2] / "data/sample/dev.json").read_text(encoding="utf-8"))["data"][:60]
CORPUS = [*TEXTS, *(p["context"] for article in SAMPLE for p in article["paragraphs"])]
CORPUS += [question["question"] for a in ARTICLES for question in a["paragraphs"][0]["qas"]]
FAST = ("wordpiece", "bpe of words")


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a tokenizer of the kind is saved."""
    path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(kind, CORPUS).save_pretrained(path)
    return path


def test_it_loads_as_it_was_saved_and_takes_memory_tokens(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    vocabulary = dict(tokenizer.get_vocab())
    V = base_vocabulary_size(tokenizer)
    assert V == len(vocabulary) == len(tokenizer) == max(vocabulary.values()) + 1
    add_memory_tokens(tokenizer, 3)
    names = ["[MEM_READ_0]", "[MEM_READ_1]", "[MEM_READ_2]", "[MEM_WRITE_0]", "[MEM_WRITE_1]", "[MEM_WRITE_2]"]
    assert [tokenizer.get_vocab()[name] for name in names] == list(range(V, V + 6))
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again.get_vocab() == tokenizer.get_vocab()
    assert (base_vocabulary_size(again), num_memory_slots(again)) == (V, 3)
    for text in TEXTS:
        assert (
            encode_texts(again, [text]).ids.tolist() == encode_texts(load_tokenizer(str(folder)), [text]).ids.tolist()
        )


def test_texts_cannot_forge_special_or_memory_tokens(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    add_memory_tokens(tokenizer, 1)
    text = "The <sep> flag<cls> is <pad>red [MEM_READ_0] today [MEM_WRITE_0]<SEP>"
    ids = set(encode_texts(tokenizer, [text]).ids.tolist())
    assert not ids & (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})


MARKED = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("ab .,-\n\u0301é½"), max_size=30)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(MARKED, max_size=5))
def test_tokens_stand_for_visible_characters_in_order(folder: Path, texts: list[str]) -> None:
    tokens = encode_texts(load_cached(folder), texts)
    for number, text in enumerate(texts):
        chars = tokens.chars[tokens.rows[number] : tokens.rows[number + 1]]
        assert (np.diff(chars, axis=0) >= 0).all()
        for start, end in chars.tolist():
            assert 0 <= start < end <= len(text) or not text.strip()
            assert not text.strip() or (text[start].strip() and text[start:end].strip())


_LOADED: dict[Path, PreTrainedTokenizerFast] = {}


def load_cached(folder: Path) -> PreTrainedTokenizerFast:
    return _LOADED.setdefault(folder, load_tokenizer(str(folder)))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.one_of(MARKED, st.sampled_from([*ODD, *TEXTS])), max_size=8))
def test_the_fast_path_is_exact_or_switched_off(folder: Path, kind: str, texts: list[str]) -> None:
    backend = load_cached(folder).backend_tokenizer
    assert encodes_words_alone(backend, texts) == (kind in FAST)
    if kind in FAST:
        for expected, got in zip(encode_whole(backend, texts), encode_by_words(backend, texts), strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.fixture(scope="module")
def chunks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chunks of the reports, made with the tokenizer."""
    workspace = tmp_path_factory.mktemp("chunks")
    for split in ("train", "dev"):
        (workspace / f"{split}.json").write_text(json.dumps({"data": ARTICLES}), encoding="utf-8")
    settings = ChunkSettings(
        dataset=str(workspace),
        tokenizer=str(folder),
        max_seq_length=72,
        doc_stride=16,
        memory_num_tokens=SLOTS,
        max_question_length=24,
        calibration_fraction=0.2,
        seed=0,
    )
    report = build_chunks(settings, workspace / "chunks")
    assert report["dev"]["answers"]["no_token_span"] == 0
    assert "answer_is_no_token_span" not in report["train"]["left_out"]
    return workspace / "chunks"


def test_labels_decode_to_the_answers(chunks: Path) -> None:
    documents = Documents.open(chunks, "dev")
    assert documents.num_segments().max() > 1
    for index, document in enumerate(documents):
        if document.label is not None:
            start, end = documents.token_char_span(index, *document.label)
            assert documents.context_text(index)[start:end].rstrip(".") == documents.gold_answers(index)[0]


@pytest.fixture(scope="module")
def checkpoint(chunks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model for these chunks, as the train stage leaves it."""
    layout, tokenizer = Documents.open(chunks, "dev").layout, load_tokenizer(str(chunks / "tokenizer"))
    torch.manual_seed(0)
    config = GMMXLNetConfig(
        vocab_size=layout.vocab_size + 2 * SLOTS,
        **{"d_model": 16, "n_head": 2, "n_layer": 1, "d_inner": 32, "initializer_range": 0.5, "dropout": 0.0},
        sep_token_id=layout.sep_id,
        memory_type="gmm",
        num_memory_experts=2,
        memory_slots=SLOTS,
    )
    path = tmp_path_factory.mktemp("checkpoint")
    model = GMMXLNetForQA(config).eval()
    model.config.segment_layout = layout.lengths()
    model.save_pretrained(path)
    add_memory_tokens(tokenizer, SLOTS)
    tokenizer.save_pretrained(path)
    Fingerprint.of(model).write(path)
    seal(path)
    return path


def test_evaluation_answers_and_the_shell_agree(chunks: Path, checkpoint: Path, tmp_path: Path, capsys) -> None:
    documents = Documents.open(chunks, "dev")
    model = GMMXLNetForQA.from_pretrained(checkpoint)
    predictions = QAEvaluator(model, load_tokenizer(str(chunks / "tokenizer"))).predict(documents)
    question, text = documents.question_text(0), documents.context_text(0)
    assert model.answer(question, text, threshold=1e9).text == predictions.best_texts[0] != ""
    for entries in predictions.n_best_by_id().values():
        assert all(entry["text"].strip() for entry in entries if entry["char_start"] is not None)
    (tmp_path / "report.txt").write_text(text, encoding="utf-8")
    options = ["--document", str(tmp_path / "report.txt"), "--question", question, "--threshold", "1e9", "--json"]
    assert main(["answer", "--model", str(checkpoint), *options]) == 0
    assert json.loads(capsys.readouterr().out)[0]["text"] == predictions.best_texts[0]


def test_verification_passes(checkpoint: Path) -> None:
    found = verify(checkpoint, "structure")
    assert found.passed, found.failures


def test_it_goes_to_the_hub_and_answers_from_there(hub, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    card = model_card("me/model", config, name="gmm-k2-write", metrics=None, dataset="squad")
    publish_model(checkpoint, "me/model", card=card, message="a model", tags=["gmm-k2-write"])
    here, there = (
        GMMXLNetForQA.from_pretrained(name).answer("Who?", TEXTS[0], threshold=1e9) for name in (checkpoint, "me/model")
    )
    assert here == there
    assert load_tokenizer("me/model").get_vocab() == load_tokenizer(str(checkpoint)).get_vocab()


def edit(folder: Path, name: str, change) -> None:
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    change(content)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"padding_side": "right"}, 'pads on the right.*set "padding_side": "left"'),
        ({"sep_token": "the"}, 'its sep_token is the, though it has <sep>; set "sep_token": "<sep>"'),
        ({"cls_token": None}, 'its cls_token is None, though it has <cls>; set "cls_token": "<cls>"'),
    ],
)
def test_what_it_lacks_is_named(folder: Path, tmp_path: Path, change: dict, words: str) -> None:
    load_tokenizer(str(folder)).save_pretrained(tmp_path)
    edit(tmp_path, "tokenizer_config.json", lambda content: content.update(change))
    with pytest.raises(DataError, match=words):
        load_tokenizer(str(tmp_path))


def test_berts_own_names_are_refused_with_the_remedy(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(120))]
    BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"has no <unk>, <sep>, <pad>, <cls>; it has \[UNK\], \[SEP\], .*: rename them"):
        load_tokenizer(str(tmp_path))


def test_ids_with_holes_are_refused(tmp_path: Path) -> None:
    make_tokenizer("wordpiece", CORPUS).save_pretrained(tmp_path)

    def move(content: dict) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary[max(vocabulary, key=vocabulary.get)] = 5_000

    edit(tmp_path, "tokenizer.json", move)
    with pytest.raises(DataError, match=r"ids up to 5,000; give every id"):
        load_tokenizer(str(tmp_path))


def test_a_file_that_would_cost_gigabytes_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as stream:
        stream.truncate(65 * 2**20)
    with pytest.raises(DataError, match="68,157,440 bytes, and no tokenizer needs more"):
        load_tokenizer(str(tmp_path))


EVIL = {"\x1b]0;pwned\x07": True}
TOKEN = {"content": "<unk>", "lstrip": False}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tokenizer_config.json", {"unk_token": {"__type": "AddedToken", **TOKEN, **EVIL}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"0": EVIL}}),
        ("tokenizer_config.json", {"extra_special_tokens": [{**TOKEN, **EVIL}]}),
        ("special_tokens_map.json", {"unk_token": {**TOKEN, **EVIL}}),
        ("special_tokens_map.json", {"additional_special_tokens": [EVIL]}),
    ],
)
def test_keys_of_a_token_never_reach_the_terminal(tmp_path: Path, capfd, name: str, settings: dict) -> None:
    """The Rust code of tokenizers prints unknown ones to standard output as they are, among the answers."""
    make_tokenizer("wordpiece", CORPUS).save_pretrained(tmp_path)
    path = tmp_path / name
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(found | settings), encoding="utf-8")
    with pytest.raises(DataError, match=r"a token has the unknown key '.*x1b]0;pwned.*x07'; delete it") as caught:
        load_tokenizer(str(tmp_path))
    assert str(caught.value).isprintable()
    assert "pwned" not in "".join(capfd.readouterr())


def test_the_wordpiece_of_a_bert_with_its_tokens_renamed(shared_folder: Path, tmp_path: Path) -> None:
    """As a converted BERT has it; offsets point into the text as it is, although it reads lower case."""
    if not (shared_folder / "minilm").is_dir():
        pytest.skip("needs shared/minilm")
    raw = (shared_folder / "minilm" / "tokenizer.json").read_text(encoding="utf-8")
    for name in ("PAD", "UNK", "CLS", "SEP", "MASK"):
        raw = raw.replace(f"[{name}]", f"<{name.lower()}>")
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(raw), padding_side="left", mask_token="<mask>", **SPECIAL
    ).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(tmp_path)) == 30_522
    text = "Zoë's CAFÉ in Besançon " * 40  # beyond the 128 tokens at which its file would cut
    tokens = encode_texts(tokenizer, [text])
    assert [text[start:end] for start, end in tokens.chars[:5].tolist()] == ["Zoë", "'", "s", "CAFÉ", "in"]
    assert len(tokens.ids) > 240
    assert encodes_words_alone(tokenizer.backend_tokenizer, [text])
