"""Digits to train on: every way to get them, and every failure, actually caused."""

import gzip
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from manual_grad.border import InputError
from manual_grad.digits import MissingExtra
from manual_grad.training import data, mnist
from tests.training import tiny

ROOT = Path(__file__).parents[2]
PREPARED = Path("mnist", "3.0.1")


@pytest.fixture
def files(tmp_path):
    """A folder of tiny IDX files, and what they hold."""
    folder = tmp_path / "files"
    return folder, tiny.write_files(folder)


@pytest.fixture
def taken(files, monkeypatch):
    """They are taken for MNIST; what they hold."""
    tiny.take_for_mnist(monkeypatch, *files)
    return files[1]


@pytest.fixture
def served(files, monkeypatch):
    """They are taken for MNIST, and a server has them; what they hold."""
    with tiny.server(files[0]) as url:
        tiny.take_for_mnist(monkeypatch, *files, url)
        yield files[1]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A cache directory as a first run leaves it, and what was in the files."""
    home = tmp_path_factory.mktemp("prepared")
    arrays = tiny.write_files(home / "files")
    with tiny.server(home / "files") as url, pytest.MonkeyPatch.context() as patch:
        tiny.take_for_mnist(patch, home / "files", arrays, url)
        data.load_mnist(home / "cache")
    return home / "cache", arrays


@pytest.fixture
def copied(prepared, tmp_path, monkeypatch):
    """That cache directory copied elsewhere, no network; what was in the files is taken for MNIST."""
    cache = tmp_path / "copied"
    shutil.copytree(prepared[0], cache)
    tiny.take_for_mnist(monkeypatch, None, prepared[1])
    monkeypatch.setattr(mnist, "_download", no_network)
    return cache, prepared[1]


def no_network(*_):
    raise AssertionError("it went to the network")


def assert_holds(found, arrays):
    train_images, train_labels, test_images, test_labels = arrays.values()
    np.testing.assert_array_equal(found.train_images, train_images.astype(np.float32) / 255)
    np.testing.assert_array_equal(found.train_labels, train_labels)
    np.testing.assert_array_equal(found.test_images, test_images.astype(np.float32) / 255)
    np.testing.assert_array_equal(found.test_labels, test_labels)
    assert found.train_images.dtype == found.test_images.dtype == np.float32
    assert found.train_labels.dtype == found.test_labels.dtype == np.int32


def refused(*words, cache=None, source=None):
    """The one clear line of load_mnist's error; it contains these words."""
    with pytest.raises(InputError) as caught:
        data.load_mnist(cache, source)
    line = str(caught.value)
    assert "\n" not in line
    assert not [word for word in words if word not in line], line


def left_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# -- the digits inside scikit-learn


def test_the_digits_are_all_there_and_no_image_is_in_both_parts():
    digits = data.load_digits()
    images = np.concatenate([digits.train_images, digits.test_images])
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    parts = [{image.tobytes() for image in part} for part in (digits.train_images, digits.test_images)]
    assert len(images) == 1797
    assert not parts[0] & parts[1]


