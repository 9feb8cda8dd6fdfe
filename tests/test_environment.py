"""Files are written under another name and then renamed: whole, or not at all."""

import json
import os

import pytest

from manual_grad import environment


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    environment.write_json(path, {"x": 1})
    assert json.loads(path.read_text()) == {"x": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_nothing_is_left_behind_if_writing_fails(tmp_path, monkeypatch):
    def full(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        environment.write_bytes(tmp_path / "a.json", b"x")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    not hasattr(os, "mkfifo"),
    reason="no os.mkfifo here (Windows): no pipe to try it on",
)
def test_no_pipe_or_device_is_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileExistsError, match="a device, a pipe"):
        environment.write_bytes(pipe, b"x")
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
