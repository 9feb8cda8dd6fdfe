"""A book is written whole or not at all, and nothing but a book is ever replaced."""

import os

import pytest

from manual_grad.border import InputError
from manual_grad.report import folder

FILES = {"index.html": b"new", "data/a.json": b"{}"}


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book"
    folder.write(path, {"index.html": b"old", "gone.html": b""}, force=False)
    return path


def content(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_book_is_replaced_whole(book):
    folder.write(book, FILES, force=True)
    assert set(content(book)) == {*FILES, folder.MARK}
    assert content(book)["index.html"] == b"new"
    assert [p.name for p in book.parent.iterdir()] == ["book"]
    assert book.stat().st_mode & 0o777 == 0o777 & ~folder._umask()


def test_an_existing_folder_asks_for_force(book):
    with pytest.raises(InputError, match=r"which exists; --force replaces a book"):
        folder.write(book, FILES, force=False)
    assert content(book)["index.html"] == b"old"


def test_foreign_files_are_left_alone(book, tmp_path):
    (book / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"no part of a book \(notes.txt\)"):
        folder.write(book, FILES, force=True)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "index.html").write_text("mine")
    with pytest.raises(InputError, match=r"no part of a book \(index.html\)"):
        folder.write(other, FILES, force=True)
    assert (other / "index.html").read_text() == "mine"
    assert (book / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["_fill", "rename"])
def test_an_interrupted_run_leaves_the_old_book(book, monkeypatch, name):
    rename, calls = os.rename, []

    def interrupted(*args):
        calls.append(args)
        if name == "_fill" or len(calls) == 2:  # the old one is away, the new one not yet there
            raise KeyboardInterrupt
        return rename(*args)

    monkeypatch.setattr(folder if name == "_fill" else os, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.write(book, FILES, force=True)
    assert content(book)["index.html"] == b"old"
    assert [p.name for p in book.parent.iterdir()] == ["book"]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "_fill", full)
    with pytest.raises(InputError, match=r"--out: .*book could not be written: No space left on device"):
        folder.write(tmp_path / "book", FILES, force=False)
    assert not list(tmp_path.iterdir())


def test_bad_places_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    cases = {
        "file": "a file; expected a folder",
        "nowhere/book": "but there is no folder",
        "link": "a symbolic link",
    }
    for name, said in cases.items():
        with pytest.raises(InputError, match=said):
            folder.require_free(tmp_path / name, force=True)
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(InputError, match="cannot be written"):
        folder.require_free(tmp_path / "book", force=False)


@pytest.mark.parametrize("name", ["../victim", "data/../../victim", "/nowhere/victim", "a/.."])
def test_nothing_is_written_outside_the_folder(book, name):
    with pytest.raises(InputError, match="expected a place inside its folder"):
        folder.write(book, {"new.html": b"", name: b""}, force=True)
    assert content(book)["index.html"] == b"old"
    assert [p.name for p in book.parent.iterdir()] == ["book"]