def test_every_fifth_digit_of_each_class_is_held_out():
    digits = data.load_digits()
    train, test = np.bincount(digits.train_labels), np.bincount(digits.test_labels)
    assert list(test) == list((train + test) // 5)


def test_the_digits_are_never_called_mnist():
    digits = data.load("digits")
    assert digits.name == "digits"
    assert "not MNIST" in digits.source
    assert "scikit-learn" in digits.source


def test_mnist_is_not_replaced_by_the_digits_if_unavailable(tmp_path, files, monkeypatch):
    with tiny.server(files[0], "404") as url:
        tiny.take_for_mnist(monkeypatch, *files, url)
        with pytest.raises(InputError, match="--data digits"):
            data.load("mnist", tmp_path / "cache")


def test_an_unknown_name_and_a_source_for_the_digits_are_refused(tmp_path):
    with pytest.raises(InputError, match="name is 'cifar', expected 'digits' or 'mnist'"):
        data.load("cifar")
    with pytest.raises(InputError, match=r"source is .*, expected None"):
        data.load("digits", source=tmp_path)


# -- four local IDX files


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_of_mnist_are_called_mnist(files, taken, monkeypatch, packed):
    monkeypatch.setattr(mnist, "_download", no_network)
    if not packed:
        for path in files[0].iterdir():
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    found = data.load("mnist", source=files[0])
    assert_holds(found, taken)
    assert (found.name, found.source[:5]) == ("mnist", "MNIST")


def test_idx_files_of_other_digits_are_read_but_not_called_mnist(files):
    found = data.load_mnist(source=files[0])
    assert_holds(found, files[1])
    assert found.name == "idx"
    assert (
        "not MNIST: train-images-idx3-ubyte is uint8[23, 28, 28], expected uint8[60000, 28, 28]"
        in found.source
    )


def test_one_changed_pixel_is_not_mnist(files, taken):
    changed = taken["t10k-images-idx3-ubyte"].copy()
    changed[3, 14, 14] ^= 1
    (files[0] / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(tiny.unpacked(changed)))
    found = data.load_mnist(source=files[0])
    assert found.name == "idx"
    assert found.source.endswith("not MNIST: t10k-images-idx3-ubyte has another SHA-256")


def labels(*values):
    return gzip.compress(tiny.unpacked(np.array(values, np.uint8)))


def halved(packed):
    return packed[: len(packed) // 2]


def cut(packed):
    return gzip.compress(gzip.decompress(packed)[:-1])


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("train-images-idx3-ubyte", halved, ["cannot be unpacked", "ended before"]),
        ("train-images-idx3-ubyte", cut, ["holds 18031 bytes", "expected 18032 for [23, 28, 28]"]),
        ("train-labels-idx1-ubyte", lambda _: b"<html>", ["cannot be unpacked", "gzipped"]),
        (
            "train-labels-idx1-ubyte",
            lambda _: gzip.compress(b""),
            ["starts with nothing", "expected 00000801"],
        ),
        ("t10k-images-idx3-ubyte", lambda _: labels(1, 2), ["starts with 00000801", "expected 00000803"]),
        ("t10k-labels-idx1-ubyte", lambda _: labels(1, 2), ["t10k has 11 images and 2 labels"]),
        ("t10k-labels-idx1-ubyte", lambda _: labels(*range(11)), ["label in t10k is 10", "from 0 to 9"]),
    ],
)
def test_a_wrong_idx_file_gives_one_clear_line(files, file, damage, words):
    path = files[0] / f"{file}.gz"
    path.write_bytes(damage(path.read_bytes()))
    refused(file.split("-")[0], *words, source=files[0])


def test_images_of_two_sizes_are_refused(files):
    small = gzip.compress(tiny.unpacked(np.zeros((11, 8, 8), np.uint8)))
    (files[0] / "t10k-images-idx3-ubyte.gz").write_bytes(small)
    refused("[28, 28] in train and [8, 8] in t10k", source=files[0])


def test_missing_idx_files_are_named(files, tmp_path):
    (files[0] / "t10k-labels-idx1-ubyte.gz").unlink()
    refused("no t10k-labels-idx1-ubyte.gz", str(files[0]), source=files[0])
    refused("nowhere' is not a directory", source=tmp_path / "nowhere")


# -- from the network, through tensorflow-datasets


def test_mnist_is_fetched_prepared_and_kept_with_progress(served, tmp_path, capfd):
    stages = {}
    cache = tmp_path / "new" / "cache"
    found = data.load_mnist(cache, progress=lambda stage, done, total: stages.update({stage: (done, total)}))
    assert_holds(found, served)
    assert found.name == "mnist"
    assert list(stages) == ["downloading", "preparing", "reading train", "reading test", "saving"]
    assert all(done == total > 0 for done, total in stages.values())
    assert len(left_in(cache)) == 5, "the array file, two shards, two descriptions, nothing else"
    assert capfd.readouterr() == ("", ""), "the library keeps its bars and warnings to itself"


def test_the_stock_library_reads_what_was_prepared(prepared):
    import tensorflow_datasets as tfds

    cache, arrays = prepared
    stock = tfds.data_source("mnist", split="test", data_dir=cache)
    found = sorted((int(record["label"]), record["image"].tobytes()) for record in stock)
    images, digits = arrays["t10k-images-idx3-ubyte"], arrays["t10k-labels-idx1-ubyte"]
    assert found == sorted((int(k), image.tobytes()) for k, image in zip(digits, images, strict=True))


