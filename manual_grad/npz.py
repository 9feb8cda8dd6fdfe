"""Read NumPy archives that others may have written or damaged, within limits.

Each header is compared with the size of its member, and the numbers in all arrays are counted, before memory
is allocated for any of them.
"""

import contextlib
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from manual_grad.border import InputError

LARGEST = 10**8  # numbers in the arrays that are read, and bytes of a text
AXES = 32


class Header(NamedTuple):
    """A member's header; ``start`` is the offset of its numbers."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    start: int


Choose = Callable[[list[str]], Iterable[str]]


def read(
    file: Path | BinaryIO, choose: Choose = list, objects: str = "holds objects"
) -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
    """The arrays and texts of an ``.npz`` archive.

    Args:
        file: the archive.
        choose: given the names of the arrays, returns those to read (by default all); it may raise.
        objects: how the error message describes an array of objects.
    Returns:
        ``(arrays, texts)``, two dicts by name; array names lack ``.npy``.
    Raises:
        InputError: the archive is damaged or encrypted, or it holds objects or more than 10⁸ numbers; the
            message does not name the file.
        OSError: the archive cannot be read.

    >>> import io
    >>> file = io.BytesIO()
    >>> np.savez(file, x=np.arange(3))
    >>> read(file)[0]["x"].tolist()
    [0, 1, 2]
    >>> read(io.BytesIO(b"no archive"))
    Traceback (most recent call last):
    manual_grad.border.InputError: its contents are damaged: File is not a zip file
    """
    with _damage_told("its contents are damaged"), zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        for name, info in members.items():
            if info.flag_bits & 1:
                raise InputError(f"{name.removesuffix('.npy')} is encrypted, expected plain numbers")
        found = {name.removesuffix(".npy"): info for name, info in members.items() if name.endswith(".npy")}
        wanted = list(dict.fromkeys(choose(list(found))))
        headers = {name: _header(archive, name, found[name], objects) for name in wanted}
        numbers = sum(math.prod(headers[name].shape) for name in wanted)
        if numbers > LARGEST:
            raise InputError(f"its arrays hold {numbers} numbers, expected at most 10⁸")
        arrays = {name: _array(archive, name, found[name], headers[name]) for name in wanted}
        texts = {n: _text(archive, n, info) for n, info in members.items() if not n.endswith(".npy")}
        return arrays, texts


@contextlib.contextmanager
def _damage_told(what: str) -> Iterator[None]:
    """Turn whatever a damaged file makes its reader raise into one line; errors of the disk pass through."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{what}: {said[:200]}") from None


def _header(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo, objects: str) -> Header:
    """An array's header, if its member has exactly that size."""
    with _damage_told(f"{name} is damaged"), archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(member)
        else:
            raise InputError(f"{name} has the format {version}, expected (1, 0) or (2, 0)")
        if dtype.hasobject:
            raise InputError(f"{name} {objects}, expected numbers")
        declared, there = math.prod(shape) * dtype.itemsize, info.file_size - member.tell()
        if len(shape) > AXES:
            raise InputError(f"{name} is damaged: it has {len(shape)} axes, expected at most {AXES}")
        if min(shape, default=0) < 0 or not dtype.itemsize or declared != there:
            raise InputError(f"{name} is damaged: it declares {dtype}{list(shape)} but holds {there} bytes")
        return Header(dtype, shape, fortran, member.tell())


def _array(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo, header: Header) -> np.ndarray:
    flat = np.empty(math.prod(header.shape), header.dtype)
    with _damage_told(f"{name} is damaged"), archive.open(info) as member:
        member.read(header.start)
        # The last iteration verifies the checksum.
        rest, view = flat.nbytes, memoryview(flat.view(np.uint8))  # type: ignore[arg-type]
        while rest:
            got = member.readinto(view[flat.nbytes - rest :])  # type: ignore[attr-defined]
            if not got:
                raise InputError(f"{name} is damaged: {rest} bytes are missing")
            rest -= got
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def _text(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > LARGEST:
        raise InputError(f"{name} has {info.file_size} bytes, expected at most 10⁸")
    with _damage_told(f"{name} is damaged"):
        return archive.read(info)
