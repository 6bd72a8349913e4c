"""Checkpoints with an adapter: small, exact, loadable in one call and by peft, and never on the wrong base."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel, load_peft_weights
from safetensors.torch import load_file, save_file
from transformers import AutoModelForQuestionAnswering, XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.errors import CheckpointError, ConfigError, GMMXLNetError
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.adapter_settings import AdapterSettings, AdapterSize
from gmmxlnet.models.build import pretrained_model
from gmmxlnet.utils.fingerprint import Fingerprint

ROOT = Path(__file__).resolve().parents[2]
SIZE = {"n_layer": 2, "d_model": 16, "n_head": 2, "d_inner": 24, "initializer_range": 0.3, "dropout": 0.0}
WORDS = 40
MEMORIES = {
    "none": {"memory_type": "none"},
    "mems": {"memory_type": "mems", "mem_len": 30},
    "token": {"memory_type": "token", "memory_slots": 2},
    "differentiable": {"memory_type": "differentiable", "memory_slots": 3},
    "gmm": {"memory_type": "gmm", "num_memory_experts": 3, "memory_slots": 2, "routing_mode": "read-based"},
}
FILES = ["adapter_config.json", "adapter_model.safetensors", "config.json", "memory_and_head.safetensors"]


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_type", MEMORIES)
def test_what_was_saved_is_what_is_loaded(make, tmp_path, memory_type, dtype):
    model = make(memory_type).to(dtype)
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == FILES
    torch.manual_seed(2)
    assert Fingerprint.of(GMMXLNetForQA.from_pretrained(tmp_path)) == Fingerprint.of(model)


def test_in_a_fresh_process_from_the_folder_alone(make, saved):
    command = [sys.executable, "-m", "gmmxlnet.utils.fingerprint", str(saved)]
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


@pytest.mark.parametrize("memory_type", ["none", "mems", "token", "differentiable"])
def test_it_has_less_than_a_tenth_of_the_bases_size(tmp_path, memory_type):
    torch.manual_seed(0)
    size = {"n_layer": 4, "d_model": 256, "n_head": 8, "d_inner": 1024}
    XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=8000, **size)).save_pretrained(tmp_path / "base")
    memory = {**MEMORIES[memory_type], **({} if memory_type in ("none", "mems") else {"memory_slots": 16})}
    model = pretrained_model(str(tmp_path / "base"), None, range(8000), memory, adapter=AdapterSize(rank=4))
    model.save_pretrained(tmp_path / "adapter")
    base, adapter = (sum(file.stat().st_size for file in (tmp_path / name).iterdir()) for name in ("base", "adapter"))
    assert adapter < 0.1 * base


def test_four_experts_on_xlnet_base_have_less_than_a_tenth_of_its_size():
    """Counted: without memory for 117 million values."""
    size = {"n_layer": 12, "d_model": 768, "n_head": 12, "d_inner": 3072, "vocab_size": 32032}
    settings = AdapterSettings(base_model="base", base_sha256="").to_dict()
    with torch.device("meta"):
        memory = {"memory_type": "gmm", "num_memory_experts": 4, "memory_slots": 16}
        config = GMMXLNetForQA.config_class(**size, **memory, adapter=settings)
        model = GMMXLNetForQA(config)
        base = XLNetForQuestionAnsweringSimple(XLNetConfig(**{**size, "vocab_size": 32000}))
    assert model.num_parameters(only_trainable=True) < 0.1 * base.num_parameters()


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
@pytest.mark.parametrize("change", ["lacks", "holds", "shape", "finite"])
def test_other_tensors_are_refused(copied, name, change):
    tensors = load_file(copied / name)
    first = min(tensors)
    if change == "lacks":
        del tensors[first]
    elif change == "holds":
        tensors["another"] = torch.ones(1)
    elif change == "shape":
        tensors[first] = torch.ones(1, 1, 1)
    else:
        tensors[first].flatten()[0] = torch.nan
    save_file(tensors, copied / name, metadata={"format": "pt"})
    message = refusal(copied)
    assert name in message
    assert change in message


def test_another_dtype_is_refused(copied):
    file = copied / "memory_and_head.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    assert "is of dtype torch.float16, but config.json says torch.float32" in refusal(copied)


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("key", "value"), [("r", 4), ("lora_alpha", 3), ("use_dora", True), ("target_modules", ["qkv"]), ("revision", "x")]
)
def test_an_adapter_config_of_another_checkpoint_is_refused(copied, key, value):
    edit(copied / "adapter_config.json", **{key: value})
    assert f"adapter_config.json: {key} is {value!r}, but config.json says" in refusal(copied)


def test_another_rank_is_refused(copied):
    """Where both files agree on it, the tensors do not."""
    edit(copied / "adapter_config.json", r=4)
    config = json.loads((copied / "config.json").read_text())
    edit(copied / "config.json", adapter=config["adapter"] | {"rank": 4})
    assert "has shape (3, 16), but config.json makes it (4, 16)" in refusal(copied)


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


def test_a_missing_base_is_named_with_what_to_do(copied):
    config = json.loads((copied / "config.json").read_text())
    edit(copied / "config.json", adapter=config["adapter"] | {"base_model": "gone/"})
    edit(copied / "adapter_config.json", base_model_name_or_path="gone/")
    message = refusal(copied)
    assert "base_model 'gone/' cannot be read" in message
    assert "GMMXLNET_BASE_MODEL" in message


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_base_that_has_moved_is_found(copied, base, make, tmp_path, monkeypatch, by):
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    config = json.loads((copied / "config.json").read_text())
    edit(copied / "config.json", adapter=config["adapter"] | {"base_model": "gone/"})
    edit(copied / "adapter_config.json", base_model_name_or_path="gone/")
    if by == "environment":
        monkeypatch.setenv("GMMXLNET_BASE_MODEL", str(moved))
    loaded = GMMXLNetForQA.from_pretrained(copied, **({"base_model": str(moved)} if by == "argument" else {}))
    assert Fingerprint.of(loaded) == Fingerprint.of(make())


def test_without_peft_one_line_says_so(copied, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    assert refusal(copied) == "adapters need peft, which is not installed; pip install 'peft>=0.18'"


def test_an_unknown_option_is_refused(saved):
    with pytest.raises(ConfigError, match="does not know device_map"):
        GMMXLNetForQA.from_pretrained(saved, device_map="auto")


def test_the_library_does_not_import_peft(saved):
    code = "import sys, gmmxlnet.models, gmmxlnet.models.build; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
