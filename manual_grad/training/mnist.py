"""MNIST through tensorflow-datasets, without TensorFlow: downloaded, prepared and read back."""

import hashlib
import json
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from manual_grad.border import InputError
from manual_grad.digits import MissingExtra
from manual_grad.training.idx import FILES, Arrays, read_idx, require_mnist

SILENCE = 6.0  # seconds without a byte before giving up on a server
WAYS_OUT = (
    "MNIST has to be downloaded once; otherwise give its four IDX files with --mnist-source DIR, "
    "or use scikit-learn's digits with --data digits"
)
ELSEWHERE = "choose another directory with MANUAL_GRAD_DATA=DIR"
Progress = Callable[[str, int, int], Any]


def read_or_prepare(cache: Path, report: Progress) -> Arrays:
    """Read what tensorflow-datasets has prepared in ``cache``, after preparing it if nothing is there.

    Raises:
        InputError: something is wrong with the network, a server or the directory; nothing is half-written.
        MissingExtra: tensorflow-datasets is not installed.
        OSError: ``cache`` cannot be written.
    """
    with _quiet_tfds() as stock:
        home = Path("mnist", str(stock.VERSION))
        if (cache / home).exists():
            return _read_prepared(cache, home, report)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".preparing-", dir=cache) as folder:
            part = Path(folder)
            _download(stock, part / "downloads", report)
            _build(stock, part, report)
            arrays = _read_prepared(part, home, report)  # before anyone else can see it
            (cache / "mnist").mkdir(exist_ok=True)
            try:
                os.rename(part / home, cache / home)
            except OSError:  # another process was faster: its directory is as good
                if not (cache / home).exists():
                    raise
        return arrays


@contextmanager
def _quiet_tfds() -> Iterator[Any]:
    """The stock builder of MNIST, with its library's progress bars and warnings switched off."""
    try:
        import array_record.python.array_record_module  # noqa: F401
        import PIL.Image  # noqa: F401
        import tensorflow_datasets as tfds
        from absl import logging
        from tensorflow_datasets.image_classification import mnist
    except ImportError as error:
        missing = f"MNIST is prepared by tensorflow-datasets, which cannot be imported ({error})"
        raise MissingExtra(
            f"{missing}: pip install 'manual-grad[mnist]', or give its four IDX files with --mnist-source DIR"
        ) from None
    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield mnist.MNIST
    finally:
        logging.set_verbosity(verbosity)


def _download(stock: Any, folder: Path, report: Progress) -> None:
    """Fetch the four compressed files into ``folder`` and check the size and SHA-256 of each."""
    folder.mkdir()
    total, done = sum(int(info.size) for info in stock.url_infos.values()), 0
    pieces: queue.Queue = queue.Queue()
    for file in FILES:
        url = f"{stock.URL}{file}.gz"
        threading.Thread(target=_fetch, args=(url, pieces), daemon=True).start()
        content = bytearray()
        while piece := _next_piece(pieces, url):
            content += piece
            report("downloading", done + len(content), total)
        done += len(content)
        expected, sha256 = stock.url_infos[url], hashlib.sha256(content).hexdigest()
        if sha256 != expected.checksum:
            raise InputError(
                f"{url} gave {len(content)} bytes with SHA-256 {sha256[:12]}…, expected {int(expected.size)} "
                f"with {expected.checksum[:12]}…; {WAYS_OUT}"
            )
        (folder / f"{file}.gz").write_bytes(content)


def _fetch(url: str, pieces: queue.Queue) -> None:
    """Put the pieces of a file into the queue, then nothing; or the exception that ended it.

    It runs in a separate thread, so that the main thread can give up whatever does not respond: the name
    lookup, the connection or the transfer.
    """
    import requests

    try:
        headers = {"Accept-Encoding": "identity"}
        with requests.get(url, stream=True, timeout=2 * SILENCE, headers=headers) as answer:
            answer.raise_for_status()
            for piece in answer.iter_content(1 << 16):
                pieces.put(piece)
        pieces.put(b"")
    except Exception as error:  # reported by the main thread
        pieces.put(error)


