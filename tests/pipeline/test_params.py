"""params.yaml: what is refused, and in which words; what an experiment's identity is made of."""

import errno
import io
import itertools
import logging
import time
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from gmmxlnet.errors import ConfigError
from pipeline.params import load_params
from pipeline.places import find_local
from pipeline.stage import run_stage
from pipeline.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def changed(tmp_path):
    """Write the repository's params.yaml with some values changed (dotted keys); returns the file."""

    def write(changes, remove=()):
        yaml = YAML()
        values = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        for key, value in changes.items():
            section, name = _section(values, key)
            section[name] = value
        for key in remove:
            section, name = _section(values, key)
            del section[name]
        stream = io.StringIO()
        yaml.dump(values, stream)
        file = tmp_path / "params.yaml"
        file.write_text(stream.getvalue(), encoding="utf-8")
        return file

    return write


def _section(values, key):
    *above, name = key.split(".")
    for part in above:
        values = values[part]
    return values, name


def refusal(file):
    with pytest.raises(ConfigError) as caught:
        load_params(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message.removeprefix(f"{file}: ")


@pytest.mark.parametrize("profile", ["sample", "squad_v2", "squad_v2_long", "articles", "reader"])
def test_the_committed_profiles_are_valid(changed, profile):
    params = load_params(changed({"profile": profile}))
    assert params.active is params.profiles[profile]


def test_the_default_profile_is_the_sample():
    assert load_params(ROOT / "params.yaml").profile == "sample"


def test_squad_profiles_differ_in_what_long_documents_need_only():
    profiles = load_params(ROOT / "params.yaml").profiles
    short, long = (profiles[name].model_dump() for name in ("squad_v2", "squad_v2_long"))
    different = {key for key in short if short[key] != long[key]}
    assert different == {
        "context", "batch_size", "eval_batch_size", "gradient_accumulation_steps", "progressive_segments"
    }  # fmt: skip
    for profile in (short, long):
        assert profile["batch_size"] * profile["gradient_accumulation_steps"] == 48


@pytest.mark.parametrize("value", [1, 9, 2.5, 4.0, "4", True, None])
def test_number_of_experts_in_the_guides_words(changed, value):
    message = refusal(changed({"num_memory_experts": value}))
    assert message.startswith("num_memory_experts must be an integer in [2, 8], not ")


@pytest.mark.parametrize("value", [0, -1.0, 0.0, float("nan"), float("inf"), "warm"])
def test_temperature_in_the_guides_words(changed, value):
    assert refusal(changed({"routing_temperature": value})).startswith(
        "routing_temperature must be > 0 and finite, not "
    )


@pytest.mark.parametrize(
    "key", ["load_balance_weight", "entropy_regularization_weight", "memory_reconstruction_weight"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, "0.1", None, True])
def test_loss_weights_are_finite_and_not_negative(changed, key, value):
    assert refusal(changed({key: value})).startswith(f"{key} must be >= 0 and finite, not ")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("profile", "squad", "profile must be one of sample, squad_v2, squad_v2_long, articles, reader, not squad"),
        ("seed", -1, "seed must be an integer in [0, 4294967295], not -1"),
        ("device", "gpu", 'device must be auto, cpu or cuda, not "gpu"'),
        ("memory_type", "gnn", 'memory_type must be none, mems, words, token, differentiable or gmm, not "gnn"'),
        ("memory_type", None, "memory_type must be none, mems"),
        ("memory_num_tokens", 33, "memory_num_tokens must be an integer in [1, 32]"),
        ("memory_num_tokens", -1, "memory_num_tokens must be an integer in [1, 32]"),
        ("routing_mode", "write", 'routing_mode must be write-based or read-based, not "write"'),
        ("pooling_method", "sum", 'pooling_method must be mean, max or attention, not "sum"'),
        ("expert_init_strategies", "random", "expert_init_strategies must be learned, zeros, uniform or orthogonal"),
        ("expert_init_strategies", ["learned", 3], "expert_init_strategies must be learned, zeros, uniform or"),
        ("span_loss", "token", 'span_loss must be segment or document, not "token"'),
        ("bptt_segments", 0, "bptt_segments must be an integer in [1, 1000000], or null for all segments, not 0"),
        ("hub_model_id", "just-a-name", "hub_model_id must be owner/name of a Hub repository, or null"),
        ("profiles", {}, "profiles must be a mapping from names to profiles, not {}"),
        ("profiles.sample", 3, "profiles.sample must be a mapping from keys to values, not 3"),
        ("profiles.sample.dataset", 3, "profiles.sample.dataset must be a folder with train.json and dev.json, {tra"),
        ("profiles.sample.dataset", {"train": "a.json"}, "profiles.sample.dataset.dev is missing; it must be a na"),
        ("profiles.sample.dataset", {"train": 1, "dev": "b"}, "profiles.sample.dataset.train must be a name in quotes"),
        ("profiles.sample.dataset", {"laod": {}}, "profiles.sample.dataset must be a folder with train.json and"),
        ("profiles.sample.dataset", {"load": 4}, "profiles.sample.dataset.load must be a mapping with num_towns"),
        ("profiles.sample.tokenizer", None, "profiles.sample.tokenizer must be scratch, a folder, or a Hub id"),
        ("profiles.sample.base_model_revision", 123, "profiles.sample.base_model_revision must be a branch, tag or"),
        ("profiles.sample.scratch_size.n_head", 0, "profiles.sample.scratch_size.n_head must be an integer in [1, 655"),
        ("profiles.sample.scratch_size.d_model", 31, "profiles.sample.scratch_size.d_model must be an even integer"),
        ("profiles.sample.scratch_size.d_model", 100, "profiles.sample.scratch_size.n_head must divide d_model, which"),
        ("profiles.sample.context", "page", 'profiles.sample.context must be paragraph or article, not "page"'),
        ("profiles.sample.max_steps", 0, "profiles.sample.max_steps must be an integer in [1, 1000000000], or null"),
        ("profiles.sample.batch_size", 0, "profiles.sample.batch_size must be an integer in [1, 65536], not 0"),
        ("profiles.sample.calibration_fraction", 1.0, "profiles.sample.calibration_fraction must be a number in (0,"),
        ("profiles.sample.progressive_segments", [], "profiles.sample.progressive_segments must be a list of"),
        ("profiles.sample.progressive_segments", [0], "profiles.sample.progressive_segments must be a list of"),
        ("profiles.sample.learning_rate", float("nan"), "profiles.sample.learning_rate must be a number in (0, 1]"),
        ("profiles.sample.learning_rate_memory", 0, "profiles.sample.learning_rate_memory must be a number in (0, 1]"),
        ("profiles.sample.dropout", 1, "profiles.sample.dropout must be a number in [0, 1), or null for what base_mo"),
        ("profiles.sample.warmup_fraction", 1.5, "profiles.sample.warmup_fraction must be a number in [0, 1), not"),
        ("profiles.sample.precision", "fp16", 'profiles.sample.precision must be auto, float32, bfloat16 or float16'),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_would_do(changed, key, value, words):
    assert refusal(changed({key: value})).startswith(words)


LOAD = {
    **{"num_towns": 4, "num_updates": 1, "lag": 2, "town_with_list": True, "segment_tokens": 42},
    **{"num_train": 50, "num_dev": 10},
}


def test_a_dataset_may_be_a_name_two_files_or_a_generators_settings(changed):
    for dataset in ("data/other", {"train": "a.json", "dev": "b.json"}, {"load": LOAD}):
        assert load_params(changed({"profiles.sample.dataset": dataset})).dataset == dataset
    params = load_params(changed({"profiles.articles.dataset": {"load": LOAD}, "profile": "articles"}))
    assert params.dataset == {"load": LOAD}  # of the profile in use


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_towns": 17}, "profiles.sample.dataset.load.num_towns must be an integer in [1, 16], not 17"),
        ({"num_updates": 5}, "profiles.sample.dataset.load.num_updates must be at most num_towns, which is 4, not 5"),
        ({"lag": "2"}, 'profiles.sample.dataset.load.lag must be an integer in [0, 10000], not "2"'),
        ({"town_with_list": 1}, "profiles.sample.dataset.load.town_with_list must be true or false, not 1"),
        ({"segment_tokens": 29}, "profiles.sample.dataset.load.segment_tokens must be an integer in [30, 65536]: the"),
        ({"num_dev": 0}, "profiles.sample.dataset.load.num_dev must be an integer in [1, 1000000000], not 0"),
        ({"num_town": 4}, "unknown key profiles.sample.dataset.load.num_town; did you mean profiles.sample.data"),
        ({"seed": 4}, "unknown key profiles.sample.dataset.load.seed; it belongs at the top level"),
    ],
)  # fmt: skip
def test_a_wrong_setting_of_a_generator_is_named(changed, change, words):
    assert refusal(changed({"profiles.sample.dataset": {"load": LOAD | change}})).startswith(words)