def test_no_tensorflow_was_needed(prepared):
    assert prepared
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("404", ["train-images", "404 Not Found"]),
        ("wrong", ["train-labels", "gave 27 bytes with SHA-256", "expected 49 with"]),
        ("truncated", ["train-images", "more expected"]),
        ("silent", ["train-images", "did not answer for 0.3 s"]),
        ("stalls", ["t10k-images", "did not answer for 0.3 s"]),
    ],
)
def test_a_bad_server_gives_one_clear_line_and_leaves_nothing(files, tmp_path, monkeypatch, manner, words):
    monkeypatch.setattr(mnist, "SILENCE", 0.3)
    with tiny.server(files[0], manner) as url:
        tiny.take_for_mnist(monkeypatch, *files, url)
        refused(
            *words,
            "MNIST has to be downloaded once",
            "--mnist-source DIR",
            "--data digits",
            cache=tmp_path / "cache",
        )
    assert not left_in(tmp_path / "cache")
    assert not os.listdir(tmp_path / "cache")


def test_no_network_gives_one_clear_line_within_ten_seconds(files, tmp_path, monkeypatch):
    with tiny.server(files[0]) as url:
        tiny.take_for_mnist(monkeypatch, *files, url)  # nobody listens there afterwards
    start = time.monotonic()
    refused("Connection refused", "--mnist-source DIR", "--data digits", cache=tmp_path / "cache")
    assert time.monotonic() - start < 5
    assert mnist.SILENCE <= 6, "after which a network that swallows everything is given up"


@pytest.mark.parametrize("package", ["array_record", "PIL", "tensorflow_datasets"])
def test_a_missing_extra_gives_one_clear_line(tmp_path, monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"pip install 'manual-grad\[mnist\]'") as caught:
        data.load_mnist(tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_two_processes_preparing_at_once_both_succeed(files, tmp_path):
    program = (
        "import sys, pytest; from pathlib import Path; from tests.training import tiny;"
        "from manual_grad.training import data;"
        "folder, cache, url = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3];"
        "arrays = tiny.write_files(folder / 'again');"
        "tiny.take_for_mnist(pytest.MonkeyPatch(), folder, arrays, url);"
        "found = data.load_mnist(cache);"
        "print((found.train_images * 255 == arrays['train-images-idx3-ubyte']).all())"
    )
    both = threading.Barrier(2)  # neither gets its first file before the other asks for it
    with tiny.server(files[0], barrier=both) as url:
        words = [sys.executable, "-c", program, files[0], tmp_path / "cache", url]
        runs = [subprocess.Popen(words, cwd=ROOT, stdout=-1, stderr=-1, text=True) for _ in range(2)]
        ends = [run.communicate(timeout=120) for run in runs]
    assert ends == [("True\n", "")] * 2
    assert len(left_in(tmp_path / "cache")) == 5


# -- what was prepared earlier


def test_the_array_file_alone_is_enough_and_needs_no_extra(copied, monkeypatch):
    cache, arrays = copied
    shutil.rmtree(cache / "mnist")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert_holds(data.load_mnist(cache), arrays)


def test_a_prepared_directory_alone_is_enough(copied):
    cache, arrays = copied
    (cache / "mnist.npz").unlink()
    assert_holds(data.load_mnist(cache), arrays)
    assert (cache / "mnist.npz").exists()


def test_the_directory_is_taken_from_the_environment_and_the_argument_wins(copied, tmp_path, monkeypatch):
    cache, arrays = copied
    monkeypatch.setenv("MANUAL_GRAD_DATA", str(cache))
    assert_holds(data.load_mnist(), arrays)
    monkeypatch.setenv("MANUAL_GRAD_DATA", str(tmp_path / "nothing"))
    assert_holds(data.load_mnist(cache), arrays)


def test_by_default_it_is_the_users_cache(monkeypatch):
    monkeypatch.delenv("MANUAL_GRAD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setattr(sys, "platform", "linux")
    assert data.default_cache_dir() == Path("/somewhere/manual-grad")


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def test_a_truncated_array_file_gives_one_clear_line(copied):
    truncate(copied[0] / "mnist.npz")
    refused("mnist.npz is damaged", "delete it", cache=copied[0])


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_another_file_in_its_place_gives_one_clear_line(copied, content):
    archive = copied[0] / "mnist.npz"
    archive.write_bytes(content if content is not None else (ROOT / "README.md").read_bytes())
    refused("mnist.npz is damaged", "delete it", cache=copied[0])


def test_an_array_file_with_other_digits_is_not_mnist(copied):
    cache, arrays = copied
    arrays = dict(arrays)
    arrays["train-labels-idx1-ubyte"] = 9 - arrays["train-labels-idx1-ubyte"]
    np.savez_compressed(cache / "mnist.npz", **arrays)
    refused("is not MNIST: train-labels-idx1-ubyte has another SHA-256", cache=cache)
    arrays["t10k-images-idx3-ubyte"] = arrays["t10k-images-idx3-ubyte"].astype(float)
    np.savez_compressed(cache / "mnist.npz", **arrays)
    refused("t10k-images-idx3-ubyte is float64[11, 28, 28], expected uint8[11, 28, 28]", cache=cache)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda home: (home / "mnist-test.array_record-00000-of-00001").unlink(), ["is damaged", "delete"]),
        (lambda home: truncate(home / "mnist-train.array_record-00000-of-00001"), ["is damaged", "delete"]),
        (
            lambda home: (home / "dataset_info.json").unlink(),
            ["not a prepared directory", "dataset_info.json"],
        ),
        (lambda home: truncate(home / "dataset_info.json"), ["not a prepared directory"]),
    ],
)
def test_a_damaged_prepared_directory_gives_one_clear_line(copied, damage, words):
    (copied[0] / "mnist.npz").unlink()
    damage(copied[0] / PREPARED)
    refused(str(PREPARED), *words, cache=copied[0])


