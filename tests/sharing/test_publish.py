"""A checkpoint goes to a Hub, comes back the same and is tagged; what goes wrong is one line, and never the token."""

import json
import logging
import os
import shutil
import traceback
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, snapshot_download
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.data.store import ChunkStore, read_manifest
from gmmxlnet.errors import CheckpointError, HubError
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.adapter_settings import AdapterSize
from gmmxlnet.models.build import pretrained_model
from gmmxlnet.models.checkpoint import seal
from gmmxlnet.models.checkpoint.manifest import Manifest
from gmmxlnet.sharing import publish as publishing
from gmmxlnet.sharing.hub import fetch_folder, push_folder
from gmmxlnet.sharing.hub_chunks import push_chunks
from gmmxlnet.sharing.model_card import model_card
from gmmxlnet.sharing.publish import publish_model
from gmmxlnet.utils.files import sha256_of
from gmmxlnet.verification import verify
from gmmxlnet.verification.fingerprint import Fingerprint
from tests.hub_server import READ_TOKEN, TOKEN

NAME = "me/model"
STORED = "(GET|PUT) /storage/"


@pytest.fixture(scope="module")
def save(make_model, sample_tokenizer, tmp_path_factory):
    """A function from a routing mode to a checkpoint."""

    def save(routing_mode="write-based", **saving):
        folder = tmp_path_factory.mktemp("checkpoint")
        make_model(routing_mode=routing_mode).save_pretrained(folder, **saving)
        sample_tokenizer.save_pretrained(folder)
        seal(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def checkpoint(save):
    return save()


def publish(folder, *, f1=None, dataset="squad", **other):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    metrics = None
    if f1 is not None:
        floor = {"exact_match": 50.0, "f1": 50.0}
        metrics = {"exact_match": f1, "f1": f1, "total": 2, "null_score_diff_threshold": 0.0, "always_no_answer": floor}
        metrics |= {"HasAns_f1": f1, "HasAns_total": 1, "NoAns_f1": f1, "NoAns_total": 1}
    card = model_card(NAME, config, name="gmm-k3-write", metrics=metrics, dataset=dataset)
    return publish_model(folder, NAME, card=card, message="a model", **{"tags": ["gmm-k3-write"], **other})


def test_what_is_pushed_loads_from_the_hub_bit_for_bit(hub, checkpoint):
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    published = publish(checkpoint)
    repo = hub.repo(NAME)
    assert repo.private
    assert repo.tags == {"best-model": published.commit, "gmm-k3-write": published.commit}
    stands = repo.files()
    card = stands.pop("README.md")
    assert b"from_pretrained" in card
    assert stands.pop(".gitattributes")
    assert stands == before == {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    loaded = GMMXLNetForQA.from_pretrained(NAME, revision="best-model")
    assert Fingerprint.of(loaded) == Fingerprint.of(GMMXLNetForQA.from_pretrained(checkpoint))
    assert published.num_tensors == len(loaded.state_dict())


def test_only_the_manifests_files_are_uploaded_and_the_rest_is_named(hub, save, tmp_path):
    folder = save()
    own = {file.name for file in folder.iterdir()}
    (tmp_path / "secret").write_text("PASSWORD=x")
    (folder / ".env").write_text("PASSWORD=x")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "token").write_text("x")
    (folder / "notes.txt").write_text("mine")
    (folder / "link.json").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "README.md").symlink_to(tmp_path / "secret")
    published = publish(folder)
    there = hub.repo(NAME).files()
    assert set(there) == own | {"README.md", ".gitattributes"}
    assert b"PASSWORD" not in b"".join(there.values())
    assert published.left_out == [".cache/token", ".env", "link.json", "linked", "notes.txt"]
    assert published.num_files == len(own) + 1