def test_a_missing_setting_of_a_generator_is_named(changed):
    without = {name: value for name, value in LOAD.items() if name != "lag"}
    message = refusal(changed({"profiles.sample.dataset": {"load": without}}))
    assert message == "profiles.sample.dataset.load.lag is missing; it must be an integer in [0, 10000]"


def test_files_beside_a_generator_are_refused(changed):
    message = refusal(changed({"profiles.sample.dataset": {"load": LOAD, "dev": "b.json"}}))
    assert message == "unknown key profiles.sample.dataset.dev; known there: load"


@pytest.mark.parametrize("value", ["none", "mems", "words", "token", "differentiable", "gmm"])
def test_the_whole_family_is_known(changed, value):
    assert load_params(changed({"memory_type": value})).memory_type == value


def test_an_adapter_needs_a_pretrained_encoder(changed):
    refused = refusal(changed({"adapter": "lora"}))
    assert refused.startswith("adapter lora needs a pretrained encoder, and profiles.sample.base_model is scratch;")
    assert load_params(changed({"adapter": "lora", "profile": "squad_v2"})).adapter == "lora"


@pytest.mark.parametrize("memory_type", ["gmm", "token", "differentiable"])
def test_memory_needs_slots(changed, memory_type):
    message = refusal(changed({"memory_type": memory_type, "memory_num_tokens": 0}))
    assert message.startswith(f"memory_num_tokens must be > 0 and at most 32 when memory_type is {memory_type}, not 0")


