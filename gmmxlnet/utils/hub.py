"""Share a folder on the Hugging Face Hub and make sure that what arrived is what was sent.

The token is huggingface_hub's business (`hf auth login` or HF_TOKEN): it is neither read nor shown here.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile

from gmmxlnet.errors import HubError

# Weights of an earlier push with other shards would be loaded beside the new ones.
STALE_WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What stands on the Hub after a push: every file was compared by its hash."""

    repo_id: str
    commit: str
    tag: str
    num_files: int


def push_folder(folder: Path, repo_id: str, *, tag: str, message: str, private: bool = True) -> Pushed:
    """Create the model repository if need be, upload `folder`, compare hashes on the server, move `tag` there.

    A second push of the same files changes nothing. Raises HubError.
    """
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=message, delete_patterns=STALE_WEIGHTS
        ).oid
        local = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
        remote = api.list_repo_tree(repo_id, recursive=True, revision=commit)
        different = differing_files(local, (entry for entry in remote if isinstance(entry, RepoFile)))
        if different:
            raise HubError(f"{repo_id}: arrived otherwise than it was sent: {', '.join(different)}; push again")
        _move_tag(api, repo_id, tag, commit)
    except (LocalTokenNotFoundError, OfflineModeIsEnabled, HTTPError) as error:
        reason = " ".join(str(error).split())
        raise HubError(f"{repo_id}: the Hub did not take it: {reason}; is `hf auth login` done?") from error
    return Pushed(repo_id=repo_id, commit=commit, tag=tag, num_files=len(local))


def differing_files(local: Mapping[str, Path], remote: Iterable[RepoFile]) -> list[str]:
    """Local files that the repository lacks or holds with other bytes (SHA-256 for LFS files, else git's hash)."""
    found = {entry.path: entry for entry in remote}
    return [name for name, file in local.items() if name not in found or not _same(file, found[name])]


def _same(file: Path, entry: RepoFile) -> bool:
    if entry.lfs is not None:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == entry.lfs.sha256
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == entry.blob_id


def _move_tag(api: HfApi, repo_id: str, tag: str, commit: str) -> None:
    at = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).tags}
    if at.get(tag) == commit:
        return
    if tag in at:
        api.delete_tag(repo_id, tag=tag)
    api.create_tag(repo_id, tag=tag, revision=commit)