def test_a_directory_of_tfrecords_gives_one_clear_line(copied):
    """It is what tensorflow-datasets writes where TensorFlow is installed."""
    (copied[0] / "mnist.npz").unlink()
    info = copied[0] / PREPARED / "dataset_info.json"
    info.write_text(info.read_text().replace('"fileFormat": "array_record"', '"fileFormat": "tfrecord"'))
    refused("holds MNIST as tfrecord, expected array_record", "MANUAL_GRAD_DATA", cache=copied[0])
    info.write_text(info.read_text().replace('"fileFormat": "tfrecord",', ""))
    refused("holds MNIST as tfrecord, expected array_record", cache=copied[0])


def test_an_interruption_leaves_nothing(served, tmp_path):
    def interrupt(stage, *_):
        assert served
        if stage == "preparing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.load_mnist(tmp_path / "cache", progress=interrupt)
    assert not os.listdir(tmp_path / "cache")


# -- disks and directories


@contextmanager
def full_disk(free):
    """No file of this process can grow beyond this many bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("free", [5_000, 20_000], ids=["while downloading", "while preparing"])
def test_a_full_disk_gives_one_clear_line_and_leaves_nothing(served, tmp_path, free):
    assert served
    with full_disk(free):
        refused(str(tmp_path / "cache"), "File too large", "MANUAL_GRAD_DATA", cache=tmp_path / "cache")
    assert not os.listdir(tmp_path / "cache")


def test_data_are_available_even_if_only_the_array_file_does_not_fit(copied):
    cache, arrays = copied
    (cache / "mnist.npz").unlink()
    with full_disk(5_000):
        found = data.load_mnist(cache)
    assert_holds(found, arrays)
    assert "mnist.npz could not be written there (File too large)" in found.source
    assert len(left_in(cache)) == 4


def test_a_directory_that_cannot_be_written_gives_one_clear_line(served, tmp_path):
    assert served
    (tmp_path / "occupied").write_text("a file")
    refused("occupied", "MANUAL_GRAD_DATA", cache=tmp_path / "occupied")
    refused("occupied/cache", "MANUAL_GRAD_DATA", cache=tmp_path / "occupied" / "cache")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mnist").write_text("a file")
    refused("cache", "MANUAL_GRAD_DATA", cache=tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == ["mnist"]
