"""The IDX files in which MNIST is published: reading them, and telling MNIST from other digits."""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from manual_grad.border import InputError, require

FILES = {  # the shape of each IDX file, and the SHA-256 of its unpacked bytes
    "train-images-idx3-ubyte": (
        (60000, 28, 28),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        (60000,),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        (10000, 28, 28),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        (10000,),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
Arrays = dict[str, np.ndarray]  # the four files' contents, uint8, by their names in FILES


def find_idx(folder: Path, file: str) -> Path:
    """The path in ``folder`` of the file with this name in ``FILES``, compressed or not.

    Raises:
        InputError: it has none.
    """
    names = (f"{file}.gz", file, file.replace("-idx", ".idx"))
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"there is no {file}.gz or {file} in {folder}; expected the four IDX files of MNIST")
    return found


def idx_header(shape: tuple[int, ...]) -> bytes:
    """The first bytes of an IDX file of unsigned bytes.

    >>> idx_header((3, 2)).hex(" ", 4)
    '00000802 00000003 00000002'
    """
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)


def read_idx(path: Path) -> np.ndarray:
    """The images or labels of one IDX file, depending on its name; uint8.

    Raises:
        InputError: it cannot be read or decompressed, or its length differs from its header.
    """
    ndim = 3 if "idx3" in path.name else 1
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be unpacked: {getattr(error, 'strerror', None) or error}") from None
    size, magic = 4 + 4 * ndim, bytes((0, 0, 8, ndim))
    if len(data) < size or data[:4] != magic:
        start = data[:4].hex() or "nothing"
        raise InputError(
            f"{path} is not an IDX file: it starts with {start}, expected {magic.hex()} and its shape"
        )
    shape = struct.unpack(f">{ndim}I", data[4:size])
    if len(data) - size != math.prod(shape):
        found = f"{path} holds {len(data) - size} bytes after its header"
        raise InputError(f"{found}, expected {math.prod(shape)} for {list(shape)}")
    return np.frombuffer(data, np.uint8, offset=size).reshape(shape)


def check_own(arrays: Arrays, folder: Path) -> None:
    """Check IDX files of any origin for what a data set needs.

    Raises:
        InputError: counts or image sizes differ, there are none, or a label is above 9.
    """
    train, train_labels, test, test_labels = (arrays[file] for file in FILES)
    for part, images, labels in (("train", train, train_labels), ("t10k", test, test_labels)):
        counts = f"{folder}: {part} has {len(images)} images and {len(labels)} labels"
        matching = len(images) == len(labels) and images.size > 0
        require(matching, f"{counts}, expected at least one image, and a label for each")
        worst = labels.max()
        require(worst <= 9, f"{folder}: a label in {part} is {worst}, expected an integer from 0 to 9")
    sizes = f"{folder}: the images are {list(train.shape[1:])} in train and {list(test.shape[1:])} in t10k"
    require(train.shape[1:] == test.shape[1:], f"{sizes}, expected the same size")


def unlike_mnist(arrays: Arrays) -> list[str]:
    """For each array that differs from MNIST, a description of it and of the expected one."""
    findings = []
    for file, (shape, sha256) in FILES.items():
        array = arrays[file]
        if array.shape != shape or array.dtype != np.uint8:
            findings.append(f"{file} is {array.dtype}{list(array.shape)}, expected uint8{list(shape)}")
        else:
            digest = hashlib.sha256(idx_header(shape))
            digest.update(np.ascontiguousarray(array).data)
            if digest.hexdigest() != sha256:
                findings.append(f"{file} has another SHA-256")
    return findings


def require_mnist(arrays: Arrays, where: Path) -> Arrays:
    """``arrays`` themselves.

    Raises:
        InputError: they are not MNIST, to the last bit.
    """
    findings = unlike_mnist(arrays)
    require(not findings, f"{where} is not MNIST: {'; '.join(findings)}; delete it to have it prepared again")
    return arrays
