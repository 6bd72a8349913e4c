"""A checkpoint is loaded as it was saved, or refused in a line that says what is wrong."""

import json
import resource
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForQuestionAnswering, BertConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.errors import CheckpointError, ConfigError, GMMXLNetError
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.models.checkpoint import MANIFEST, seal

SIZE = {"d_model": 8, "n_head": 2, "n_layer": 2, "d_inner": 8, "initializer_range": 0.3, "vocab_size": 40}
GMM = {"memory_type": "gmm", "num_memory_experts": 3, "memory_slots": 2}
INDEX = "model.safetensors.index.json"


def model_of(**other):
    torch.manual_seed(0)
    return GMMXLNetForQA(GMMXLNetConfig(**{**SIZE, **GMM, **other})).eval()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A checkpoint in one file and in shards."""
    root = tmp_path_factory.mktemp("pristine")
    for name, size in (("single", "5GB"), ("shards", "2KB")):
        model_of().save_pretrained(root / name, max_shard_size=size)
    return root


@pytest.fixture
def folder(pristine, tmp_path):
    return shutil.copytree(pristine / "single", tmp_path / "checkpoint")


@pytest.fixture
def shards(pristine, tmp_path):
    return shutil.copytree(pristine / "shards", tmp_path / "checkpoint")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def refused(folder, words, cls=GMMXLNetForQA, **asked):
    with pytest.raises(CheckpointError, match=words) as failure:
        cls.from_pretrained(folder, **asked)
    assert "\n" not in str(failure.value)
    assert str(folder) in str(failure.value)


# Tensors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("qa_head.bias"), r"lacks 1 of \d+ tensors, such as qa_head.bias; expected .* 3 experts"),
        (lambda t: t.pop("encoder.word_embedding.weight"), "lacks 1 of .* encoder.word_embedding.weight"),
        (lambda t: t.update(stray=torch.zeros(2)), "holds 1 tensors that the model has not, such as 'stray'"),
        (lambda t: t.update({"qa_head.weight": torch.zeros(8, 2)}), r"has the shape \(8, 2\), expected \(2, 8\)"),
        (lambda t: t.update({"qa_head.bias": t["qa_head.bias"].half()}), "is F.., expected all tensors in one of F32"),
        (lambda t: t.update({"qa_head.bias": t["qa_head.bias"].int()}), "expected all tensors in one of F32"),
        (lambda t: t.update({k: x.half() for k, x in t.items()}), "are torch.float16, .* says dtype torch.float32"),
        (lambda t: t["qa_head.bias"].add_(1), "model.safetensors: altered"),
        (lambda t: t.pop("expert_mixture.expert_2"), "says num_memory_experts 3, but the weights have 2"),
    ],
    ids=["missing", "no words", "stray", "shape", "dtype", "integers", "all dtypes", "altered", "an expert less"],
)
def test_tensors_other_than_the_models_are_refused(folder, change, words):
    edit_tensors(folder, change)
    refused(folder, words)
    refused(folder, words, AutoModelForQuestionAnswering)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_nan_is_loaded_even_under_hashes_that_fit(folder, value):
    edit_tensors(folder, lambda t: t["qa_head.bias"].fill_(value))
    with pytest.raises(CheckpointError, match=r"qa_head\.bias holds NaN or infinity"):
        GMMXLNetForQA.adopt(folder)


def test_no_nan_is_saved(tmp_path):
    model = model_of()
    model.qa_head.bias.data[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"qa_head\.bias holds NaN or infinity.* lower learning_rate"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_model_of_several_dtypes_is_not_saved(tmp_path):
    model = model_of()
    model.qa_head.half()
    with pytest.raises(CheckpointError, match=r"torch.float16, torch.float32; cast them to one .* model.to\(dtype\)"):
        model.save_pretrained(tmp_path)


def test_only_the_models_own_tensors_are_saved(tmp_path):
    model = model_of()
    state = model.state_dict()
    other = {name: tensor + 1 for name, tensor in state.items()}
    model.save_pretrained(tmp_path, state_dict=other)
    loaded = GMMXLNetForQA.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], other[name]) for name in state)
    with pytest.raises(CheckpointError, match="lacks 1 of"):
        model.save_pretrained(tmp_path, state_dict={k: x for k, x in state.items() if k != "qa_head.bias"})
    model.save_pretrained(tmp_path / "other process", is_main_process=False)
    assert not (tmp_path / "other process").exists()


def test_shared_tensors_are_saved_once_and_shared_again(tmp_path):
    model = model_of()
    model.expert_updater.gate_networks[1] = model.expert_updater.gate_networks[0]
    model.expert_mixture.expert_2 = model.expert_mixture.expert_0
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert {"expert_mixture.expert_2", "expert_updater.gate_networks.1.weight"}.isdisjoint(names)
    loaded = GMMXLNetForQA.from_pretrained(tmp_path)
    assert loaded.expert_mixture.expert_2 is loaded.expert_mixture.expert_0
    assert loaded.expert_updater.gate_networks[1].weight is loaded.expert_updater.gate_networks[0].weight
    own = model.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in loaded.state_dict().items())


def test_views_of_one_tensor_are_saved_as_tensors_of_their_own(tmp_path):
    model = model_of()
    both = torch.randn(2, 2, 8)
    model.expert_mixture.expert_0.data, model.expert_mixture.expert_1.data = both[0], both[1]
    model.qa_head.weight.data = torch.randn(8, 2).T
    model.save_pretrained(tmp_path)
    loaded = GMMXLNetForQA.from_pretrained(tmp_path)
    assert torch.equal(loaded.expert_mixture.expert_1, both[1])
    assert torch.equal(loaded.qa_head.weight, model.qa_head.weight)


# Files


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.json", "config.json: there is no such file"),
        ("model.safetensors", "holds no weights, expected model.safetensors"),
        (MANIFEST, "checkpoint.json: there is no such file; without it .*adopt"),
    ],
)
def test_a_missing_file_is_named(folder, name, words):
    (folder / name).unlink()
    refused(folder, words)


@pytest.mark.parametrize("part", [0, 1, 7, 9, 500, -1])
def test_truncated_weights_are_refused(folder, part):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:part])
    refused(folder, r"model.safetensors: cannot be read \(.*\); get the checkpoint again")


def test_shards_are_complete_and_no_more(shards):
    names = sorted(path.name for path in shards.glob("model-*"))
    moved = (shards / names[1]).rename(shards / "elsewhere")
    refused(shards, f"lacks {names[1]}, which {INDEX} names")
    moved.rename(shards / names[1])
    (shards / "model-00001-of-00099.safetensors").write_bytes((shards / names[0]).read_bytes())
    refused(shards, f"holds model-00001-of-00099.safetensors, which {INDEX} does not name")
    (shards / "model-00001-of-00099.safetensors").rename(shards / "model.safetensors")
    refused(shards, f"holds model.safetensors and, besides, {INDEX}; .* remove one")
    (shards / "model.safetensors").unlink()
    (shards / INDEX).unlink()
    refused(shards, f"holds shards such as {names[0]}, but no {INDEX}")


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "must be an object with keys"),
        ('{"weight_map": {}}', "its weight_map must lead"),
        ('{"weight_map": {"a": "../../other.safetensors"}}', "its weight_map must lead"),
        ('{"weight_map": {"a": 3}}', "its weight_map must lead"),
        ('{"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}', "lacks pytorch_model-00001-of-00002.bin"),
    ],
)
def test_a_damaged_index_is_refused(shards, index, words):
    (shards / INDEX).write_text(index)
    refused(shards, words)


def test_an_index_that_does_not_fit_its_shards_is_refused(shards):
    index = json.loads((shards / INDEX).read_text())
    name = "qa_head.bias"
    other = next(file for file in index["weight_map"].values() if file != index["weight_map"][name])
    right = index["weight_map"][name]
    index["weight_map"][name] = other
    (shards / INDEX).write_text(json.dumps(index))
    refused(shards, f"says that {name} lies in {other}, but it lies in {right}")


def test_a_tensor_in_two_shards_is_refused(shards):
    first, second = sorted(shards.glob("model-*.safetensors"))[:2]
    save_file(load_file(first) | load_file(second), second, metadata={"format": "pt"})
    refused(shards, "which model-00001-of-.* holds too")


def test_saving_again_leaves_no_shard_of_before(shards):
    model_of().save_pretrained(shards)
    assert sorted(path.name for path in shards.iterdir()) == [MANIFEST, "config.json", "model.safetensors"]
    GMMXLNetForQA.from_pretrained(shards)


def test_weights_and_settings_of_different_checkpoints_are_refused(folder, tmp_path):
    model_of(num_memory_experts=4).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    refused(folder, "says num_memory_experts 3, but the weights have 4; .* get both from one")
    model_of(initializer_range=0.5).save_pretrained(tmp_path / "like")
    shutil.copy(tmp_path / "like" / "model.safetensors", folder)
    refused(folder, "model.safetensors: altered")


def test_folders_that_are_none_are_refused(tmp_path):
    refused(tmp_path / "none" / "of" / "these", "no such folder, and not a Hub id")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "is a file, expected the folder")
    with pytest.raises(CheckpointError, match="is a file, expected a folder to save into"):
        model_of().save_pretrained(tmp_path / "file")


def test_an_unwritable_folder_is_an_error_in_a_line(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot be written \(Is a directory\)"):
        model_of().save_pretrained(tmp_path)


@pytest.mark.parametrize("max_shard_size", ["5GB", "4KB"])
def test_a_full_disk_is_an_error_in_a_line_and_leaves_the_last_checkpoint(folder, max_shard_size):
    """A limit on the size of files stands for the disk."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"checkpoint: cannot be written \(.*\); make room") as failure:
            model_of(initializer_range=0.5).save_pretrained(folder, max_shard_size=max_shard_size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(failure.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_offline_a_hub_id_that_is_not_cached_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="nobody/nothing at v1: neither a folder here nor a repository"):
        GMMXLNetForQA.from_pretrained("nobody/nothing", revision="v1", local_files_only=True, cache_dir=tmp_path)


# Settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "1.1"}, "version 1.1 of the format is newer than 1.0, .* install a newer one"),
        ({"version": "2.0"}, "version 2.0 of the format is newer"),
        ({"version": "x"}, "version must be a format's number"),
        ({"version": 1}, "version must be a format's number such as 1.0, not 1"),
        ({"memory_type": "lstm"}, "memory_type must be none, mems, words, token, differentiable or gmm, not 'lstm'"),
        (
            {"num_memory_experts": 2, "num_experts": 2, "expert_init_strategies": None},
            "experts 2, but the weights have 3",
        ),
        ({"vocab_size": 41}, "says vocab_size 41, but the weights have 40"),
        ({"n_layer": 999}, "says n_layer 999, but the weights have 2"),
        ({"n_layer": 10**12}, r"n_layer must be an integer in \[1, "),
        ({"d_inner": "8"}, "'d_inner' expected int, got str"),
        ({"n_head": 0}, "n_head must be an integer in .1, 65536., not 0"),
        ({"ff_activation": "nothing"}, "ff_activation must be gelu, "),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps must be a number in .0, 1., not -1.0"),
        ({"architectures": []}, "config.json: "),
        ({"dtype": "bogus"}, "config.json: config: .*bogus"),
        ({"dtype": "float16"}, "the tensors are torch.float32, .* says dtype torch.float16"),
        ({"attn_type": "uni"}, "attn_type must be 'bi'"),
        ({"routing_mode": "read-based"}, r"lacks 2 of \d+ tensors, such as memory_reader.read_gating_network"),
        ({"routing_temperature": 2.0}, "routing_temperature is '2.0', but was saved as 1.0.*adopt"),
        ({"dropout": 0}, "dropout is '0', but was saved as 0.1"),
        ({"unknown": 1}, "unknown is '1', but was not saved"),
        ({"model_type": "lstm"}, "is of model_type 'lstm', expected 'gmmxlnet', or 'xlnet'"),
        ({"model_type": "xlnet"}, "its model_type is 'xlnet', yet config.json has memory_type 'gmm'"),
        ({"model_type": None}, "is of model_type 'None'"),
    ],
    ids=str,
)
def test_settings_other_than_the_saved_ones_are_refused(folder, changes, words):
    edit_config(folder, **changes)
    refused(folder, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "config.json: cannot be read"),
        ("[]", "must be an object with keys and values, not a list"),
        ("null", "must be an object"),
        ("\udcff", "cannot be read"),
        ('{"dropout": NaN}', "holds NaN, which JSON does not know"),
        ('{"dropout": 1e999}', "holds 1e999, which is beyond all numbers"),
        ('{"memory_type": "\\ud800"}', "surrogates not allowed"),
        ('{"dropout": 1, "dropout": 2}', "gives 'dropout' twice"),
        ("[" * 100_000, "is nested too deeply"),
        ("1" * 5_000, "cannot be read"),
    ],
    ids=["empty", "list", "null", "not UTF-8", "NaN", "infinite", "half", "twice", "deep", "digits"],
)
def test_a_config_that_is_no_json_is_refused(folder, text, words):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(folder, words)


