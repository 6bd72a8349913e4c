"""Which checkpoints are converted, and what is said of the others."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel

from gmmxlnet.conversion.families import check_architecture, read_teacher
from gmmxlnet.errors import CheckpointError

BERT = {"model_type": "bert", "hidden_size": 32, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model_type": "roberta"}, "type 'roberta', not 'bert' (its positions begin at an offset"),
        ({"model_type": "xlm-roberta"}, "its positions begin at an offset"),
        ({"model_type": "distilbert"}, "it has no token types"),
        ({"model_type": "mpnet"}, "a bias by distance already"),
        ({"model_type": "electra"}, "may be narrower"),
        ({"model_type": "albert"}, "share their weights"),
        ({"model_type": "deberta-v2"}, "disentangled"),
        ({"model_type": "modernbert"}, "rotary"),
        ({"model_type": "xlnet"}, "it is an XLNet already"),
        ({"model_type": "llama"}, "is of type 'llama', not 'bert'; give"),
        ({"model_type": None}, "is of type None"),
        ({"auto_map": {"AutoModel": "modeling.Own"}}, "code of its own (auto_map)"),
        ({"position_embedding_type": "relative_key_query"}, "position_embedding_type is 'relative_key_query'"),
        ({"position_embedding_type": "alibi"}, "only absolute positions"),
        ({"is_decoder": True}, "is_decoder is true"),
        ({"add_cross_attention": True}, "add_cross_attention is true"),
        ({"hidden_act": "swoosh"}, "hidden_act 'swoosh'"),
        ({"embedding_size": 16}, "embedding_size 16 differs from hidden_size 32"),
        ({"num_attention_heads": 5}, "multiple of num_attention_heads 5"),
        ({"num_attention_heads": 0}, "multiple of num_attention_heads 0"),
        ({"hidden_size": 33, "num_attention_heads": 3}, "hidden_size 33 must be even"),
    ],
)
def test_what_is_no_bert_is_refused_in_one_line(other, message):
    with pytest.raises(CheckpointError) as raised:
        check_architecture({**BERT, **other}, "some/model")
    assert message in str(raised.value)
    assert str(raised.value).startswith("some/model: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("other", [{}, {"hidden_act": "gelu_new"}, {"position_embedding_type": "absolute"}])
def test_the_family_is_let_through(other):
    check_architecture({**BERT, **other}, "some/model")


def test_a_teacher_is_read_with_head_license_and_without_its_path(bert_folder):
    teacher = read_teacher(str(bert_folder))
    assert (teacher.name, teacher.commit, teacher.license) == ("tiny-bert", None, "mit")
    assert teacher.model.dtype == torch.float32
    assert not teacher.model.training
    assert teacher.head(torch.zeros(2, 32)).shape == (2, teacher.config.vocab_size)
    assert teacher.text_type == 1


@pytest.mark.parametrize("pooler", [False, True])
def test_without_head_with_or_without_pooler_in_half_precision(make_bert, bert_folder, tmp_path, pooler):
    folder = tmp_path / "bare"
    shutil.copytree(bert_folder, folder)
    (folder / "README.md").unlink()
    model = BertModel(make_bert().config, add_pooling_layer=pooler)
    model.load_state_dict(make_bert().bert.state_dict(), strict=False)
    model.half().save_pretrained(folder)
    teacher = read_teacher(str(folder))
    assert (teacher.head, teacher.license) == (None, None)
    theirs = make_bert().bert.encoder.layer[2].output.dense.weight
    torch.testing.assert_close(teacher.model.encoder.layer[2].output.dense.weight, theirs, rtol=1e-3, atol=1e-3)


def _without(tensors):
    del tensors["bert.encoder.layer.1.output.dense.bias"]


def _with_nan(tensors):
    tensors["bert.encoder.layer.1.output.dense.bias"][3] = torch.nan


def _of_another_shape(tensors):
    tensors["bert.encoder.layer.1.output.dense.bias"] = torch.zeros(7)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without, "lacks 1 of the encoder's tensors, such as encoder.layer.1.output.dense.bias"),
        (_with_nan, "encoder.layer.1.output.dense.bias holds NaN"),
        (_of_another_shape, "cannot be read as a BERT"),
    ],
)
def test_damaged_weights_are_refused(bert_folder, tmp_path, damage, message):
    folder = tmp_path / "bert"
    shutil.copytree(bert_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _is_refused(folder, message)


def test_a_folder_that_lacks_something_is_refused(bert_folder, tmp_path):
    _is_refused(tmp_path / "nowhere", "cannot be read as a BERT")
    folder = tmp_path / "bert"
    shutil.copytree(bert_folder, folder)
    (folder / "model.safetensors").write_bytes(b"none")
    _is_refused(folder, "cannot be read as a BERT")


def test_a_tokenizer_of_another_model_is_refused(bert_folder, tmp_path):
    folder = tmp_path / "bert"
    shutil.copytree(bert_folder, folder)
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    described["model"]["vocab"]["beyond"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    _is_refused(folder, "its tokenizer has ids up to 5000")


def _is_refused(folder, message):
    with pytest.raises(CheckpointError) as raised:
        read_teacher(str(folder))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