def named_by(folder, name):
    """Let the manifest name a file, under a hash that fits."""
    manifest = Manifest.read(folder)
    record = {"size": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
    Manifest(**{**vars(manifest), "files": {**manifest.files, name: record}}).write(folder)


@pytest.mark.parametrize("how", ["a file", "a folder", "inside", "a pipe", "hidden", "outside"])
def test_nothing_that_a_link_or_a_hostile_manifest_leads_to_is_uploaded(hub, save, tmp_path, how):
    folder = save()
    (tmp_path / "secret").write_text("PASSWORD=x")
    if how == "a file":
        (folder / "model.json").symlink_to(tmp_path / "secret")
        named_by(folder, "model.json")
    elif how == "a folder":
        (folder / "more").symlink_to(tmp_path)
        named_by(folder, "more/secret")
    elif how == "inside":
        (folder / "fingerprint2.json").symlink_to("config.json")
        named_by(folder, "fingerprint2.json")
    elif how == "a pipe":
        named_by(folder, "config.json")
        (folder / "tokenizer_config.json").unlink()
        os.mkfifo(folder / "tokenizer_config.json")
    elif how == "hidden":
        (folder / ".env").write_text("PASSWORD=x")
        named_by(folder, ".env")
    else:
        (folder.parent / "secret").write_text("PASSWORD=x")
        named_by(folder, "../secret")
    words = "link, which may lead anywhere" if how in ("a file", "a folder", "inside") else "regular file|wrong types"
    with pytest.raises(CheckpointError, match=words):
        publish_model(folder, NAME, card="", message="")
    assert hub.repos == {}


def test_chunks_go_up_by_their_manifest_too(hub, sample_chunks, tmp_path):
    folder = tmp_path / "chunks"
    shutil.copytree(sample_chunks, folder)
    (folder / ".env").write_text("PASSWORD=x")
    (folder / "notes").symlink_to("/etc/hostname")
    push_chunks(folder, {"settings": ChunkStore(folder, "dev").settings}, "me/chunks")
    there = {name for name in hub.repo("me/chunks", "datasets").files() if name.startswith("chunks/")}
    assert there == {f"chunks/{name}" for name in [*read_manifest(folder)["files"], "manifest.json"]}
    file = folder / "dev" / "texts.json"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"dev/texts\.json: is or lies behind a link"):
        push_chunks(folder, {"settings": {}}, "me/chunks")


def test_shards_come_back_too(hub, save):
    folder = save(max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert publish(folder).num_files == len(list(folder.iterdir())) + 1


def test_shards_of_a_revision_are_loaded_and_verified(hub, save, tmp_path):
    """The snapshot that the Hub's own client makes: links, with the card and .gitattributes beside the files."""
    shards = save(max_shard_size="20KB")
    publish(shards)
    publish(save("read-based"), tags=["another"])
    assert hub.repo(NAME).tags["gmm-k3-write"] != hub.repo(NAME).tags["another"]
    loaded = GMMXLNetForQA.from_pretrained(NAME, revision="gmm-k3-write")
    assert Fingerprint.of(loaded) == Fingerprint.of(GMMXLNetForQA.from_pretrained(shards))
    snapshot = Path(snapshot_download(NAME, revision="gmm-k3-write", cache_dir=tmp_path))
    assert {"README.md", ".gitattributes", "model.safetensors.index.json"} <= {path.name for path in snapshot.iterdir()}
    report = verify(snapshot, "full", against=shards)
    assert report.passed, report.to_text()


def test_an_adapter_leads_to_its_base_on_the_hub_at_its_commit(hub, dev_documents, sample_tokenizer, tmp_path):
    words, base = dev_documents.layout.vocab_size, "me/base"
    for seed in (0, 1):  # the base has moved on since the adapter was trained
        torch.manual_seed(seed)
        config = XLNetConfig(vocab_size=words, d_model=16, n_head=2, n_layer=1, d_inner=32)
        XLNetForQuestionAnsweringSimple(config).save_pretrained(tmp_path / "base")
        commit = push_folder(tmp_path / "base", base, message="a base").commit
        if seed == 0:
            memory = {"memory_type": "gmm", "num_memory_experts": 2, "memory_slots": 2}
            model = pretrained_model(base, None, range(words), memory, adapter=AdapterSize(rank=2)).eval()
            trained_on = commit
    assert commit != trained_on == model.config.adapter["base_revision"]
    model.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "config.json").read_text(encoding="utf-8"))
    card = model_card(NAME, config, name="gmm-k2-write-lora", hub_base_model=base)
    published = publish_model(tmp_path / "adapter", NAME, card=card, message="an adapter", tags=["lora"])
    data = ModelCard(hub.repo(NAME).files()["README.md"].decode()).data
    assert (data.base_model, data.base_model_relation) == (base, "adapter")
    assert "model.safetensors" not in hub.repo(NAME).files()
    loaded = GMMXLNetForQA.from_pretrained(NAME, revision=published.commit)
    assert Fingerprint.of(loaded) == Fingerprint.of(model)


