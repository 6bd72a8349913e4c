"""The sizes of files on the Hub, asked before a loader reads them: a JSON file of gigabytes would cost many more."""

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HTTPError
from huggingface_hub.hf_api import RepoFile


def check_sizes(
    repo_id: str,
    names: Iterable[str],
    most_bytes: int,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> None:
    """Raises ValueError if one of the files is larger than `most_bytes`; asks the Hub, or looks into its cache.

    Folders, files that are not there and a Hub that cannot be reached are left to the loader, which reports them.
    """
    if Path(repo_id).exists():
        return
    names = list(names)
    try:
        found = HfApi(token=token).get_paths_info(repo_id, names, revision=revision)
        sizes = {file.path: file.size for file in found if isinstance(file, RepoFile)}
    except (OSError, ValueError, HTTPError):  # offline, no such repository, no id at all
        sizes = _cached_sizes(repo_id, names, revision, cache_dir)
    for name, size in sizes.items():
        if size > most_bytes:
            raise ValueError(f"{name} has {size:,} bytes, and at most {most_bytes:,} make sense")


def _cached_sizes(repo_id: str, names: list[str], revision: str | None, cache_dir: str | Path | None) -> dict[str, int]:
    try:
        paths = {name: try_to_load_from_cache(repo_id, name, cache_dir, revision) for name in names}
    except ValueError:  # no id
        return {}
    return {name: Path(path).stat().st_size for name, path in paths.items() if isinstance(path, str)}
