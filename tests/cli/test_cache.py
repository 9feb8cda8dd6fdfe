"""Compiled programs are kept from run to run; a broken cache costs a message, never a verdict."""

import os
import subprocess
import sys

import pytest

from manual_grad.cli import cache

WORDS = "verify --tag A-02 --oracle value"


@pytest.fixture
def run(tmp_path):
    """Call the console script in a process of its own: its exit code, and its lines on standard error."""

    def call(words, folder=tmp_path / "kept"):
        command = [sys.executable, "-m", "manual_grad", *words.split()]
        done = subprocess.run(
            command, env=os.environ | {"MANUAL_GRAD_CACHE": str(folder)}, capture_output=True, text=True
        )
        return done.returncode, done.stderr.splitlines()

    return call


def programs(folder):
    return {path: path.read_bytes() for path in folder.rglob("*-cache")}


def test_programs_are_kept_and_a_broken_one_is_recompiled(run, tmp_path):
    assert run(WORDS) == (0, [])
    kept = programs(tmp_path / "kept")
    assert kept
    assert run(WORDS) == (0, [])
    assert programs(tmp_path / "kept") == kept
    for path, content in kept.items():
        path.write_bytes(content[: len(content) // 2])
    code, lines = run(WORDS)
    assert code == 0
    (line,) = lines
    assert line.startswith("manual-grad: Error reading persistent compilation cache")
    assert f"remove {tmp_path / 'kept'}" in line


def test_an_unusable_folder_is_skipped(run, tmp_path):
    (tmp_path / "file").touch()
    code, lines = run(WORDS, tmp_path / "file")
    assert code == 0
    (line,) = lines
    assert "nothing is kept for the next run" in line


@pytest.mark.parametrize("words", [f"{WORDS} --no-cache", "bench --quick --no-peers --case mse"])
def test_nothing_is_kept(run, tmp_path, words):
    assert run(words) == (0, [])
    assert not (tmp_path / "kept").exists()


def test_a_full_cache_loses_the_oldest_programs(tmp_path):
    for age in range(8):
        file = tmp_path / "version" / f"{age}-cache"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(100))
        os.utime(file, (1000 - age, 1000 - age))
    cache._bound(tmp_path, 800, tmp_path)
    assert len(programs(tmp_path)) == 8
    cache._bound(tmp_path, 799, tmp_path)
    assert sorted(path.name[0] for path in programs(tmp_path)) == ["0", "1", "2"]


def test_answers_of_another_version_are_removed_with_its_programs(tmp_path):
    for folder in ("this", "another"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "answers-1.sqlite").write_bytes(bytes(100))
    cache._bound(tmp_path, 99, tmp_path / "this")
    assert [path.parent.name for path in tmp_path.rglob("answers-*")] == ["this"]


def test_each_processor_has_its_own_programs(monkeypatch, tmp_path):
    monkeypatch.setenv("MANUAL_GRAD_CACHE", str(tmp_path))
    here = cache._folder()
    assert here.parent == tmp_path
    monkeypatch.setattr(cache, "_processor", lambda: "another")
    assert cache._folder() != here
    monkeypatch.setenv("MANUAL_GRAD_CACHE", "")
    assert cache._folder() is None