def test_a_second_push_changes_nothing(hub, checkpoint):
    first = publish(checkpoint)
    commits = list(hub.repo(NAME).commits)
    assert publish(checkpoint) == first
    assert list(hub.repo(NAME).commits) == commits


def test_another_model_replaces_the_files_and_moves_the_tags(hub, save, checkpoint):
    first = publish(save(max_shard_size="20KB"))
    second = publish(checkpoint)
    assert first.commit != second.commit
    assert set(hub.repo(NAME).tags.values()) == {second.commit}
    assert [name for name in hub.repo(NAME).files() if ".safetensors" in name] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("f1", "dataset", "moves"), [(70.0, "squad", False), (80.0, "squad", True), (70.0, "another", True)]
)
def test_the_best_model_stays_where_it_scores_higher_on_the_same_data(hub, save, checkpoint, f1, dataset, moves):
    first = publish(checkpoint, f1=80.0)
    second = publish(save("read-based"), f1=f1, dataset=dataset)
    assert hub.repo(NAME).tags["best-model"] == (second if moves else first).commit
    assert hub.repo(NAME).tags["gmm-k3-write"] == second.commit
    assert ("best-model" in second.tags) == moves


def test_a_public_repository_on_request(hub, checkpoint):
    publish(checkpoint, private=False)
    assert not hub.repo(NAME).private


def test_the_storage_never_sees_the_token(hub, checkpoint):
    publish(checkpoint)
    tokens = {token for request, token in hub.authorized if "/storage/" in request and "verify" not in request}
    assert tokens == {None}


ROUTES = [
    *(
        "POST .*/create",
        "POST .*/validate-yaml",
        "POST .*/preupload/",
        "POST .*/batch",
        "PUT /storage",
        "POST .*/commit/",
    ),
    *("GET .*/tree/", "GET .*/revision/", "HEAD .*/resolve/", "GET .*/resolve/", "GET /storage"),
    *("GET .*/refs", "POST .*/tag/", "DELETE .*/tag/"),
]


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429, "headers": {"Retry-After": "9"}}, {"cut": True}])
def test_what_passes_is_waited_for(hub, pauses, save, checkpoint, fault):
    """Every request fails once; cut off are the answers, to requests that were granted."""
    first = publish(save("read-based"))
    for route in ROUTES:
        hub.fail(route, **fault)
    second = publish(checkpoint)
    assert [left.pattern for left in hub.faults if left.times] == []
    assert first.commit != second.commit
    assert set(hub.repo(NAME).tags.values()) == {second.commit}
    assert len(hub.repo(NAME).commits) == 3  # the empty one, and one for each push
    assert min(pauses) >= (9 if "headers" in fault else 1)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 401}, r"does not know this token \(401\); log in again with `hf auth login`"),
        ({"status": 403}, r"may not do this here \(403\); use one with write access"),
        ({"status": 404}, r"no such repository, revision or file.*\(404\); check the name"),
        ({"status": 429}, r"too many requests from here \(429\); try again later"),
        ({"status": 429, "headers": {"Retry-After": "3600"}}, r"\(429\); try again in 3600 seconds"),
        ({"status": 503}, r"is out of order \(503\); try again later"),
        ({"status": 400, "message": f"bad {TOKEN}"}, r"refused it \(400: .*bad \*\*\*\); check the name"),
        ({"cut": True}, "cannot be reached .*; check the connection"),
    ],
)
@pytest.mark.parametrize("route", ["POST .*/create", "GET .*/tree/"])
def test_what_stays_wrong_is_one_line_without_the_token(hub, pauses, checkpoint, caplog, capfd, route, fault, words):
    caplog.set_level(logging.INFO if "message" in fault else logging.DEBUG)  # below INFO, httpcore2 logs all answers
    hub.fail(route, times=1000, **fault)
    with pytest.raises(HubError, match=f"^{NAME}: .*{words}") as caught:
        publish(checkpoint)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__context__ is None
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(capfd.readouterr())
    assert TOKEN not in shown
    assert hub.repos == {} or hub.repo(NAME).tags == {}


