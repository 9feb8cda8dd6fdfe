"""What the commands say when they stop early, and what they refuse before the work."""

import os
from pathlib import Path
from typing import Any


class UsageError(Exception):
    """Bad usage or input: one line for the user, exit code 2."""


class Stopped(Exception):
    """A run that ended early, and what became of it: one line for the user, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def require_writable(path: Path) -> None:
    """Refuse an output file before the work, not after it."""
    if path.is_dir():
        raise UsageError(f"--json is {str(path)!r}, a folder; expected a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"--json is {str(path)!r}, a device or pipe; expected a file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--json is {str(path)!r}, but there is no folder {str(path.absolute().parent)!r}")
    if not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(f"--json is {str(path)!r}, but {str(path.absolute().parent)!r} cannot be written")


def write(path: Path, content: Any) -> None:
    """Write a command's ``--json``."""
    from manual_grad.environment import write_json

    try:
        write_json(path.absolute(), content)
    except OSError as error:
        raise UsageError(f"--json: {path} could not be written: {error.strerror}") from None
