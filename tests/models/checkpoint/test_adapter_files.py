"""Checkpoints with an adapter: small, exact, loadable in one call and by peft, and never on the wrong base."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel, load_peft_weights
from safetensors.torch import load_file, save_file
from transformers import AutoModelForQuestionAnswering, XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.errors import CheckpointError, GMMXLNetError
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.adapter_settings import AdapterSettings, AdapterSize
from gmmxlnet.models.adapters import size_beside_base
from gmmxlnet.models.build import pretrained_model
from gmmxlnet.models.pretrained import read_base
from gmmxlnet.verification import verify
from gmmxlnet.verification.fingerprint import Fingerprint

ROOT = Path(__file__).resolve().parents[2]
SIZE = {"n_layer": 2, "d_model": 16, "n_head": 2, "d_inner": 24, "initializer_range": 0.3, "dropout": 0.0}
WORDS = 40
MEMORIES = {
    "none": {"memory_type": "none"},
    "mems": {"memory_type": "mems", "mem_len": 30},
    "words": {"memory_type": "words", "mem_len": 30},
    "token": {"memory_type": "token", "memory_slots": 2},
    "differentiable": {"memory_type": "differentiable", "memory_slots": 3},
    "gmm": {"memory_type": "gmm", "num_memory_experts": 3, "memory_slots": 2, "routing_mode": "read-based"},
}
FILES = ["adapter_config.json", "adapter_model.safetensors", "checkpoint.json", "config.json"]
FILES.append("memory_and_head.safetensors")


def save_base(folder, seed, **size):
    torch.manual_seed(seed)
    XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=WORDS, **{**SIZE, **size})).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"), 0)


@pytest.fixture(scope="module")
def make(base):
    """A function from memory type to a model on the base in which every trained parameter was drawn anew."""

    def make(memory_type="gmm", **adapter):
        torch.manual_seed(1)
        adapter = AdapterSize(**{"rank": 3, **adapter})
        model = pretrained_model(base, None, range(WORDS), MEMORIES[memory_type], adapter=adapter)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:  # B is zero in a new adapter: losing it would not be noticed
                    parameter.copy_(0.3 * torch.randn_like(parameter))
        return model.eval()

    return make


@pytest.fixture(scope="module")
def saved(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    make().save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copied"))


@pytest.mark.parametrize("memory_type", MEMORIES)
def test_what_was_saved_is_what_is_loaded(make, tmp_path, memory_type):
    model = make(memory_type)
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == FILES
    torch.manual_seed(2)
    assert Fingerprint.of(GMMXLNetForQA.from_pretrained(tmp_path)) == Fingerprint.of(model)


def test_in_a_fresh_process_from_the_folder_alone(make, saved):
    command = [sys.executable, "-m", "gmmxlnet.verification.fingerprint", "--seed", "5", str(saved)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert Fingerprint(**json.loads(done.stdout)) == Fingerprint.of(make())


def test_through_the_auto_class(saved, make):
    loaded = AutoModelForQuestionAnswering.from_pretrained(saved)
    assert isinstance(loaded, GMMXLNetForQA)
    assert Fingerprint.of(loaded) == Fingerprint.of(make())


def test_it_can_be_trained_further_as_it_was(saved, make):
    trained = [{name for name, p in model.named_parameters() if p.requires_grad} for model in (make(),)]
    loaded = GMMXLNetForQA.from_pretrained(saved)
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == trained[0]


def test_peft_loads_the_adapter(saved, make, base):
    """Into a model that has all but the adapter, through peft's own loader: the same logits."""
    model = make()
    plain = pretrained_model(base, None, range(WORDS), MEMORIES["gmm"])
    own = load_file(saved / "memory_and_head.safetensors")
    tokens = own.pop("encoder.word_embedding.memory_tokens")
    with torch.no_grad():
        plain.get_input_embeddings().weight[WORDS:] = tokens
    assert not plain.load_state_dict(own, strict=False).unexpected_keys
    batch = {"input_ids": torch.randint(9, WORDS + 4, (2, 3, 12))}
    expected = model(**batch).start_logits
    assert not torch.allclose(plain(**batch).start_logits, expected)
    torch.testing.assert_close(PeftModel.from_pretrained(plain, saved).eval()(**batch).start_logits, expected)


def test_peft_reads_the_weights(saved):
    weights = load_peft_weights(str(saved), device="cpu")
    assert len(weights) == 2 * 5 * SIZE["n_layer"]
    assert weights["base_model.model.encoder.layers.1.attention.qkv.lora_A.weight"].shape == (3, 16)