@pytest.mark.parametrize("memory_type", ["none", "mems", "words"])
def test_no_slots_are_needed_where_there_are_none(changed, memory_type):
    assert load_params(changed({"memory_type": memory_type, "memory_num_tokens": 0})).memory_num_tokens == 0


def test_a_bank_is_cut_into_equal_heads(changed):
    message = refusal(changed({"memory_type": "differentiable", "memory_heads": 3}))
    assert message == "memory_heads must divide d_model, which is 128, not 3"
    assert load_params(changed({"memory_heads": 3})).memory_heads == 3


def test_one_strategy_for_each_expert(changed):
    message = refusal(changed({"expert_init_strategies": ["learned", "zeros"]}))
    assert message.endswith("a list with one strategy for each of the 4 experts, not 2")
    four = ["learned", "zeros", "uniform", "orthogonal"]
    assert load_params(changed({"expert_init_strategies": four})).expert_init_strategies == four


@pytest.mark.parametrize(("length", "fits"), [(80 + 0, True), (16 + 16 + 3 + 8, False), (16 + 16 + 3 + 9, True)])
def test_windows_must_exceed_their_overlap(changed, length, fits):
    file = changed({
        "memory_num_tokens": 8, "profiles.sample.max_question_length": 16, "profiles.sample.doc_stride": 8,
        "profiles.sample.max_seq_length": length,
    })  # fmt: skip
    if fits:
        assert load_params(file).active.max_seq_length == length
    else:
        message = refusal(file)
        assert message.startswith(f"profiles.sample.max_seq_length {length} is too small")
        assert message.endswith("give it 44 or more")


def test_every_progressive_stage_needs_an_epoch(changed):
    file = changed({"profiles.sample.progressive_segments": [1, 2, 4], "profiles.sample.num_epochs": 2})
    assert refusal(file).startswith("profiles.sample.num_epochs must be at least 3, one for each stage of")


def test_a_dropout_of_its_own_is_for_a_pretrained_encoder(changed):
    values = {"profile": "squad_v2", "profiles.squad_v2.dropout": 0.2}
    assert load_params(changed(values)).active.dropout == 0.2
    message = refusal(changed({"profiles.sample.dropout": 0.2}))
    assert message.startswith("profiles.sample.dropout is for a pretrained base_model, and this one is scratch; set it")


