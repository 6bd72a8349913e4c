"""Upload a checkpoint to the Hub and verify that what is downloaded from there equals the local folder."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download

from gmmxlnet.errors import HubError
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.checkpoint import shared_files
from gmmxlnet.sharing.hub import check_token, fetch_folder, link_files, move_tag, push_folder, tags_of
from gmmxlnet.sharing.hub_errors import ask
from gmmxlnet.sharing.model_card import reported_f1
from gmmxlnet.verification.fingerprint import Fingerprint

BEST = "best-model"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model that stands on the Hub, was loaded from there and gave the same bits."""

    repo_id: str
    commit: str
    tags: list[str]
    num_files: int
    num_tensors: int
    left_out: list[str]  # what lay in the folder and was not uploaded, since its manifest does not name it


def publish_model(
    folder: str | Path,
    repo_id: str,
    *,
    card: str,
    message: str,
    tags: Sequence[str] = (),
    private: bool = True,
    token: str | None = None,
) -> Published:
    """Upload a checkpoint and its card, load it from there, compare it bit for bit, and only then move the tags.

    Uploaded are the files that the checkpoint's manifest names, regular ones inside the folder, and nothing else: no
    `.env`, no notes, nothing behind a link. The folder is not changed: the card goes up as README.md. `best-model`
    is among the tags moved unless what it points at reports a higher F1 on the same dataset.

    Raises:
        CheckpointError: the folder holds no checkpoint that can be loaded, or a link in place of one of its files.
        HubError: the Hub refuses, cannot be reached, or holds or sends something else.
    """
    folder = Path(folder)
    check_token(repo_id, token)
    files, left_out = shared_files(folder)
    here = Fingerprint.of(GMMXLNetForQA.from_pretrained(folder, token=token))  # for an adapter's base
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch, "upload")
        link_files(files, staged)
        (staged / "README.md").write_text(card, encoding="utf-8")
        pushed = push_folder(staged, repo_id, message=message, private=private, token=token)
        there = fetch_folder(repo_id, Path(scratch, "cache"), revision=pushed.commit, token=token)
        found = Fingerprint.of(GMMXLNetForQA.from_pretrained(there, token=token))
        if found != here:
            raise HubError(
                f"{repo_id}: loaded from the Hub, the model differs by {here.max_abs_logit_diff(found)} in its logits; "
                "it was not tagged: push again"
            )
        moved = list(tags)
        if _is_best(repo_id, card, Path(scratch), token):
            moved.insert(0, BEST)
    for tag in moved:
        move_tag(repo_id, tag, pushed.commit, token=token)
    return Published(
        repo_id=repo_id,
        commit=pushed.commit,
        tags=moved,
        num_files=pushed.num_files,
        num_tensors=len(found.tensors),
        left_out=left_out,
    )


def _is_best(repo_id: str, card: str, scratch: Path, token: str | None) -> bool:
    """Whether nothing better is known: no best model yet, or one that scores no higher or on something else."""
    if BEST not in tags_of(repo_id, token=token):
        return True
    best_card = ask(
        repo_id,
        lambda: hf_hub_download(repo_id, "README.md", revision=BEST, cache_dir=scratch / "best", token=token),
        token,
    )
    dataset, f1 = reported_f1(card)
    best_dataset, best_f1 = reported_f1(Path(best_card).read_text(encoding="utf-8"))
    return dataset != best_dataset or best_f1 is None or f1 is None or f1 >= best_f1
