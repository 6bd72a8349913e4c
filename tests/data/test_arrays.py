"""An array file is what its reader expects, to the byte, or refused before anything is allocated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmmxlnet.data.arrays import read_array, write_array
from gmmxlnet.errors import DataError


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_comes_back_mapped(tmp_path, order):
    array = np.asarray(np.arange(6).reshape(3, 2), np.int32, order=order)
    write_array(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", array)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    found = read_array(tmp_path / "a.npy", np.int32, 2, remedy="again")
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, array)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_an_empty_array(tmp_path):
    np.save(tmp_path / "a.npy", np.empty((0, 2), np.int32))
    assert read_array(tmp_path / "a.npy", np.int32, 2, remedy="again").shape == (0, 2)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.arange(3, dtype=np.int64), r"holds int64 of shape \(3,\), expected int32 of shape \(N,\)"),
        (np.zeros((3, 1), np.int32), r"holds int32 of shape \(3, 1\)"),
        (np.array(3, np.int32), r"holds int32 of shape \(\)"),
        (np.arange(3, dtype=">i4"), "holds int32"),
        (np.array([{"a": 1}], dtype=object), "holds object"),
        (np.zeros(2, [("a", np.int32)]), "holds void"),
    ],
)
def test_other_arrays_are_named(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=rf"a\.npy: {words}.*; again$"):
        read_array(tmp_path / "a.npy", np.int32, remedy="again")


def with_header(shape, descr="'<i4'", version=b"\x01\x00"):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        with_header("(1000000000000,)"),
        with_header("(1000000000000,)") + bytes(8),
        with_header("(-1,)"),
        with_header("(2,)", version=b"\x09\x00") + bytes(8),
        with_header("(True,)") + bytes(4),
        with_header("(" * 300),
        with_header("(2,)", descr="'x'"),
        with_header("(2,)", descr="import os"),
        b"",
        b"\x93NUM",
        b"PK\x03\x04",
    ],
)
def test_a_header_that_lies_allocates_nothing(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npy: .*; again$") as caught:
        read_array(tmp_path / "a.npy", np.int32, remedy="again")
    assert str(caught.value).isprintable()


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(tmp_path_factory, content, as_header):
    path = tmp_path_factory.getbasetemp() / "any.npy"
    path.write_bytes((b"\x93NUMPY\x01\x00" if as_header else b"") + content)
    with pytest.raises(DataError):
        read_array(path, np.int32, remedy="again")


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"a\.npy: cannot be read \(No such file or directory\); again"):
        read_array(tmp_path / "a.npy", np.int32, remedy="again")