def test_the_base_is_named_and_not_in_it(saved, base):
    config = json.loads((saved / "config.json").read_text())
    adapter = json.loads((saved / "adapter_config.json").read_text())
    assert config["adapter"]["base_model"] == adapter["base_model_name_or_path"] == base
    assert config["adapter"]["base_revision"] is adapter["revision"] is None
    names = set(load_file(saved / "memory_and_head.safetensors"))
    assert {name for name in names if name.startswith("encoder.")} == {"encoder.word_embedding.memory_tokens"}


@pytest.mark.parametrize("memory_type", ["none", "mems", "words", "token", "differentiable"])
def test_it_has_less_than_a_tenth_of_the_bases_size(tmp_path, memory_type):
    torch.manual_seed(0)
    size = {"n_layer": 4, "d_model": 256, "n_head": 8, "d_inner": 1024}
    XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=8000, **size)).save_pretrained(tmp_path / "base")
    memory = {**MEMORIES[memory_type], **({} if memory_type in ("none", "mems", "words") else {"memory_slots": 16})}
    model = pretrained_model(str(tmp_path / "base"), None, range(8000), memory, adapter=AdapterSize(rank=4))
    model.save_pretrained(tmp_path / "adapter")
    base, adapter = (sum(file.stat().st_size for file in (tmp_path / name).iterdir()) for name in ("base", "adapter"))
    assert adapter < 0.1 * base


@pytest.mark.parametrize(
    ("experts", "words"), [(4, r"9\.\d% of"), (8, r"1\d\.\d% of .*, more than 10%: .* fewer experts")]
)
def test_up_to_four_experts_on_xlnet_base_have_less_than_a_tenth_of_its_size(experts, words):
    """Counted: without memory for 117 million values."""
    size = {"n_layer": 12, "d_model": 768, "n_head": 12, "d_inner": 3072, "vocab_size": 32032}
    settings = AdapterSettings(base_model="base", base_sha256="0" * 64).to_dict()
    with torch.device("meta"):
        memory = {"memory_type": "gmm", "num_memory_experts": experts, "memory_slots": 16}
        config = GMMXLNetForQA.config_class(**size, **memory, adapter=settings)
        model = GMMXLNetForQA(config)
        base = XLNetForQuestionAnsweringSimple(XLNetConfig(**{**size, "vocab_size": 32000}))
    assert (model.num_parameters(only_trainable=True) < 0.1 * base.num_parameters()) == (experts == 4)
    assert re.match(words, size_beside_base(model))


def refusal(folder, **options):
    with pytest.raises(CheckpointError) as caught:
        GMMXLNetForQA.from_pretrained(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "memory_and_head.safetensors"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    assert name in refusal(copied)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "memory_and_head.safetensors"])
def test_a_file_cut_off_is_named(copied, name):
    (copied / name).write_bytes((copied / name).read_bytes()[:-9])
    assert f"{name}: cannot be read" in refusal(copied)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "memory_and_head.safetensors"])
@pytest.mark.parametrize("change", ["lacks", "has not", "shape", "altered"])
def test_other_tensors_are_refused(copied, name, change):
    tensors = load_file(copied / name)
    first = min(tensors)
    if change == "lacks":
        del tensors[first]
    elif change == "has not":
        tensors["another"] = torch.ones(1)
    elif change == "shape":
        tensors[first] = torch.ones(1, 1, 1)
    else:
        tensors[first].flatten()[0] = torch.nan
    save_file(tensors, copied / name, metadata={"format": "pt"})
    assert change in refusal(copied)


def test_another_dtype_is_refused(copied):
    file = copied / "memory_and_head.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    assert "expected all tensors in one of" in refusal(copied)


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("key", "value"), [("r", 4), ("lora_alpha", 3), ("use_dora", True), ("target_modules", ["qkv"]), ("revision", "x")]
)
def test_an_adapter_config_of_another_checkpoint_is_refused(copied, key, value):
    edit(copied / "adapter_config.json", **{key: value})
    assert f"adapter_config.json: {key} is {value!r}, but config.json says" in refusal(copied)


