"""Older kinds of checkpoint: plain XLNet, token memory asked for as gmm, pickled weights; pickles that would run."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple, XLNetLMHeadModel

from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.errors import CheckpointError, GMMXLNetError
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.models.pretrained import read_base
from gmmxlnet.verification import verify

SIZE = {"d_model": 8, "n_head": 2, "n_layer": 2, "d_inner": 12, "initializer_range": 0.3}


def xlnet(cls=XLNetForQuestionAnsweringSimple):
    torch.manual_seed(0)
    return cls(XLNetConfig(vocab_size=40, **SIZE)).eval()


def ours(**memory):
    torch.manual_seed(0)
    return GMMXLNetForQA(GMMXLNetConfig(vocab_size=44, **SIZE, **memory)).eval()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    xlnet().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "plain")


def as_pickle(folder):
    """The weights as older versions of transformers wrote them."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder / "pytorch_model.bin"


def refused(folder, words, **asked):
    with pytest.raises(CheckpointError, match=words) as failure:
        GMMXLNetForQA.from_pretrained(folder, **asked)
    assert "\n" not in str(failure.value)


# A plain XLNet


@pytest.mark.parametrize("asked", [{}, {"memory_type": "none"}, {"memory_type": "standard"}, {"use_gmm_memory": False}])
def test_a_plain_xlnet_loads_without_memory_and_scores_the_same(plain, asked):
    theirs, model = xlnet(), GMMXLNetForQA.from_pretrained(plain, **asked)
    assert model.config.memory_type == "none"
    batch = {"input_ids": torch.randint(9, 40, (3, 17)), "token_type_ids": torch.zeros(3, 17).long()}
    batch["token_type_ids"][:, 9:] = 1
    expected, found = theirs(**batch), model(**batch)
    torch.testing.assert_close(found.start_logits, expected.start_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.end_logits, expected.end_logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("asked", [{"memory_type": "gmm"}, {"use_gmm_memory": True}, {"memory_type": "token"}])
def test_a_memory_that_a_plain_xlnet_has_not_is_refused(plain, asked):
    refused(plain, r"is a plain XLNet without memory, expected .*call .*GMMXLNetForQA\(base_model=", **asked)


def test_it_is_read_as_strictly(folder):
    weights, original = folder / "model.safetensors", load_file(folder / "model.safetensors")
    name = "transformer.layer.1.ff.layer_1.bias"
    changes = {
        f"lacks {name}": {key: x for key, x in original.items() if key != name},
        "holds 'stray', which it has not": {**original, "stray": torch.zeros(1)},
        r"bias has the shape \(3,\), expected \(12,\)": {**original, name: torch.zeros(3)},
        "are torch.float16, torch.float32, expected": {**original, name: original[name].half()},
        "bias holds NaN": {**original, name: original[name] * float("nan")},
        r"without a span head \(qa_outputs\)": {k: x for k, x in original.items() if not k.startswith("qa_")},
        "says 2 layers .* have 1": {k: x for k, x in original.items() if ".layer.1." not in k},
    }
    for words, tensors in changes.items():
        save_file(tensors, weights, metadata={"format": "pt"})
        refused(folder, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_layer": "2"}, "'n_layer' expected int"),
        ({"attn_type": "uni"}, "attn_type must be 'bi'"),
        ({"n_layer": 999}, "says 999 layers"),
        ({"version": "1.0"}, "its model_type is 'xlnet', yet config.json has version '1.0'"),
        ({"id2label": "x"}, "config"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(folder, changes, words):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(folder, words)


def test_a_language_model_has_no_span_head(tmp_path):
    xlnet(XLNetLMHeadModel).save_pretrained(tmp_path)
    refused(tmp_path, r"without a span head .* GMMXLNetForQA\(base_model=")


# Token memory


def test_token_memory_asked_for_as_gmm_is_a_mixture_of_one(tmp_path):
    model = ours(memory_type="token", memory_slots=2)
    model.save_pretrained(tmp_path)
    loaded = GMMXLNetForQA.from_pretrained(tmp_path, memory_type="gmm", num_experts=1)
    assert loaded.config.num_memory_experts == len(loaded.memory_mixture.expert_memories) == 1
    assert torch.equal(loaded.expert_mixture.expert_0, model.expert_mixture.expert_0)
    GMMXLNetForQA.from_pretrained(tmp_path, use_gmm_memory=True)
    refused(tmp_path, r"has 1 experts \(memory_type token\), expected 4", memory_type="gmm", num_experts=4)
    refused(tmp_path, "its memory_type is token, expected none", memory_type="none")


# Pickled weights


@pytest.mark.parametrize("kind", ["plain", "ours"])
def test_pickled_weights_are_read_only_on_request(folder, kind):
    if kind == "ours":
        model = ours(memory_type="gmm", num_memory_experts=2, memory_slots=2)
        model.save_pretrained(folder)
    as_pickle(folder)
    refused(folder, r"holds pytorch_model.bin, expected model.safetensors; .*use_safetensors=False\)")
    loaded = GMMXLNetForQA.from_pretrained(folder, use_safetensors=False)
    expected = model.qa_head.weight if kind == "ours" else xlnet().qa_outputs.weight
    assert torch.equal(loaded.qa_head.weight, expected)
    loaded.save_pretrained(folder)
    GMMXLNetForQA.from_pretrained(folder)


def test_pickled_shards_are_read_on_request(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    half = len(tensors) // 2
    for part, names in zip(parts, (list(tensors)[:half], list(tensors)[half:]), strict=True):
        torch.save({name: tensors[name] for name in names}, folder / part)
    weight_map = {name: parts[n >= half] for n, name in enumerate(tensors)}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(folder, "use_safetensors=False")
    GMMXLNetForQA.from_pretrained(folder, use_safetensors=False)
    (folder / parts[1]).unlink()
    refused(folder, f"{parts[1]}: there is no such file", use_safetensors=False)


@pytest.mark.parametrize("values", [[1, 2], {"a": 3}, {1: torch.zeros(1)}], ids=str)
def test_a_pickle_of_something_else_is_refused(folder, values):
    torch.save(values, as_pickle(folder))
    refused(folder, "holds something else than tensors by name", use_safetensors=False)


def test_pickled_weights_are_checked_as_others(tmp_path):
    ours(memory_type="gmm", num_memory_experts=2, memory_slots=2).save_pretrained(tmp_path)
    path = as_pickle(tmp_path)
    tensors = torch.load(path, weights_only=True)
    for words, changed in {
        "lacks 1 of": {key: x for key, x in tensors.items() if key != "qa_head.bias"},
        "has the shape": {**tensors, "qa_head.bias": torch.zeros(3)},
        "qa_head.bias is F.., expected all": {**tensors, "qa_head.bias": tensors["qa_head.bias"].double()},
        "holds something else than tensors": {**tensors, "qa_head.bias": torch.zeros(2, device="meta")},
        "holds NaN": {**tensors, "qa_head.bias": torch.full((2,), float("nan"))},
        "num_memory_experts 2, but the weights have 3": {**tensors, "expert_mixture.expert_2": torch.zeros(2, 8)},
    }.items():
        torch.save(changed, path)
        refused(tmp_path, words, use_safetensors=False)


# Pickles that would run code


class Tripwire:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def packed(data):
    """As torch.save packs a pickle."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/version", "3\n")
    return archive.getvalue()


PLACES = [
    *("pytorch_model.bin", "model.safetensors", "config.json", "checkpoint.json", "fingerprint.json"),
    *("tokenizer.json", "spiece.model", "training_args.bin", "optimizer.pt", "adapter_model.bin"),
]


@pytest.mark.parametrize("pack", [bytes, packed], ids=["bare", "packed"])
@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_runs_nowhere(place, pack, tmp_path):
    """The tripwire works where it is unpickled on purpose; nothing of ours trips it, whatever file it lies in."""
    ours(memory_type="gmm", num_memory_experts=2, memory_slots=2).save_pretrained(tmp_path / "model")
    wire = tmp_path / "tripped"
    data = pickle.dumps({"qa_head.bias": Tripwire(wire)}, protocol=2)
    pickle.loads(data)
    wire.unlink()
    (tmp_path / "model" / place).write_bytes(pack(data))
    readers = [
        lambda: GMMXLNetForQA.from_pretrained(tmp_path / "model"),
        lambda: GMMXLNetForQA.from_pretrained(tmp_path / "model", use_safetensors=False),
        lambda: load_tokenizer(str(tmp_path / "model")),
        lambda: verify(tmp_path / "model", "structure"),
    ]
    for read in readers:
        try:
            read()
        except GMMXLNetError:
            continue
        finally:
            assert not wire.exists()


@pytest.mark.parametrize("pack", [bytes, packed], ids=["bare", "packed"])
@pytest.mark.parametrize("place", ["pytorch_model.bin", "model.safetensors", "config.json"])
def test_a_pickle_in_a_base_model_does_not_run(place, pack, tmp_path):
    xlnet().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    wire = tmp_path / "tripped"
    (tmp_path / place).write_bytes(pack(pickle.dumps({"transformer.mask_emb": Tripwire(wire)}, protocol=2)))
    with pytest.raises(CheckpointError, match="cannot be read") as refusal:
        read_base(str(tmp_path), None)
    assert "\n" not in str(refusal.value)
    assert not wire.exists()
