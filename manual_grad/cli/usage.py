"""Messages of commands that stop early, and checks made before the work starts."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class UsageError(Exception):
    """Bad usage or input: one line for the user, exit code 2."""


class Unwritten(UsageError):
    """Standard output can no longer be written."""


class Stopped(Exception):
    """A run that ended early: one line about the outcome for the user, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Output:
    """Standard output whose failures become one line; libraries would turn them into exit code 1."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, text: str) -> int:
        """Write, or raise with the reason."""
        with _unwritten():
            return self.file.write(text)

    def flush(self) -> None:
        """Flush, or raise with the reason."""
        with _unwritten():
            self.file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@contextlib.contextmanager
def _unwritten() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unwritten(f"standard output cannot be written: {reason}") from None


def require_device() -> None:
    """Refuse a device that is not there, such as JAX_PLATFORMS=cuda on a machine without one."""
    import jax

    try:
        jax.devices()
    except Exception as error:  # the exception depends on the platform and the version of JAX
        raise UsageError(no_device(error)) from None


def no_device(error: Exception) -> str:
    """The message if JAX cannot be used."""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"JAX finds no device (JAX_PLATFORMS is {wanted!r}): {reason}"


def require_writable(path: Path) -> None:
    """Refuse an unusable output file before the work starts."""
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