def test_float16_is_for_gpus(changed):
    message = refusal(changed({"device": "cpu", "profiles.sample.precision": "float16"}))
    assert message == "profiles.sample.precision float16 needs a GPU; use bfloat16 or float32 with device cpu"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("num_memory_expert", "did you mean num_memory_experts?"),
        ("profiles.sample.learning_rte", "did you mean profiles.sample.learning_rate?"),
        ("profiles.sample.scratch_size.nlayer", "did you mean profiles.sample.scratch_size.n_layer?"),
        ("profiles.squad_v2.batchsize", "did you mean profiles.squad_v2.batch_size?"),
        ("learning_rate", "it belongs in a profile: profiles.NAME.learning_rate"),
        ("profiles.sample.num_memory_experts", "it belongs at the top level"),
        ("profiles.sample.scratch_size.zzz", "known there: n_layer, d_model, n_head, d_inner, dropout, initializer_r"),
    ],
)
def test_an_unknown_key_gets_the_nearest_right_one(changed, key, hint):
    assert refusal(changed({key: 3})).startswith(f"unknown key {key}; {hint}")


def test_a_missing_key_is_named(changed):
    message = refusal(changed({}, remove=["profiles.sample.num_epochs"]))
    assert message == "profiles.sample.num_epochs is missing; it must be an integer in [1, 1000000]"


def test_a_misspelled_key_is_not_said_to_be_missing_as_well(changed):
    message = refusal(changed({"profiles.sample.num_epoch": 4}, remove=["profiles.sample.num_epochs"]))
    assert message == "unknown key profiles.sample.num_epoch; did you mean profiles.sample.num_epochs?"


def test_several_problems_share_one_line(changed):
    wrong = {"seed": "x", "device": "x", "memory_type": "x", "span_loss": "x", "routing_mode": "x"}
    message = refusal(changed(wrong))
    assert message.count(" must be ") == 3
    assert message.endswith("; and 2 more")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"seed: 1\nseed: 2\n", 'line 2: found duplicate key "seed"'),
        (b"seed: [1\n", "line 2: expected ',' or ']'"),
        (b"a: b: c\n", "line 1: mapping values are not allowed here"),
        (b"- 1\n", "must be a mapping from keys to values, not list"),
        (b"", "must be a mapping from keys to values, not NoneType"),
        (b"seed: \xff\n", "byte 6 is not UTF-8"),
    ],
)  # fmt: skip
def test_broken_yaml_is_located(tmp_path, text, words):
    file = tmp_path / "params.yaml"
    file.write_bytes(text)
    assert refusal(file).startswith(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{y}: &{y} [{','.join([f'*{x}'] * 9)}]\n" for x, y in itertools.pairwise("abcdefgh")
        ), "line 4: more than 5,000 keys and values, aliases expanded;"),
        ("a: &a\n  b: *a\n", "line 2: *a stands inside of what it names; write the values out"),
        ("a: &a [*a]\n", "line 1: *a stands inside of what it names"),
        ("a: *b\n", "line 1: found undefined alias"),
        ("a: " + "[" * 5000 + "]" * 5000, "line 1: mappings and lists are nested more than 20 deep;"),
        ("a: " + "{b: " * 5000 + "}" * 5000, "line 1: mappings and lists are nested more than 20 deep;"),
        ("seed: " + "9" * 5000, "line 1: a key or value of 5,000 characters; at most 4,096 make sense"),
        ("x" * 5000 + ": 1", "line 1: a key or value of 5,000 characters"),
        ("a: 1\n" * 300_000, "has 1,500,000 bytes, and at most 1,048,576 make sense"),
        ("\n".join(f"k{i}: 1" for i in range(20_000)), "line 2500: more than 5,000 keys and values"),
        ("a: 2001-99-99", "not YAML: month must be in 1..12"),
        ("a: !!int x", "not YAML: "),
        ("? [1, 2]\n: 3\n? {a: 1}\n: 2\n", ""),
        ("a: !!python/object:os.system x", ""),
    ],
    ids=lambda value: value[:20].replace("\n", " "),
)  # fmt: skip
def test_yaml_that_would_cost_too_much_is_refused_at_once(tmp_path, text, words):
    file = tmp_path / "params.yaml"
    file.write_text(text, encoding="utf-8")
    start = time.process_time()
    assert refusal(file).startswith(words)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 10**29),
        ("seed", int("f" * 4000, 16)),  # of more digits than Python prints
        ("memory_sharpness", 10**400),
        ("profiles.sample.num_workers", 10**9),
        ("profiles.sample.num_processes", 10**9),
        ("profiles.sample.progressive_segments", [2] * 1001),
        ("profiles.sample.learning_rate", -(10**30)),
        ("profiles.sample.tokenizer", "x" * 4097),
        ("profile", "x" * 4097),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_absurd_values_are_refused_by_name(monkeypatch, key, value):
    values = read_yaml(ROOT / "params.yaml")
    section, name = _section(values, key)
    section[name] = value
    monkeypatch.setattr("pipeline.params.read_yaml", lambda path: values)
    with pytest.raises(ConfigError) as caught:
        load_params()
    said = str(caught.value)
    assert said.startswith(f"params.yaml: {key} must be ")
    assert len(said) < 300