def test_a_left_out_setting_must_mean_what_was_saved(folder):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in values.items() if key != "span_loss"}))
    GMMXLNetForQA.from_pretrained(folder)
    path.write_text(json.dumps({key: value for key, value in values.items() if key != "initializer_range"}))
    refused(folder, "initializer_range is left out, which means 0.02, but was saved as 0.3")


@pytest.mark.parametrize("memory_type", [None, "standard"])
def test_without_memory_type_a_model_without_memory_is_itself(tmp_path, memory_type):
    model = model_of(memory_type="none")
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["memory_type"]
    (tmp_path / "config.json").write_text(json.dumps(values | ({"memory_type": memory_type} if memory_type else {})))
    loaded = GMMXLNetForQA.from_pretrained(tmp_path)
    assert loaded.config.memory_type == "none"
    assert torch.equal(loaded.qa_head.weight, model.qa_head.weight)


def test_auto_classes_refuse_what_is_impossible_too(folder):
    edit_config(folder, version="9.0")
    for cls in (AutoConfig, AutoModelForQuestionAnswering):
        with pytest.raises(CheckpointError, match=r"version 9\.0 of the format is newer"):
            cls.from_pretrained(folder)


def test_a_class_of_transformers_refuses_and_says_what_to_call(folder):
    with pytest.raises(Exception, match=r"a gmmxlnet checkpoint: load it with gmmxlnet.models.GMMXLNetForQA"):
        XLNetForQuestionAnsweringSimple.from_pretrained(folder)


