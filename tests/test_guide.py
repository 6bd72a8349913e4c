"""The guide's calls, as users know them: configuration, training, evaluation, analysis, plots, troubleshooting.

The first half makes the calls, with the guide's names and arguments, on a tiny model and a small local dataset.
The second, where the guide's text is at hand, holds every import and every call of its code blocks against ours.
"""

import ast
import importlib
import inspect
import json
import re
import textwrap
from dataclasses import fields
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple, XLNetTokenizerFast

from gmmxlnet.data import ChunkedSquadDataset
from gmmxlnet.evaluation import QAEvaluator
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.training import (
    GMMTrainer,
    GMMTrainingConfig,
    TrainingConfig,
    gmm_balanced_config,
    gmm_large_config,
    gmm_small_config,
)
from gmmxlnet.utils import GMMAnalyzer, plot_entropy_timeline, plot_expert_utilization, plot_routing_heatmap

GUIDE = Path(__file__).resolve().parents[2] / "shared" / "seeds" / "gmm-xlnet-guide.md"
SLOTS = 2


@pytest.fixture(scope="module")
def base_folder(sample_chunks, sample_tokenizer, tmp_path_factory):
    """Stands for "xlnet-base-cased": an XLNet and its tokenizer."""
    folder = tmp_path_factory.mktemp("xlnet-base-cased")
    torch.manual_seed(0)
    size = {"d_model": 16, "n_head": 2, "n_layer": 1, "d_inner": 32, "initializer_range": 0.3}
    XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=len(sample_tokenizer), **size)).save_pretrained(folder)
    sample_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def guide(base_folder, sample_chunks, tmp_path_factory):
    """What the guide's steps 2 to 6 make, and its evaluation: everything by the guide's names for it."""
    output_dir = tmp_path_factory.mktemp("outputs") / "gmm-xlnet-squad"
    config = GMMTrainingConfig(
        use_gmm_memory=True,
        num_memory_experts=4,
        memory_num_tokens=SLOTS,
        progressive_segments=[2, 4],
        num_epochs=3,
        batch_size=4,
        learning_rate=5e-5,
        output_dir=str(output_dir),
        hub_model_id="username/gmm-xlnet-squad",
        hub_dataset_id="username/memxlnet-squad-mem16",
    )
    base_model = XLNetForQuestionAnsweringSimple.from_pretrained(base_folder)
    model = GMMXLNetForQA(
        base_model=base_model,
        num_experts=config.num_memory_experts,
        memory_slots=config.memory_num_tokens,
        routing_mode=config.routing_mode,
        routing_temperature=config.routing_temperature,
    )
    tokenizer = tokenizer_with_memory_tokens(base_folder)
    local = {"dataset": sample_chunks.parent, "doc_stride": 8, "max_question_length": 16}  # the guide's is on the Hub
    train_dataset = ChunkedSquadDataset(
        split="train",
        tokenizer=tokenizer,
        max_seq_length=48,
        max_n_segs=max(config.progressive_segments),
        **local,
    )
    trainer = GMMTrainer(model=model, config=config)
    trainer.train(train_dataset)
    model.save_pretrained(output_dir / "final")
    model = GMMXLNetForQA.from_pretrained(str(output_dir / "final"))
    model.eval()
    eval_dataset = ChunkedSquadDataset(
        split="validation",
        tokenizer=tokenizer,
        max_seq_length=48,
        max_n_segs=6,
        **local,
    )
    evaluator = QAEvaluator(model=model, tokenizer=tokenizer)
    analyzer = GMMAnalyzer(model=model, device="cpu")
    eval_dataloader = DataLoader(eval_dataset, batch_size=8, shuffle=False)
    routing_stats = analyzer.track_routing(dataloader=eval_dataloader, max_segments=50)
    return dict(locals())


def tokenizer_with_memory_tokens(folder):
    tokenizer = XLNetTokenizerFast.from_pretrained(folder)
    names = [f"[MEM_{kind}_{j}]" for kind in ("READ", "WRITE") for j in range(SLOTS)]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    return tokenizer


# Configuration


def test_the_whole_configuration():
    config = GMMTrainingConfig(
        use_gmm_memory=True,
        num_memory_experts=4,
        routing_temperature=1.0,
        routing_mode="write-based",
        entropy_regularization_weight=0.0,
        load_balance_weight=0.01,
        expert_init_strategies=["learned"] * 4,
        memory_num_tokens=16,
        progressive_segments=[2, 4, 6],
        num_epochs=3,
        batch_size=4,
        learning_rate=5e-5,
    )
    assert isinstance(config, TrainingConfig)