def test_a_conflict_is_one_line(hub, pauses, checkpoint):
    hub.fail("POST .*/commit/", times=1000, status=409)
    with pytest.raises(HubError, match=r"somebody else is changing this repository \(409\); try again"):
        publish(checkpoint)


def test_no_token(hub, checkpoint, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="there is no token; log in with `hf auth login`, or set HF_TOKEN"):
        publish(checkpoint)
    assert publish(checkpoint, token=TOKEN).num_files > 0


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("hf_nobody0123456789", r"does not know this token \(401\)"),
        (READ_TOKEN, r"may not do this here \(403\)"),
        (TOKEN + "\n", "has characters that no token has; copy it again"),
        ("hf_ä", "has characters that no token has; copy it again"),
    ],
)
def test_a_token_that_will_not_do(hub, pauses, checkpoint, token, words):
    with pytest.raises(HubError, match=words) as caught:
        publish(checkpoint, token=token)
    assert token.strip() not in str(caught.value)


def test_no_network(hub, pauses, checkpoint, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        HubError, match=r"cannot be reached .*refused.*; check the connection, the proxy and HF_ENDPOINT"
    ):
        publish(checkpoint)
    assert pauses == [1, 2, 4, 8]


def test_offline_mode(hub, checkpoint, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids going to the Hub; unset it"):
        publish(checkpoint)


def test_an_impossible_name(hub, checkpoint):
    with pytest.raises(HubError, match=r"no spaces: failed here .*; check the name"):
        publish_model(checkpoint, "no spaces", card="---\nlicense: mit\n---\n", message="")


def test_what_the_server_keeps_otherwise_is_noticed(hub, checkpoint):
    hub.fail("POST .*/commit/", alter=True)
    with pytest.raises(HubError, match=f"{NAME}: arrived otherwise than it was sent: README.md; push again"):
        publish(checkpoint)
    assert hub.repo(NAME).tags == {}


@pytest.mark.parametrize(
    ("route", "file"), [("GET /storage", "model.safetensors"), ("GET .*/config.json", "config.json")]
)
def test_what_is_altered_on_its_way_back_is_noticed(hub, checkpoint, route, file):
    hub.fail(route, alter=True)
    with pytest.raises(HubError, match=f"{NAME}: was altered on its way here: {file}; download it again"):
        publish(checkpoint)
    assert hub.repo(NAME).tags == {}


def test_a_model_that_loads_otherwise_is_not_tagged(hub, save, checkpoint, monkeypatch):
    """The hashes cannot see it: a loader that takes something else than these files."""
    other = save("read-based")
    with torch.no_grad():
        model = GMMXLNetForQA.from_pretrained(checkpoint)
        model.qa_head.bias += 1
    model.save_pretrained(other)
    monkeypatch.setattr(publishing, "fetch_folder", lambda *_, **__: other)
    with pytest.raises(HubError, match=r"the model differs by 1\.0.* in its logits; it was not tagged"):
        publish(checkpoint)
    assert hub.repo(NAME).tags == {}


def test_what_is_no_checkpoint_is_not_pushed(hub, tmp_path):
    with pytest.raises((CheckpointError, OSError)):
        publish_model(tmp_path, NAME, card="", message="")
    assert hub.repos == {}


def test_fetching_goes_on_where_the_line_was_cut(hub, pauses, tmp_path):
    hub.add("you/public", {"model.safetensors": b"0123456789" * 1000})
    hub.fail("GET /storage", times=3, cut=True)
    folder = fetch_folder("you/public", tmp_path)
    assert (folder / "model.safetensors").read_bytes() == b"0123456789" * 1000


def test_a_private_repository_is_not_there_for_strangers(hub, monkeypatch, tmp_path):
    hub.add("you/private", {"config.json": b"{}"}, private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"\(401\)"):
        fetch_folder("you/private", tmp_path)