def test_another_kind_of_model_is_refused(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    refused(tmp_path, "is of model_type 'bert', expected 'gmmxlnet'.*AutoModelForQuestionAnswering")


# The manifest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v["made_with"].update(torch="1.0"), "altered"),
        (lambda v: v.update(format="x"), "is not a manifest"),
        (lambda v: v.pop("sha256"), "altered"),
    ],
)
def test_an_altered_manifest_is_refused(folder, change, words):
    values = json.loads((folder / MANIFEST).read_text())
    change(values)
    (folder / MANIFEST).write_text(json.dumps(values))
    refused(folder, f"checkpoint.json: .*{words}")


@pytest.mark.parametrize("text", ["", "[]", "3", "{"])
def test_a_damaged_manifest_is_refused(folder, text):
    (folder / MANIFEST).write_text(text)
    refused(folder, "checkpoint.json: ")


def test_the_manifest_says_what_made_the_checkpoint(folder):
    values = json.loads((folder / MANIFEST).read_text())
    assert set(values["made_with"]) == {"gmmxlnet", "torch", "transformers", "safetensors", "python"}
    assert values["made_with"]["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"  # no patch version
    assert values["version"] == "1.0"
    assert values["tensors"]["expert_mixture.expert_0"]["shape"] == [2, 8]
    assert values["config"]["num_experts"] == 3


def test_sealed_files_are_checked_and_the_model_card_is_free(folder):
    for name in ("tokenizer.json", "sub/more.json", "README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    GMMXLNetForQA.from_pretrained(folder)
    seal(folder)
    (folder / "README.md").write_text("# A card")
    GMMXLNetForQA.from_pretrained(folder)
    (folder / "sub" / "more.json").write_text("[]")
    refused(folder, "more.json: altered")
    with pytest.raises(CheckpointError, match="altered"):
        seal(folder)
    (folder / "sub" / "more.json").write_text("[1]")
    refused(folder, "more.json: has 3 bytes, 2 were saved")
    (folder / "sub" / "more.json").unlink()
    refused(folder, "more.json: is missing, but was saved")
    (folder / "sub" / "more.json").mkdir()
    refused(folder, "more.json: ")


def test_what_was_edited_on_purpose_can_be_adopted(folder):
    edit_config(folder, routing_temperature=2.0)
    GMMXLNetForQA.adopt(folder)
    assert GMMXLNetForQA.from_pretrained(folder).config.routing_temperature == 2
    edit_config(folder, routing_mode="read-based")
    with pytest.raises(CheckpointError, match="lacks 2 of"):
        GMMXLNetForQA.adopt(folder)


# What is asked for


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"num_experts": 8}, "has 3 experts .*, expected 8; call GMMXLNetForQA.from_pretrained without num_experts"),
        ({"num_memory_experts": 2}, "has 3 experts .*, expected 2"),
        ({"memory_type": "none"}, "its memory_type is gmm, expected none; call GMMXLNetForQA.from_pretrained without"),
        ({"use_gmm_memory": False}, "its memory_type is gmm, expected none"),
        ({"routing_mode": "read-based"}, "routing_mode is 'write-based', asked for was 'read-based'; call"),
        ({"vocab_size": 32000}, "vocab_size is 40, asked for was 32000"),
        ({"config": BertConfig()}, "was to be loaded with a BertConfig, expected a GMMXLNetConfig"),
        ({"config": GMMXLNetConfig(**SIZE)}, "memory_type is gmm, expected none"),
        ({"config": GMMXLNetConfig(**{**SIZE, **GMM, "d_inner": 16})}, "d_inner is 8, asked for was 16"),
    ],
    ids=str,
)
def test_what_the_checkpoint_is_not_is_refused(folder, asked, words):
    refused(folder, words, **asked)


