"""Stop a call of edited code that does not end, such as a loop whose condition has been edited."""

import contextlib
import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

OFTEN = 0.05  # seconds between two looks at the clock
AGAIN = 1.0  # seconds after which a call that has caught the exception gets another


class Stopped(BaseException):
    """A call took too long; not an Exception, so that the user's code does not catch it."""


class Watch:
    """A thread that raises :class:`Stopped` in the thread that made it, when a call has taken too long."""

    def __init__(self) -> None:
        self.watched = threading.get_ident()
        self.lock = threading.Lock()
        self.end: float | None = None
        self.sent = False
        self.over = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Run the thread."""
        thread = threading.Thread(target=self._look, daemon=True)
        self.over.clear()
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            thread.join()

    def called(self, run: Callable[[], Any], seconds: float) -> Any:
        """``run()``, which is stopped after some seconds."""
        self.sent = False
        try:
            try:
                self.end = time.monotonic() + seconds
                return run()
            finally:
                self._wait()
        except Stopped:
            self.end = None
            raise TimeoutError from None

    def _wait(self) -> None:
        """Let an exception that has been sent arrive before anything else is done."""
        with self.lock:
            self.end = None
        if self.sent and sys.exc_info()[0] is not Stopped:
            time.sleep(OFTEN)

    def _look(self) -> None:
        while not self.over.wait(OFTEN):
            with self.lock:
                if self.end is not None and time.monotonic() > self.end:
                    self.end, self.sent = time.monotonic() + AGAIN, True
                    error = ctypes.py_object(Stopped)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.watched), error)
