"""A damaged archive gives one clear line, before memory is allocated for what it declares."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from manual_grad import npz
from manual_grad.border import InputError


def header(**changes):
    """The first bytes of an array's member."""
    file = io.BytesIO()
    about = {"descr": "<f8", "fortran_order": False, "shape": (3,)} | changes
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


def packed(content, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("x.npy", content)
    return bytearray(file.getvalue())


def patched(data, local, central, value):
    """With a field of two bytes changed, in both of a member's records."""
    for at in (local, data.index(b"PK\x01\x02") + central):
        struct.pack_into("<H", data, at, value)
    return data


NUMBERS = header() + np.arange(3.0).tobytes()
DAMAGED = {
    "it declares float64[10000000000000] but holds 0 bytes": packed(header(shape=(10**13,))),
    "it declares float64[4] but holds 24 bytes": packed(header(shape=(4,)) + NUMBERS[-24:]),
    "it declares float64[-3] but holds 24 bytes": packed(header(shape=(-3,)) + NUMBERS[-24:]),
    "it has 101 axes, expected at most 32": packed(header(shape=(1,) * 101) + NUMBERS[-8:]),
    "it declares |V0[3] but holds 0 bytes": packed(header(descr="|V0")),
    "x holds objects, expected numbers": packed(header(descr="|O") + b"cos\nsystem\n"),
    "x is damaged: ": packed(b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16),
    "x is damaged: EOF": packed(b""),
    "x has the format (3, 0), expected (1, 0) or (2, 0)": packed(b"\x93NUMPY\x03\x00" + NUMBERS[8:]),
    "x is encrypted, expected plain numbers": patched(packed(NUMBERS), 6, 8, 1),
    "x is damaged: That compression method is not supported": patched(packed(NUMBERS), 8, 10, 99),
    "x is damaged: Bad CRC-32": packed(NUMBERS).replace(NUMBERS[-24:], NUMBERS[-24:][::-1]),
    "x is damaged: Error -3 while decompressing data": packed(NUMBERS, zipfile.ZIP_DEFLATED).replace(
        packed(NUMBERS, zipfile.ZIP_DEFLATED)[40:60], b"\xff" * 20
    ),
    "x is damaged: Invalid data stream": packed(NUMBERS, zipfile.ZIP_BZIP2).replace(b"BZh9", b"BZhx"),
    "its contents are damaged: File is not a zip file": b"\x93NUMPY",
}


@pytest.mark.parametrize("said", DAMAGED)
def test_a_damaged_archive_gives_one_line_before_memory_is_taken(said):
    tracemalloc.start()
    with pytest.raises(InputError) as error:
        npz.read(io.BytesIO(DAMAGED[said]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said in str(error.value)
    assert str(error.value).count("\n") == 0
    assert peak < 10**6


def test_a_compressed_bomb_is_refused_before_it_is_opened(monkeypatch):
    bomb = io.BytesIO()
    np.savez_compressed(bomb, a=np.zeros(900), b=np.zeros(900))
    assert len(npz.read(bomb)[0]) == 2
    monkeypatch.setattr(npz, "LARGEST", 1000)
    monkeypatch.setattr(npz, "_array", None)
    with pytest.raises(InputError, match="its arrays hold 1800 numbers, expected at most 10⁸"):
        npz.read(bomb)
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.txt", "a" * 1001)
    with pytest.raises(InputError, match=r"README.txt has 1001 bytes"):
        npz.read(bomb, lambda names: [])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(save):
    arrays = {
        "scalar": np.array(1.5), "turned": np.arange(6).reshape(2, 3).T, "empty": np.zeros((0, 3)),
        "big": np.arange(3, dtype=">f8"), "flags": np.array([True, False]), "a/b": np.array([1 + 2j]),
    }  # fmt: skip
    file = io.BytesIO()
    save(file, **arrays, objects=np.array([None]))
    found, _ = npz.read(file, lambda names: [name for name in names if name != "objects"])
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].flags.writeable
