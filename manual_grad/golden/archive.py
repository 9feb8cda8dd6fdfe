"""Arrays and texts in one file that others can read: ``.npz`` or ``.safetensors``, the same bytes every time.

A ``.safetensors`` file consists of the length of its header in eight bytes, the header in JSON, and the raw
bytes of the arrays: reading and writing it takes forty lines here instead of a dependency. Unlike ``.npz``,
the format has no checksums; ours is stored among the texts as ``crc32``. NumPy has no bfloat16: in an
``.npz`` such an array is stored as float32, which represents every bfloat16 number exactly.
"""

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from manual_grad import npz
from manual_grad.border import InputError
from manual_grad.forms import TEXT, misfit, parsed, several, whole

LARGEST = 10**9  # bytes
SUFFIXES = (".npz", ".safetensors")
CODES = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": jnp.dtype(jnp.bfloat16), "I64": np.dtype(np.int64), "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16), "I8": np.dtype(np.int8), "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32), "U16": np.dtype(np.uint16), "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}  # fmt: skip


def packed(suffix: str, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> bytes:
    """The bytes of an archive.

    Args:
        suffix: ``.npz`` or ``.safetensors``.
        arrays: name → array, of floating-point numbers or integers.
        texts: name → text; members of the ``.npz``, entries of ``__metadata__`` in the other.
    Returns:
        The bytes, which depend only on the arguments.

    >>> data = packed(".safetensors", {"x": np.array([1.5, -2.0], np.float32)}, {"README": "two numbers"})
    >>> data[8:52]
    b'{"__metadata__":{"README":"two numbers","crc'
    >>> unpacked(data, ".safetensors")[0]["x"].tolist()
    [1.5, -2.0]
    """
    ordered = {name: _plain(a) for name, a in arrays.items()}
    return _npz(ordered, texts) if suffix == ".npz" else _safetensors(ordered, texts)


def unpacked(data: bytes, suffix: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and texts of an archive.

    Args:
        data: its bytes.
        suffix: ``.npz`` or ``.safetensors``.
    Returns:
        ``(arrays, texts)``, each by name.
    Raises:
        InputError: it is not an archive of that kind, is cut short, or holds objects.

    >>> unpacked(b"no archive", ".npz")
    Traceback (most recent call last):
    manual_grad.border.InputError: it is not an .npz archive
    """
    return _unpack_npz(data) if suffix == ".npz" else _unpack_safetensors(data)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and texts of a file.

    Args:
        path: an ``.npz`` or ``.safetensors`` file.
    Returns:
        ``(arrays, texts)``, each by name.
    Raises:
        InputError: there is no such file, or it is not what its suffix says.
    """
    require_suffix("the archive", path)
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}")
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"it has {path.stat().st_size} bytes, expected at most {LARGEST}")
        return unpacked(path.read_bytes(), path.suffix)
    except (InputError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def require_suffix(what: str, path: Path) -> None:
    """Refuse a file name with another suffix."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{what} is {str(path)!r}, expected a name that ends in {' or '.join(SUFFIXES)}")


def _plain(array: np.ndarray) -> np.ndarray:
    """Row-major, little-endian."""
    array = np.asarray(array)
    array = array if array.flags.c_contiguous else array.copy("C")
    return array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array


def _npz(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> bytes:
    """Uncompressed, with texts after the arrays, so that a reader of arrays alone finds those first."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            exact = array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
            np.lib.format.write_array(member, exact, version=(1, 0), allow_pickle=False)
            archive.writestr(_dated(f"{name}.npy"), member.getvalue())
        for name, text in texts.items():
            archive.writestr(_dated(name), text.encode())
    return file.getvalue()


def _dated(name: str) -> zipfile.ZipInfo:
    """A member that does not record when and where it was written."""
    member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    member.external_attr, member.create_system = 0o644 << 16, 3
    return member


def _unpack_npz(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        cut = "it is an .npz archive that is cut short" if data[:2] == b"PK" else "it is not an .npz archive"
        raise InputError(cut)
    arrays, texts = npz.read(io.BytesIO(data))
    return {n: _from_npz(a) for n, a in arrays.items()}, {
        n: t.decode(errors="replace") for n, t in texts.items()
    }


def _from_npz(array: np.ndarray) -> np.ndarray:
    """Restore bfloat16: NumPy saves ml_dtypes' bfloat16 as two bytes without a name."""
    return array.view(jnp.bfloat16) if array.dtype.kind == "V" and array.dtype.itemsize == 2 else array


def _safetensors(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> bytes:
    """Names ordered by item size, the widest first, so that every array is aligned."""
    codes = {dtype: code for code, dtype in CODES.items()}
    ordered = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, Any] = {}
    end = 0
    for name, a in ordered:
        header[name] = {
            "dtype": codes[a.dtype],
            "shape": list(a.shape),
            "data_offsets": [end, end + a.nbytes],
        }
        end += a.nbytes
    body = b"".join(a.tobytes() for _, a in ordered)
    about = {"__metadata__": {**texts, "crc32": _checksum(header, texts, body)}}
    text = json.dumps(about | header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _checksum(header: dict[str, Any], texts: Mapping[str, str], body: bytes | memoryview) -> str:
    return f"{zlib.crc32(body, zlib.crc32(json.dumps([header, dict(texts)], sort_keys=True).encode())):08x}"


ENTRY = {"dtype": TEXT, "shape": [whole(0)], "data_offsets": several(whole(0), 2)}


def _unpack_safetensors(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else len(data)
    try:
        header = parsed(data[8 : 8 + length])
        texts = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
    except (ValueError, AttributeError, TypeError):
        cut = data[8:9] == b"{" and 8 + length > len(data)
        raise InputError(
            "it is a .safetensors file that is cut short" if cut else "it is not a .safetensors file"
        ) from None
    if found := misfit(header, {"*": ENTRY}):
        raise InputError(f"it is not a .safetensors file: {found}")
    body = memoryview(data)[8 + length :]
    checksum = texts.pop("crc32", None)  # files of others have none
    if checksum not in (None, _checksum(header, texts, body)):
        raise InputError("it is a .safetensors file that is damaged: its checksum does not match")
    return {name: _tensor(name, entry, body) for name, entry in header.items()}, texts


def _tensor(name: str, entry: dict[str, Any], body: memoryview) -> np.ndarray:
    if entry["dtype"] not in CODES:
        raise InputError(f"{name} has the dtype {entry['dtype']}, expected one of {', '.join(CODES)}")
    dtype, shape, (begin, end) = CODES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if end > len(body):
        raise InputError(f"it is cut short: {name} ends at byte {end} of {len(body)}")
    if len(shape) > npz.AXES:
        raise InputError(f"{name} has {len(shape)} axes, expected at most {npz.AXES}")
    if not 0 <= begin <= end or end - begin != dtype.itemsize * math.prod(shape):
        raise InputError(
            f"{name} has {end - begin} bytes, expected {dtype.itemsize} for each number of {shape}"
        )
    return np.frombuffer(bytes(body[begin:end]), dtype).reshape(shape)