def _next_piece(pieces: queue.Queue, url: str) -> bytes:
    try:
        piece = pieces.get(timeout=SILENCE)
    except queue.Empty:
        raise InputError(f"{url} did not answer for {SILENCE:g} s; {WAYS_OUT}") from None
    if isinstance(piece, Exception):
        raise InputError(f"{url} could not be fetched ({_root_cause(piece)}); {WAYS_OUT}")
    return piece


def _root_cause(error: BaseException) -> str:
    """The root cause of an exception of requests, or the status returned by the server."""
    answer = getattr(error, "response", None)
    if answer is not None:
        return f"{answer.status_code} {answer.reason}"
    while error.__context__ is not None:
        error = error.__context__
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


def _build(stock: Any, folder: Path, report: Progress) -> None:
    """Prepare ``folder/mnist`` from the packed files in ``folder/downloads``, with the library's own checks.

    The stock builder unpacks, reads and encodes with TensorFlow; this one uses gzip, NumPy and Pillow. Its
    output is identical to that of the stock builder.
    """
    import tensorflow_datasets as tfds
    from PIL import Image

    total = sum(shape[0] for shape, _ in FILES.values()) // 2
    done = 0

    class Builder(stock, skip_registration=True):  # type: ignore[call-arg]
        name = "mnist"

        def _split_generators(self, dl_manager):
            paths = dl_manager.download({file: f"{stock.URL}{file}.gz" for file in FILES})
            train_images, train_labels, test_images, test_labels = (read_idx(Path(paths[f])) for f in FILES)
            return {
                "train": self._generate_examples(train_images, train_labels),
                "test": self._generate_examples(test_images, test_labels),
            }

        def _generate_examples(self, images, labels):
            nonlocal done
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield i, {"image": Image.fromarray(image), "label": int(label)}
                done += 1
                if done % 1000 == 0 or done == total:
                    report("preparing", done, total)

        def _log_download_bytes(self):
            """Print nothing."""

        def _log_download_done(self):
            """Print nothing."""

    downloads = folder / "downloads"
    try:
        Builder(data_dir=folder).download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(manual_dir=downloads),
            file_format="array_record",
        )
    except RuntimeError as error:  # raised by the writer; others are OSErrors
        raise OSError(_one_line(error)) from None


def _read_prepared(data_dir: Path, home: Path, report: Progress) -> Arrays:
    """The arrays of a prepared directory, in the order of the original files."""
    where = data_dir / home
    try:
        info = json.loads((where / "dataset_info.json").read_text())
        file_format = info.get("fileFormat") or "tfrecord"
    except (OSError, ValueError, AttributeError) as error:
        said = f"{where} is not a prepared directory ({error}); delete it, or {ELSEWHERE}"
        raise InputError(said) from None
    if file_format != "array_record":
        raise InputError(f"{where} holds MNIST as {file_format}, expected array_record; {ELSEWHERE}")
    try:
        arrays = _read_split(data_dir, "train", report) + _read_split(data_dir, "test", report)
    except Exception as error:  # a missing or damaged shard may raise many kinds of errors
        raise InputError(
            f"{where} is damaged ({_one_line(error)}); delete it to have it prepared again"
        ) from None
    return require_mnist(dict(zip(FILES, arrays, strict=True)), where)


def _read_split(data_dir: Path, split: str, report: Progress) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    records = tfds.data_source("mnist", split=split, data_dir=data_dir)
    n = len(records)
    images, labels = np.empty((n, 28, 28), np.uint8), np.empty(n, np.uint8)
    # the writer has shuffled them by this hash of the split's name and the position in the file
    order = sorted(
        range(n), key=lambda i: hashlib.md5(f"{split}{i}".encode(), usedforsecurity=False).digest()
    )
    for start in range(0, n, 1000):
        chunk = records.__getitems__(list(range(start, min(start + 1000, n))))
        places = order[start : start + len(chunk)]
        images[places] = np.stack([record["image"][..., 0] for record in chunk])
        labels[places] = [record["label"] for record in chunk]
        report(f"reading {split}", start + len(chunk), n)
    return images, labels