def test_memory_tokens_are_needed_by_gmm_alone():
    assert GMMTrainingConfig(use_gmm_memory=True, memory_num_tokens=16, num_memory_experts=4).use_gmm_memory
    assert TrainingConfig(use_differentiable_memory=True, memory_num_tokens=0).use_differentiable_memory
    with pytest.raises(ValueError, match="memory_num_tokens must be > 0"):
        GMMTrainingConfig(use_gmm_memory=True, memory_num_tokens=0)


def test_presets_and_examples():
    assert gmm_small_config(num_epochs=3, batch_size=4).num_memory_experts == 2
    assert gmm_balanced_config(num_epochs=3, progressive_segments=[2, 4, 6]).num_memory_experts == 4
    assert gmm_large_config(num_epochs=3, batch_size=2).num_memory_experts == 8
    GMMTrainingConfig(
        use_gmm_memory=True,
        num_memory_experts=8,
        memory_num_tokens=32,
        progressive_segments=[2, 4, 6, 8],
        routing_mode="read-based",
        num_epochs=5,
        batch_size=2,
    )
    GMMTrainingConfig(num_memory_experts=2, memory_num_tokens=8, batch_size=2, gradient_accumulation_steps=4)


def test_settings_may_be_changed_afterwards_and_are_checked_where_they_are_used(guide):
    config = gmm_balanced_config(memory_num_tokens=SLOTS, output_dir="unused", device="cpu")
    for name, value in {
        **{"load_balance_weight": 0.05, "routing_temperature": 1.5, "entropy_regularization_weight": 0.01},
        **{"batch_size": 2, "gradient_accumulation_steps": 4, "num_memory_experts": 2, "memory_num_tokens": 8},
        **{"routing_mode": "write-based", "num_epochs": 5},
    }.items():
        setattr(config, name, value)
    assert GMMTrainer(model=guide["model"], config=config).model.config.load_balance_weight == 0.05
    config.routing_temperature = 0.0
    with pytest.raises(ValueError, match="routing_temperature must be > 0"):
        GMMTrainer(model=guide["model"], config=config)


def test_the_configuration_is_saved(guide, tmp_path):
    guide["config"].to_json(tmp_path / "gmm_config.json")
    assert GMMTrainingConfig.from_json(tmp_path / "gmm_config.json") == guide["config"]


# Training and evaluation


