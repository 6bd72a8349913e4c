"""A folder of chunks whose hashes fit and whose arrays do not fit each other is refused when it is opened."""

import json
import shutil

import numpy as np
import pytest

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.segments import SegmentLayout
from gmmxlnet.data.store import MANIFEST, write_manifest
from gmmxlnet.errors import DataError


@pytest.fixture
def chunks(sample_chunks, tmp_path):
    shutil.copytree(sample_chunks, tmp_path / "chunks")
    return tmp_path / "chunks"


def hashed(chunks):
    """Let the manifest name what lies there now."""
    store = json.loads((chunks / MANIFEST).read_text(encoding="utf-8"))
    (chunks / MANIFEST).unlink()
    write_manifest(chunks, store["settings"], SegmentLayout(**store["layout"]))


ARRAYS = [
    ("labels", lambda x: x[:-1], "labels"),
    ("labels", lambda x: x * 0 + 10**6, "labels"),
    ("labels", lambda x: x[:, ::-1] - np.array([0, 1], np.int32), "labels"),
    ("labels", lambda x: x.astype(np.int64), "labels"),
    ("context_tokens", lambda x: x - 1 - x.max(), "context_tokens"),
    ("context_tokens", lambda x: x + 10**6, "context_tokens"),
    ("context_tokens", lambda x: x[:-1], "context_chars"),
    ("context_rows", lambda x: x[::-1], "context_rows"),
    ("context_rows", lambda x: x + 1, "context_rows"),
    ("question_rows", lambda x: x[:-1], "question_rows"),
    ("question_rows", lambda x: np.array([0] * (len(x) - 1) + [x[-1]]), "question_rows"),
    ("document_contexts", lambda x: x + 10**6, "document_contexts"),
    ("document_contexts", lambda x: x - 1 - x.max(), "document_contexts"),
    ("document_contexts", lambda x: x.astype(object), "document_contexts"),
]


@pytest.mark.parametrize(("name", "change", "named"), ARRAYS)
def test_arrays(chunks, name, change, named):
    path = chunks / "dev" / f"{name}.npy"
    np.save(path, np.ascontiguousarray(change(np.load(path))))
    hashed(chunks)
    with pytest.raises(DataError, match=rf"chunks/dev/{named}\.npy: .*; make the chunks again"):
        Documents.open(chunks, "dev")


TEXTS = [
    lambda texts: [],
    lambda texts: {name: column for name, column in texts.items() if name != "answers"},
    lambda texts: texts | {"more": []},
    lambda texts: texts | {"questions": texts["questions"][:-1]},
    lambda texts: texts | {"questions": [3, *texts["questions"][1:]]},
    lambda texts: texts | {"answers": [["x", None], *texts["answers"][1:]]},
    lambda texts: texts | {"question_ids": [texts["question_ids"][1], *texts["question_ids"][1:]]},
    lambda texts: texts | {"question_types": [["a"], *texts["question_types"][1:]]},
    lambda texts: texts | {"contexts": ["short"] * len(texts["contexts"])},
]


@pytest.mark.parametrize("change", TEXTS)
def test_texts(chunks, change):
    path = chunks / "dev" / "texts.json"
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    hashed(chunks)
    documents = Documents.open(chunks, "dev")
    with pytest.raises(DataError, match=r"chunks/dev/texts\.json: .*; make the chunks again"):
        documents.context_text(0)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a//b", ".env", "a\\b"])
def test_a_manifest_names_no_file_outside(chunks, name):
    path = chunks / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["files"][name] = "0" * 64
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.json: is incomplete"):
        Documents.open(chunks, "dev")
