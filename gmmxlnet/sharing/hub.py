"""Folders to and from the Hugging Face Hub, every file compared by its hash with what the server says it holds.

The token is huggingface_hub's business (`hf auth login` or HF_TOKEN) unless one is given; no message shows it. A call
that fails for a transient reason is retried (`hub_errors.py`); all of them may be made twice.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token, snapshot_download
from huggingface_hub.hf_api import RepoFile

from gmmxlnet.errors import HubError
from gmmxlnet.sharing.hub_errors import ask
from gmmxlnet.utils.files import sha256_of

# What a loader would read: left over from an earlier push, it would be loaded beside the new files.
STALE = ["*.json", "*.safetensors", "*.bin", "*.model", "*.npy"]


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What stands on the Hub after a push: every file was compared by its hash."""

    repo_id: str
    commit: str
    num_files: int


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    message: str,
    repo_type: str = "model",
    private: bool = True,
    token: str | None = None,
) -> Pushed:
    """Create the repository if need be, upload `folder`, and compare all hashes on the server.

    Data and weights that are there but not in `folder` are removed. A second push of the same files changes nothing; a
    repository that is there already stays private or public as it is. Raises HubError.
    """
    check_token(repo_id, token)
    api = HfApi(token=token)
    ask(repo_id, lambda: api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True), token)
    commit = ask(
        repo_id,
        lambda: (
            api.upload_folder(
                repo_id=repo_id,
                repo_type=repo_type,
                folder_path=folder,
                commit_message=message,
                delete_patterns=STALE,
            ).oid
        ),
        token,
    )
    local = files_below(folder)
    different = differing_files(local, _remote_files(api, repo_id, repo_type, commit))
    if different:
        raise HubError(f"{repo_id}: arrived otherwise than it was sent: {', '.join(different)}; push again")
    return Pushed(repo_id=repo_id, commit=commit, num_files=len(local))


def fetch_folder(
    repo_id: str, cache: Path, *, revision: str | None = None, repo_type: str = "model", token: str | None = None
) -> Path:
    """Download a repository into `cache`, an empty folder, and compare all hashes; returns where the files are.

    huggingface_hub itself compares their sizes only. Raises HubError.
    """
    api = HfApi(token=token)
    commit = str(ask(repo_id, lambda: api.repo_info(repo_id, revision=revision, repo_type=repo_type).sha, token))
    folder = Path(
        ask(
            repo_id,
            lambda: snapshot_download(repo_id, revision=commit, repo_type=repo_type, cache_dir=cache, token=token),
            token,
        )
    )
    remote = {entry.path: entry for entry in _remote_files(api, repo_id, repo_type, commit)}
    local = files_below(folder)
    different = sorted(set(remote) - set(local)) + differing_files(local, remote.values())
    if different:
        raise HubError(f"{repo_id}: was altered on its way here: {', '.join(different)}; download it again")
    return folder


def move_tag(repo_id: str, tag: str, commit: str, *, token: str | None = None) -> None:
    """Make `tag` of a model point at `commit`, wherever it pointed. Raises HubError."""
    api = HfApi(token=token)
    at = tags_of(repo_id, token=token)
    if at.get(tag) == commit:
        return
    if tag in at:
        ask(repo_id, lambda: _delete_tag(api, repo_id, tag), token)
    ask(repo_id, lambda: api.create_tag(repo_id, tag=tag, revision=commit, exist_ok=True), token)


def tags_of(repo_id: str, *, token: str | None = None) -> dict[str, str]:
    """The tags of a model and the commits they point at. Raises HubError."""
    refs = ask(repo_id, lambda: HfApi(token=token).list_repo_refs(repo_id), token)
    return {ref.name: ref.target_commit for ref in refs.tags}


def _delete_tag(api: HfApi, repo_id: str, tag: str) -> None:
    """Delete a tag that may be gone since: an answer can get lost."""
    if any(ref.name == tag for ref in api.list_repo_refs(repo_id).tags):
        api.delete_tag(repo_id, tag=tag)


def check_token(repo_id: str, token: str | None) -> None:
    """HubError where there is no token, or one that cannot be sent: a client's own message would show it."""
    found = token or get_token()
    if not found:
        raise HubError(f"{repo_id}: there is no token; log in with `hf auth login`, or set HF_TOKEN")
    if not (found.isascii() and found.isprintable()) or " " in found:
        raise HubError(f"{repo_id}: the token has characters that no token has; copy it again")


def files_below(folder: Path) -> dict[str, Path]:
    """All files by their relative names, in order."""
    return {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}


def link_files(files: Mapping[str, Path], staged: Path) -> None:
    """Give files a second place, by their names in the new folder `staged`, without copying them."""
    for name, file in files.items():
        link = staged / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())


def differing_files(local: Mapping[str, Path], remote: Iterable[RepoFile]) -> list[str]:
    """Local files that the repository lacks or holds with other bytes (SHA-256 for LFS files, else git's hash)."""
    found = {entry.path: entry for entry in remote}
    return [name for name, file in local.items() if name not in found or not _same(file, found[name])]


def _remote_files(api: HfApi, repo_id: str, repo_type: str, commit: str) -> list[RepoFile]:
    entries = ask(
        repo_id,
        lambda: list(api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=repo_type)),
        api.token if isinstance(api.token, str) else None,
    )
    return [entry for entry in entries if isinstance(entry, RepoFile)]


def _same(file: Path, entry: RepoFile) -> bool:
    if entry.lfs is not None:
        return sha256_of(file) == entry.lfs.sha256
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == entry.blob_id