def test_what_it_is_and_what_trains_it_on_may_be_asked(folder):
    loaded = GMMXLNetForQA.from_pretrained(
        folder, memory_type="gmm", num_experts=3, use_gmm_memory=True, routing_mode="write-based", dropout=0.5
    )
    assert loaded.config.dropout == loaded.encoder.dropout.p == 0.5
    config = GMMXLNetConfig(**SIZE, **GMM, bptt_segments=1)
    for cls in (GMMXLNetForQA, AutoModelForQuestionAnswering):
        assert cls.from_pretrained(folder, config=config).config.bptt_segments == 1
    assert (
        AutoModelForQuestionAnswering.from_pretrained(folder, load_balance_weight=0.5).config.load_balance_weight == 0.5
    )
    with pytest.raises(ConfigError, match="there is no option 'strict'"):
        GMMXLNetForQA.from_pretrained(folder, strict=False)
    with pytest.raises(GMMXLNetError, match="dropout must be a number in"):
        GMMXLNetForQA.from_pretrained(folder, dropout=2.0)


def test_dtype_and_loading_info_are_as_in_transformers(folder):
    assert GMMXLNetForQA.from_pretrained(folder, dtype=torch.float16).dtype == torch.float16
    assert GMMXLNetForQA.from_pretrained(folder, dtype="bfloat16").dtype == torch.bfloat16
    model, info = GMMXLNetForQA.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert model.dtype == torch.float32
    assert not any(info.values())
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_subfolder_is_a_checkpoint(folder):
    assert GMMXLNetForQA.from_pretrained(folder.parent, subfolder=folder.name).config.num_experts == 3