def test_merge_keys_are_read(changed):
    """They are YAML, and `dvc exp run -S` writes them out: the committed file has none."""
    file = changed({})
    text = file.read_text(encoding="utf-8").replace("  squad_v2:\n", "  squad_v2: &whole\n")
    file.write_text(text + "  copy:\n    <<: *whole\n    batch_size: 7\n", encoding="utf-8")
    profiles = load_params(file).profiles
    assert profiles["copy"].model_dump() == profiles["squad_v2"].model_dump() | {"batch_size": 7}


def test_missing_file(tmp_path):
    assert refusal(tmp_path / "params.yaml") == "there is no such file; run from the root of the repository"
    assert refusal(tmp_path).startswith("cannot be read: ")


def test_numbers_are_read_as_dvc_reads_them(changed, tmp_path):
    text = changed({}).read_text(encoding="utf-8").replace("learning_rate: 1.0e-3", "learning_rate: 2e-3")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    assert load_params(tmp_path / "params.yaml").active.learning_rate == 0.002


def test_paths_of_the_main_repository_are_found_from_a_queued_experiment(tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "main" / "copy")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "main"))
    assert find_local("../texts") == f"{tmp_path}/main/../texts"
    assert find_local("rajpurkar/squad_v2") == "rajpurkar/squad_v2"
    monkeypatch.chdir(tmp_path / "main")
    assert find_local("../texts") == "../texts"


def test_a_stage_ends_with_one_line_and_status_1(monkeypatch, capsys):
    def main():
        raise ConfigError("seed must be\n an integer")

    monkeypatch.setattr("sys.argv", ["/somewhere/pipeline/chunk.py"])
    with pytest.raises(SystemExit) as stopped:
        run_stage(main)
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "chunk: seed must be an integer\n"


def test_lack_of_memory_names_what_to_lower(monkeypatch, capsys):
    def main():
        torch.empty(2**55)

    monkeypatch.setattr("sys.argv", ["/somewhere/pipeline/train.py"])
    with pytest.raises(SystemExit) as stopped:
        run_stage(main)
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for words in ("train: out of memory", "batch_size", "num_memory_experts", "memory_num_tokens", "bptt_segments"):
        assert words in said


def test_a_full_disk_ends_a_stage_with_one_line(monkeypatch, capsys):
    def main():
        raise OSError(errno.ENOSPC, "No space left on device", "reports/training.csv")

    monkeypatch.setattr("sys.argv", ["/somewhere/pipeline/train.py"])
    with pytest.raises(SystemExit) as stopped:
        run_stage(main)
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("train: reports/training.csv: cannot be written (No space left on device); make room")
    assert said.count("\n") == 1


def test_other_errors_keep_their_traceback(monkeypatch):
    def main():
        raise RuntimeError("a bug")

    monkeypatch.setattr("sys.argv", ["/somewhere/pipeline/train.py"])
    with pytest.raises(RuntimeError, match="a bug"):
        run_stage(main)


def test_a_stage_takes_a_log_level(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/pipeline/train.py", "--log-level", "error"])
    run_stage(lambda: None)
    assert logging.getLogger("gmmxlnet").level == logging.ERROR
    monkeypatch.setattr("sys.argv", ["/somewhere/pipeline/train.py", "--log-level", "info"])
    run_stage(lambda: None)
