"""A book is written completely or not at all, and only a book is ever replaced."""

import os
import subprocess
import sys
from pathlib import Path

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


def test_an_existing_folder_requires_force(book):
    with pytest.raises(InputError, match=r"which already exists; --force replaces a book"):
        folder.write(book, FILES, force=False)
    assert content(book)["index.html"] == b"old"


def test_foreign_files_are_left_alone(book, tmp_path):
    (book / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not part of a book \(notes.txt\)"):
        folder.write(book, FILES, force=True)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "index.html").write_text("mine")
    with pytest.raises(InputError, match=r"not part of a book \(index.html\)"):
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


def test_a_full_disk_gives_one_line(tmp_path, monkeypatch):
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
    with pytest.raises(InputError, match="expected a path inside its folder"):
        folder.write(book, {"new.html": b"", name: b""}, force=True)
    assert content(book)["index.html"] == b"old"
    assert [p.name for p in book.parent.iterdir()] == ["book"]


def test_of_two_runs_at_once_the_second_says_so(book):
    with folder.reserved(book, force=True) as put:
        with pytest.raises(
            InputError, match=r"--out is .*book', which another manual-grad report is writing"
        ):
            folder.write(book, FILES, force=True)
        put({"index.html": b"first"})
    assert content(book)["index.html"] == b"first"
    folder.write(book, FILES, force=True)
    assert content(book)["index.html"] == b"new"
    assert [p.name for p in book.parent.iterdir()] == ["book"]


def test_a_folder_that_another_run_has_just_removed_is_made_again(tmp_path, monkeypatch):
    """``mkdir(exist_ok=True)`` raises if the folder goes between its two looks at it."""
    mkdir, removed = Path.mkdir, []

    def removed_at_first(self, *args, **kwargs):
        if not removed:
            removed.append(self)
            raise FileExistsError(17, "File exists", str(self))
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", removed_at_first)
    folder.write(tmp_path / "book", {"a.html": b"x"}, force=False)
    assert removed
    assert (tmp_path / "book" / "a.html").read_bytes() == b"x"


@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_what_is_not_a_folder_is_refused_in_the_place_of_the_unfinished_book(tmp_path, kind):
    place = tmp_path / ".book.new.part"
    place.write_text("mine") if kind == "file" else place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"\.book\.new\.part is not a folder$"):
        folder.write(tmp_path / "book", {"a.html": b"x"}, force=False)
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


def test_many_runs_at_once_leave_one_whole_book(tmp_path):
    """Each run gives a book or one line, and the folder ends up with one of the books."""
    code = """import sys
from pathlib import Path
from manual_grad.border import InputError
from manual_grad.report import folder
for k in range(50):
    try:
        folder.write(Path("book"), {f"{i}.html": sys.argv[1].encode() for i in range(5)}, force=True)
    except InputError as error:
        assert "which another manual-grad report is writing" in str(error), error"""
    runs = [
        subprocess.Popen([sys.executable, "-c", code, name], cwd=tmp_path, stderr=subprocess.PIPE)
        for name in "ab"
    ]
    for run in runs:
        assert run.communicate(timeout=60)[1] == b""
    found = content(tmp_path / "book")
    assert len(found) == 6
    assert len({data for name, data in found.items() if name != folder.MARK}) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["book"]


def test_leftovers_of_a_killed_run_are_removed(book):
    half = {".book.new.part", ".book.a1b2c3_8.part"}
    other = {".book.x.new.part", ".book.short.part", "notes.part"}
    for name in half | other:
        (book.parent / name / "data").mkdir(parents=True)
    folder.write(book, FILES, force=True)
    assert {p.name for p in book.parent.iterdir()} == {"book"} | other


def test_a_book_that_a_killed_run_had_moved_away_is_put_back(book):
    """As if a run had been killed between its two renames."""
    (book.parent / ".book.new.part").mkdir()
    book.rename(book.parent / ".book.new.part" / "old")
    with pytest.raises(InputError, match="which already exists; --force replaces a book"):
        folder.write(book, FILES, force=False)
    assert content(book)["index.html"] == b"old"
    folder.write(book, FILES, force=True)
    assert [p.name for p in book.parent.iterdir()] == ["book"]
