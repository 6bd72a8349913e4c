"""Prepared chunks on the Hub: a dataset repository that holds a chunks folder and the report about it.

    chunks/…        what `build_chunks` wrote; its manifest has the settings and the hash of every file
    data.json       what `reports/data.json` says
    README.md       what this is

Whoever reads them gets the very files that were pushed, and only if they were made with the settings asked for.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from gmmxlnet.data.chunks import ChunkSettings
from gmmxlnet.data.dataset_names import described
from gmmxlnet.data.documents import Documents
from gmmxlnet.data.store import MANIFEST, SPLITS, ChunkStore, read_manifest, verify_files
from gmmxlnet.errors import DataError
from gmmxlnet.folder_files import regular_files
from gmmxlnet.messages import code_block, code_span
from gmmxlnet.reports import read_data_report
from gmmxlnet.sharing.hub import Pushed, fetch_folder, link_files, push_folder
from gmmxlnet.utils.files import atomic_folder, write_json

FOLDER, REPORT = "chunks", "data.json"
_REMEDY = "push chunks there (hub_push_chunks: true), or set hub_dataset_id to null"


def push_chunks(
    folder: str | Path, report: dict[str, Any], repo_id: str, *, private: bool = True, token: str | None = None
) -> Pushed:
    """Upload the files that a chunks folder's manifest names, and its report, to a dataset repository, made if need be.

    Raises HubError, DataError for a folder without chunks, and CheckpointError for a link in place of a file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch)
        link_files(regular_files(Path(folder), [*read_manifest(Path(folder))["files"], MANIFEST]), staged / FOLDER)
        write_json(staged / REPORT, report)
        (staged / "README.md").write_text(_card(repo_id, report["settings"]), encoding="utf-8")
        return push_folder(
            staged, repo_id, repo_type="dataset", message="Prepared chunks", private=private, token=token
        )


def pull_chunks(
    repo_id: str,
    folder: str | Path,
    settings: ChunkSettings | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> dict[str, Any]:
    """Put the chunks of a dataset repository into `folder`, whole or not at all; returns the report about them.

    Raises:
        HubError: the Hub refuses, cannot be reached, or sends something else than it holds.
        DataError: the repository holds no chunks, damaged ones, or others than `settings` would make.
    """
    with tempfile.TemporaryDirectory() as scratch:
        there = fetch_folder(repo_id, Path(scratch), revision=revision, repo_type="dataset", token=token)
        if not (there / FOLDER / MANIFEST).is_file() or not (there / REPORT).is_file():
            raise DataError(f"{repo_id}: holds no prepared chunks; {_REMEDY}")
        try:
            manifest = read_manifest(there / FOLDER)
            verify_files(there / FOLDER)
            for split in SPLITS:
                _ = ChunkStore(there / FOLDER, split).texts  # arrays and texts are checked against each other
            report = _read_report(there / REPORT, manifest["settings"])
        except ValueError as error:  # DataError is one
            reason = str(error).replace(f"{there}/", "").partition(";")[0]
            raise DataError(f"{repo_id}: its chunks cannot be used: {reason}; {_REMEDY}") from None
        if settings is not None:
            _check_settings(repo_id, manifest["settings"], settings)
        with atomic_folder(folder) as scratch_folder:
            shutil.copytree(there / FOLDER, scratch_folder, dirs_exist_ok=True)
    return report


def documents_from_hub(
    repo_id: str, split: str, folder: str | Path, *, revision: str | None = None, token: str | None = None
) -> Documents:
    """The documents of a split ("train", "calibration" or "dev") of prepared chunks, which are put into `folder`."""
    pull_chunks(repo_id, folder, revision=revision, token=token)
    return Documents.open(folder, split)


def _read_report(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    report = read_data_report(path)
    if report["settings"] != settings:
        raise DataError(f"{path}: is not the report about these chunks; {_REMEDY}")
    return report


def _check_settings(repo_id: str, found: dict[str, Any], settings: ChunkSettings) -> None:
    wanted = settings.as_json()
    others = [name for name in wanted if found.get(name) != wanted[name]]
    if others:
        differences = ", ".join(f"{name} {found.get(name)!r} instead of {wanted[name]!r}" for name in others)
        raise DataError(
            f"{repo_id}: its chunks were made with {differences}; change the parameters, or set hub_dataset_id to null"
        )


def _card(repo_id: str, settings: dict[str, Any]) -> str:
    dataset = code_span(described(settings["dataset"]))
    shown = code_block(json.dumps(settings, indent=2, ensure_ascii=False), "json")
    return (
        "---\ntask_categories:\n- question-answering\ntags:\n- gmmxlnet\n---\n\n"
        f"# Prepared chunks for GMM-XLNet\n\nTokens, labels and texts of {dataset}, cut with these "
        f"settings. The license is the dataset's.\n\n{shown}\n\n"
        f"`hub_dataset_id: {repo_id}` in GMM-XLNet's params.yaml reads them instead of making them again.\n"
    )
