"""Handwritten digits to train on: those that come with scikit-learn, and MNIST.

MNIST is prepared by tensorflow-datasets, without TensorFlow, in a separate directory of this project, and is
read from a single array file afterwards; or it is read from four local IDX files. Either way its images and
labels are in the order of those files, and are called MNIST only if their SHA-256 is that of MNIST.
"""

import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manual_grad import npz
from manual_grad.border import InputError, require
from manual_grad.digits import load_digits_8
from manual_grad.environment import write_bytes
from manual_grad.training.idx import FILES, Arrays, check_own, find_idx, read_idx, require_mnist, unlike_mnist
from manual_grad.training.mnist import ELSEWHERE, Progress, read_or_prepare


@dataclass(frozen=True)
class Dataset:
    """Images (N, H, W), float32 in [0, 1], and labels (N,), int32 from 0 to 9; ``source`` says what they are.

    ``name`` is ``"digits"``, ``"mnist"``, or ``"idx"`` for IDX files that are not MNIST's.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str


def load(
    name: str,
    cache_dir: Path | None = None,
    source: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The data set of this name.

    Args:
        name: ``"digits"`` or ``"mnist"``.
        cache_dir, source, progress: of :func:`load_mnist`.
    Raises:
        InputError: there is no such data set, or ``source`` is given for the digits.
        MissingExtra: the package that provides it is not installed.

    >>> load("digits").name
    'digits'
    """
    require(name in ("digits", "mnist"), f"load: name is {name!r}, expected 'digits' or 'mnist'")
    if name == "mnist":
        return load_mnist(cache_dir, source, progress)
    require(
        source is None,
        f"load: source is {str(source)!r}, expected None: the digits are not read from IDX files",
    )
    return load_digits()


def load_digits() -> Dataset:
    """The real handwritten digits in scikit-learn, 8×8, with every fifth of each class held out.

    Returns:
        1442 images to train with and 355 to test on, the same for everyone.
    Raises:
        MissingExtra: scikit-learn is not installed.

    >>> digits = load_digits()
    >>> digits.train_images.shape, digits.test_images.shape
    ((1442, 8, 8), (355, 8, 8))
    """
    images, labels = load_digits_8()
    within_class = np.empty_like(labels)
    for k in range(10):
        within_class[labels == k] = np.arange(np.sum(labels == k))
    test = within_class % 5 == 4
    source = (
        f"scikit-learn's load_digits (not MNIST): {len(labels)} real handwritten digits of 8×8 pixels; "
        f"every fifth of each class, {test.sum()} in all, is held out; the same writers wrote both parts"
    )
    images, labels = images.astype(np.float32), labels.astype(np.int32)
    return Dataset("digits", images[~test], labels[~test], images[test], labels[test], source)


def load_mnist(
    cache_dir: Path | None = None,
    source: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """MNIST, from the project's cache, from four IDX files, or from the network.

    Args:
        cache_dir: where to keep it; by default ``$MANUAL_GRAD_DATA``, or ``manual-grad`` in the user's cache
            directory. It may contain ``mnist.npz`` as written here, or ``mnist/3.0.1`` as prepared by
            tensorflow-datasets with ``file_format="array_record"``, even if copied from another machine.
        source: a directory with the four IDX files, compressed (``.gz``) or not; then nothing else is used.
            Files of the same format with other digits are accepted, and the data set is named ``"idx"``.
        progress: called repeatedly with the name of a stage, the amount done and the total.
    Returns:
        60000 images to train with and 10000 to test on, 28×28.
    Raises:
        InputError: something is wrong with a file, a directory or the network; nothing half-written is left.
        MissingExtra: the data must be prepared, but tensorflow-datasets is not installed.
    """
    if source is not None:
        return _from_idx(Path(source))
    cache = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    report = progress or (lambda stage, done, total: None)
    archive = cache / "mnist.npz"
    note = ""
    try:
        if archive.exists():
            arrays = _read_archive(archive)
        else:
            arrays = read_or_prepare(cache, report)
            note = _save_archive(archive, arrays, report)
    except OSError as error:
        raise InputError(f"the data directory {cache}: {error.strerror or error}; {ELSEWHERE}") from None
    return _dataset("mnist", arrays, f"MNIST, every file's SHA-256 checked, kept in {cache}{note}")


def default_cache_dir() -> Path:
    """``$MANUAL_GRAD_DATA``, or ``manual-grad`` in this platform's cache directory."""
    if given := os.environ.get("MANUAL_GRAD_DATA"):
        return Path(given).expanduser()
    usual = {
        "win32": os.environ.get("LOCALAPPDATA") or "~/AppData/Local",
        "darwin": "~/Library/Caches",
    }.get(sys.platform, os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(usual).expanduser() / "manual-grad"


def _dataset(name: str, arrays: Arrays, source: str) -> Dataset:
    train_images, train_labels, test_images, test_labels = (arrays[file] for file in FILES)
    return Dataset(
        name,
        train_images.astype(np.float32) / 255,
        train_labels.astype(np.int32),
        test_images.astype(np.float32) / 255,
        test_labels.astype(np.int32),
        source,
    )


def _read_archive(path: Path) -> Arrays:
    try:
        arrays, _ = npz.read(path, lambda headers: FILES)
    except (InputError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path} is damaged ({reason}); delete it to have it created again") from None
    return require_mnist(arrays, path)


def _save_archive(path: Path, arrays: Arrays, report: Progress) -> str:
    """Write the array file; if that fails, the data are still available, and a note says so."""
    report("saving", 0, 1)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    try:
        write_bytes(path, content.getvalue())
    except OSError as error:
        return f"; {path.name} could not be written there ({error.strerror}), so reading it will stay slow"
    report("saving", 1, 1)
    return ""


def _from_idx(folder: Path) -> Dataset:
    require(folder.is_dir(), f"the IDX files' directory {str(folder)!r} is not a directory")
    arrays = {file: read_idx(find_idx(folder, file)) for file in FILES}
    check_own(arrays, folder)
    unlike = unlike_mnist(arrays)
    if unlike:
        return _dataset("idx", arrays, f"the IDX files in {folder}, not MNIST: {unlike[0]}")
    return _dataset("mnist", arrays, f"MNIST, every file's SHA-256 checked, from the IDX files in {folder}")