def test_another_rank_is_refused(make, tmp_path):
    """Where the configurations agree on it, the tensors do not."""
    model = make()
    model.config.adapter = {**model.config.adapter, "rank": 4}
    model.save_pretrained(tmp_path)
    assert "has the shape (3, 16), expected (4, 16)" in refusal(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"rank": 0}, {"rank": "3"}, {"alpha": True}, {"dropout": 1.0}, {"base_model": ""}, {"type": "ia3"}, {"a": 1}],
)
def test_impossible_settings_are_refused(copied, changes):
    config = json.loads((copied / "config.json").read_text())
    edit(copied / "config.json", adapter=config["adapter"] | changes)
    with pytest.raises(GMMXLNetError, match=rf"config: adapter\.{next(iter(changes))} "):
        GMMXLNetForQA.from_pretrained(copied)


def test_a_base_with_other_weights_is_refused(copied, tmp_path):
    other = save_base(tmp_path / "other", 5)
    message = refusal(copied, base_model=other)
    assert f"the base model {other!r} has other weights than the one trained on" in message


def test_a_base_of_another_size_is_refused(copied, tmp_path):
    other = save_base(tmp_path / "other", 5, n_layer=1)
    assert "has other weights than the one trained on" in refusal(copied, base_model=other)


def test_a_base_from_the_hub_is_fetched_at_the_commit_that_was_trained_on(base, make, tmp_path):
    """From the Hub's cache, whose newest commit is another one by now."""
    old, new = "a" * 40, "b" * 40
    repository = tmp_path / "cache" / "models--owner--base"
    shutil.copytree(base, repository / "snapshots" / old)
    save_base(repository / "snapshots" / new, 5)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(new)
    cache = {"cache_dir": str(tmp_path / "cache"), "local_files_only": True}
    found = read_base("owner/base", old, **cache)
    assert (found.commit, read_base("owner/base", None, **cache).commit) == (old, new)
    model = make()
    model.config.adapter = {**model.config.adapter, "base_model": "owner/base", "base_revision": found.commit}
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "adapter_config.json").read_text())["revision"] == old
    assert Fingerprint.of(GMMXLNetForQA.from_pretrained(tmp_path / "saved", **cache)) == Fingerprint.of(model)


@pytest.fixture
def homeless(make, tmp_path):
    """A checkpoint whose base is no longer where it was."""
    model = make()
    model.config.adapter = {**model.config.adapter, "base_model": "gone/"}
    model.save_pretrained(tmp_path / "homeless")
    return tmp_path / "homeless"


def test_a_missing_base_is_named_with_what_to_do(homeless):
    message = refusal(homeless)
    assert "base_model 'gone/' cannot be read" in message
    assert "GMMXLNET_BASE_MODEL" in message


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_base_that_has_moved_is_found(homeless, base, make, tmp_path, monkeypatch, by):
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    if by == "environment":
        monkeypatch.setenv("GMMXLNET_BASE_MODEL", str(moved))
    loaded = GMMXLNetForQA.from_pretrained(homeless, **({"base_model": str(moved)} if by == "argument" else {}))
    assert Fingerprint.of(loaded) == Fingerprint.of(make())


def test_without_peft_one_line_says_so(copied, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    assert refusal(copied) == "adapters need peft, which is not installed; pip install 'peft>=0.18'"


def test_a_merged_base_is_refused(copied):
    save_file(make_merged(copied), copied / "model.safetensors", metadata={"format": "pt"})
    assert "an adapter's checkpoint has no base in it" in refusal(copied)


def make_merged(folder):
    return {name: x.contiguous() for name, x in GMMXLNetForQA.from_pretrained(folder).state_dict().items()}


def test_saving_a_whole_model_over_it_leaves_no_adapter(copied, base):
    model = pretrained_model(base, None, range(WORDS), MEMORIES["gmm"])
    model.save_pretrained(copied)
    assert sorted(file.name for file in copied.iterdir()) == ["checkpoint.json", "config.json", "model.safetensors"]
    assert Fingerprint.of(GMMXLNetForQA.from_pretrained(copied)) == Fingerprint.of(model)


def test_verify_in_full(saved):
    report = verify(saved, "full")
    assert report.passed, report.to_text()
    [components] = [check.detail for check in report.checks if check.name == "components"]
    assert "adapter.attention.position x2" in components
    [adapter] = [check.detail for check in report.checks if check.name == "adapter"]
    assert "of its base's size" in adapter


def test_changing_the_adapter_is_noticed_by_verify(copied):
    file = copied / "adapter_model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    report = verify(copied, "structure")
    assert "tensors" in {check.name for check in report.failures}


def test_the_library_does_not_import_peft(saved):
    code = "import sys, gmmxlnet.models, gmmxlnet.models.build; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