def test_training_walked_through_the_curriculum(guide):
    assert len(guide["trainer"].record.rows) == 3 * -(-len(guide["train_dataset"]) // 4)


def test_a_checkpoint_says_what_it_is(guide):
    with open(guide["output_dir"] / "final" / "config.json") as f:
        config = json.load(f)
    assert (config["num_experts"], config["memory_slots"], config["routing_mode"]) == (4, SLOTS, "write-based")


def test_evaluation(guide):
    results = guide["evaluator"].evaluate(guide["eval_dataset"])
    assert 0 <= results["exact_match"] <= results["f1"] <= 100
    assert results["total"] == len(guide["eval_dataset"])


# Analysis and plots


def test_routing_statistics(guide):
    stats, analyzer = guide["routing_stats"], guide["analyzer"]
    assert {"expert_utilization", "mean_entropy", "std_entropy", "total_segments"} <= set(stats)
    assert stats["total_segments"] == 50
    assert sum(stats["expert_utilization"]) == pytest.approx(1, abs=1e-5)
    diversity = np.asarray(analyzer.compute_expert_diversity())
    assert diversity.shape == (4, 4)
    np.testing.assert_allclose(diversity.diagonal(), 1, atol=1e-5)
    assert 0 <= analyzer.compute_routing_consistency() <= 1


def test_plots(guide, tmp_path):
    routing_data = guide["analyzer"].routing_data
    for name, figure in {
        "routing_heatmap": plot_routing_heatmap(routing_data=routing_data, max_segments=100, figsize=(12, 4)),
        "expert_utilization": plot_expert_utilization(
            utilization=guide["routing_stats"]["expert_utilization"], figsize=(8, 5)
        ),
        "entropy_timeline": plot_entropy_timeline(routing_data=routing_data, figsize=(12, 4)),
    }.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_expert_memories_can_be_plotted(guide, tmp_path):
    mpl.use("agg")
    plt = importlib.import_module("matplotlib.pyplot")
    expert_memories = guide["model"].memory_mixture.expert_memories
    fig, axes = plt.subplots(1, 4, figsize=(16, 4))
    for expert_idx in range(4):
        memory = expert_memories[expert_idx].detach().cpu().numpy()
        norms = np.linalg.norm(memory, axis=-1)
        assert norms.shape == (SLOTS,)
        axes[expert_idx].bar(range(len(norms)), norms)
    plt.savefig(tmp_path / "expert_memory_norms.png")
    plt.close(fig)


# Troubleshooting


def test_errors_say_what_the_guide_says(base_folder):
    with pytest.raises(ValueError, match=re.escape("num_memory_experts must be an integer in [2, 8]")):
        GMMTrainingConfig(num_memory_experts=9)
    with pytest.raises(ValueError, match="routing_temperature must be > 0"):
        GMMTrainingConfig(routing_temperature=0.0)
    base = XLNetForQuestionAnsweringSimple.from_pretrained(base_folder)
    without = GMMXLNetForQA(base_model=base, use_gmm_memory=False)
    with pytest.raises(AttributeError, match="Model does not have memory_mixture attribute"):
        _ = without.memory_mixture
    assert GMMXLNetForQA(base_model=base, use_gmm_memory=True, num_experts=4).memory_mixture is not None


def test_a_training_loop_of_ones_own(guide):
    """A step is profiled, and the routing of the last batch looked at."""
    model, batch = guide["model"], next(iter(guide["eval_dataloader"]))
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        outputs = model(**batch)
        loss = outputs.loss
        loss.backward()
    assert "aten::" in prof.key_averages().table()
    assert hasattr(model, "last_routing_probs")
    assert model.last_routing_probs.mean(dim=0).cpu().shape[-1] == 4
    model.zero_grad()


# From the guide's text


@pytest.fixture(scope="module")
def blocks():
    """The guide's Python, parsed, with `memxlnet` read as `gmmxlnet`."""
    if not GUIDE.exists():
        pytest.skip("the guide's text is not beside this checkout (../shared)")
    found = re.findall(r"^( *)```python\n(.*?)^\1```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    code = [re.sub(r"\bmemxlnet\.", "gmmxlnet.", textwrap.dedent(text)) for _, text in found]
    assert len(code) > 40
    return [ast.parse(text) for text in code]


def imported_names(blocks):
    """Name -> (module, object) of everything that the guide imports from us."""
    found = {}
    for node in (node for block in blocks for node in ast.walk(block)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "gmmxlnet":
            module = importlib.import_module(node.module)
            found |= {alias.name: getattr(module, alias.name, None) for alias in node.names}
    return found


def accepted(function):
    """Names of arguments; those of what `**` stands for too."""
    parameters = inspect.signature(function).parameters
    names = set(parameters)
    if function is GMMXLNetForQA:
        names |= {field.name for field in fields(GMMXLNetConfig)}
    if function in (gmm_small_config, gmm_balanced_config, gmm_large_config):
        names |= {field.name for field in fields(GMMTrainingConfig)}
    return names


def test_everything_that_the_guide_imports_is_there(blocks):
    names = imported_names(blocks)
    assert len(names) >= 12
    assert {name for name, found in names.items() if found is None} == set()


def test_every_argument_that_the_guide_names_is_taken(blocks, guide):
    functions = {"TrainingConfig": TrainingConfig, **imported_names(blocks)}
    ours = {name: guide[name] for name in ("model", "config", "trainer", "evaluator", "analyzer")}
    checked, missing = 0, []
    for node in (node for block in blocks for node in ast.walk(block)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in functions:
            function = functions[called.id]
        elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            owner = {**functions, **ours}.get(called.value.id)
            if owner is None:
                continue
            function = getattr(owner, called.attr)
        else:
            continue
        for keyword in node.keywords:
            checked += 1
            if keyword.arg is not None and keyword.arg not in accepted(function):
                missing.append(f"{ast.unparse(called)}({keyword.arg}=)")
    assert checked > 60
    assert missing == []


def test_every_attribute_that_the_guide_reads_or_sets_exists(blocks, guide):
    found = {
        (node.value.id, node.attr)
        for block in blocks
        for node in ast.walk(block)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    found = {(owner, name) for owner, name in found if owner in ("model", "config", "trainer", "evaluator", "analyzer")}
    assert len(found) > 15
    assert {(owner, name) for owner, name in found if not hasattr(guide[owner], name)} == set()
