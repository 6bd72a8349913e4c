"""A dataset in parts and blocks is written with the bytes of the whole, by any number of processes."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmmxlnet.data import blocks, chunks
from gmmxlnet.data.chunks import build_chunks
from gmmxlnet.data.sources import read_split
from gmmxlnet.data.split_writer import ArrayWriter
from gmmxlnet.errors import DataError
from tests.data.test_chunks import hashes, settings_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def in_parts(dataset_folder: Path, tmp_path: Path) -> Path:
    """The same dataset with train in three files, of which one repeats contexts of another, and one has no question."""
    data = json.loads((dataset_folder / "train.json").read_text())["data"]
    again = [
        article | {"paragraphs": [p | {"qas": _renamed(p["qas"])} for p in article["paragraphs"]]}
        for article in data[:5]
    ]
    parts = [data[:10], [*data[10:], *again], [{"title": "t", "paragraphs": [{"context": "Nobody asks.", "qas": []}]}]]
    parts[2] += [{"title": "last", "paragraphs": data[3]["paragraphs"][:1]}]
    parts[2][1]["paragraphs"] = [p | {"qas": _renamed(p["qas"], "z")} for p in parts[2][1]["paragraphs"]]
    (tmp_path / "parts" / "train").mkdir(parents=True)
    for number, part in enumerate(parts):
        _write(tmp_path / "parts" / "train" / f"part-{number}.json", part)
    _write(dataset_folder / "train.json", [article for part in parts for article in part])
    (tmp_path / "parts" / "dev.json").write_bytes((dataset_folder / "dev.json").read_bytes())
    return tmp_path / "parts"


def _renamed(questions: list[dict], prefix: str = "y") -> list[dict]:
    return [question | {"id": f"{prefix}-{question['id']}"} for question in questions]


def _write(path: Path, data: list[dict]) -> None:
    path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")


def build(dataset: Path, folder: Path, **more: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files that are written, and the report, without the dataset's name."""
    num_workers = more.pop("num_workers", 0)
    report = build_chunks(settings_for(dataset, **more), folder, num_workers=num_workers)
    assert report["settings"].pop("dataset") == str(dataset)
    found = hashes(folder)
    del found["manifest.json"]
    return found, report


@pytest.mark.parametrize(
    "more", [{}, {"context": "article"}, {"max_train_documents": 40}, {"calibration_fraction": 0.0}]
)
def test_parts_and_blocks_have_the_bytes_of_the_whole(
    in_parts: Path, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    whole = build(dataset_folder, tmp_path / "whole", **more)
    assert whole[1]["train"]["unasked_contexts"] == 1
    monkeypatch.setattr(blocks, "MOST_DOCUMENTS", 7)
    assert build(dataset_folder, tmp_path / "blocks", **more) == whole
    assert build(in_parts, tmp_path / "parts-of-blocks", **more) == whole
    monkeypatch.setattr(blocks, "MOST_CHARACTERS", 1)
    assert build(in_parts, tmp_path / "parts-of-contexts", **more) == whole
    monkeypatch.undo()
    assert build(in_parts, tmp_path / "parts-alone", **more) == whole


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_any_number_of_processes_writes_the_same_bytes(
    in_parts: Path, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    whole = build(dataset_folder, tmp_path / "whole")
    for module in (chunks, blocks):
        monkeypatch.setattr(module, "MOST_DOCUMENTS", 10)
    assert build(in_parts, tmp_path / "several", num_workers=num_workers) == whole


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told() -> None:
    with pytest.raises(DataError, match=r"^a process that tokenizes was killed.*lower num_workers$"):
        list(blocks.build_blocks([("train", [])], _exit, 2))


def _exit(documents: list, drop_unlabeled: bool) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_id_that_two_parts_have_is_refused_with_both_names(in_parts: Path, tmp_path: Path) -> None:
    first, last = (in_parts / "train" / f"part-{number}.json" for number in (0, 2))
    data = json.loads(first.read_text())["data"][:1]
    _write(last, data)
    with pytest.raises(DataError) as caught:
        build_chunks(settings_for(in_parts), tmp_path / "chunks")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{last}: question ")
    assert line.endswith(f"its id was used before, in {first}; give every question an id of its own")
    with pytest.raises(DataError, match="its id was used before"):
        read_split(in_parts, "train")


def test_the_faults_of_all_parts_are_told_at_once(in_parts: Path, tmp_path: Path) -> None:
    for number in (0, 2):
        (in_parts / "train" / f"part-{number}.json").write_text("[]")
    with pytest.raises(DataError) as caught:
        build_chunks(settings_for(in_parts), tmp_path / "chunks")
    assert [line.partition(".json")[0][-1] for line in str(caught.value).splitlines()] == ["0", "2"]
    for file in (in_parts / "train").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"train: has no \.json file; put the parts of the split there"):
        build_chunks(settings_for(in_parts), tmp_path / "chunks")


@given(st.lists(st.integers(0, 300), max_size=5), st.sampled_from([(np.int32, None), (np.int32, 2), (np.int64, None)]))
def test_an_array_that_grew_is_the_file_that_numpy_writes(tmp_path_factory, lengths, kind) -> None:
    dtype, columns = kind
    folder, rng = tmp_path_factory.mktemp("arrays"), np.random.default_rng(len(lengths))
    pieces = [rng.integers(0, 1000, (n,) if columns is None else (n, columns)).astype(dtype) for n in lengths]
    writer = ArrayWriter(folder / "grown.npy", dtype, columns)
    for piece in pieces:
        writer.append(piece)
    writer.close()
    whole = np.concatenate([np.empty((0,) if columns is None else (0, columns), dtype), *pieces])
    np.save(folder / "whole.npy", whole)
    assert (folder / "grown.npy").read_bytes() == (folder / "whole.npy").read_bytes()
