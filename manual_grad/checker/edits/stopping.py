"""Stop a call of edited code that does not end, such as a loop whose condition has been edited."""

import contextlib
import ctypes
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

OFTEN = 0.05  # seconds between two looks at the clock
ANYWHERE = 1.0  # seconds after which a call is stopped even inside a library, which that may upset
IN_LIBRARY = ("jax", "jaxlib", "numba", "torch", "importlib", "threading", "contextlib")


class Stopped(BaseException):
    """A call took too long; not an Exception, so that the user's code does not catch it."""


class Watch:
    """A thread that raises :class:`Stopped` in the thread that made it, when a call has taken too long.

    Attributes:
        until: when every call is stopped, on the clock of ``time.monotonic``.
    """

    def __init__(self) -> None:
        self.watched = threading.get_ident()
        self.lock = threading.Lock()
        self.end = math.inf
        self.until = math.inf
        self.over = threading.Event()

    @contextlib.contextmanager
    def watching(self, until: float = math.inf) -> Iterator[None]:
        """Run the thread."""
        self.watched, self.over = threading.get_ident(), threading.Event()
        self.until, self.end = until, math.inf
        thread = threading.Thread(target=self._look, args=(self.over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            thread.join()

    def called(self, run: Callable[[], Any], seconds: float) -> Any:
        """``run()``, which is stopped after some seconds."""
        outer = self.end
        try:
            try:
                self.end = min(time.monotonic() + seconds, self.until, outer)
                return run()
            finally:
                self._cease(outer)
        except Stopped as stopped:
            self._cease(outer)
            if isinstance(stopped.__context__, KeyboardInterrupt):
                raise stopped.__context__ from None
            raise TimeoutError from None

    def _cease(self, outer: float) -> None:
        """Stop this call no more, and let an exception that has been sent arrive."""
        with self.lock:
            self.end = outer
        try:
            _arrive()
        except KeyboardInterrupt:
            _arrive()
            raise

    def _look(self, over: threading.Event) -> None:
        """Send the exception again and again, as the code may catch it."""
        while not over.wait(OFTEN):
            with self.lock:
                late = time.monotonic() - self.end
                if late > ANYWHERE or (late > 0 and not self._in_library()):
                    sent = ctypes.py_object(Stopped)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.watched), sent)

    def _in_library(self) -> bool:
        frame = sys._current_frames().get(self.watched)
        module = frame.f_globals.get("__name__", "") if frame else ""
        return str(module).partition(".")[0] in IN_LIBRARY


def _arrive() -> None:
    """Let an exception that has been sent arrive: it does when a loop jumps back."""
    with contextlib.suppress(Stopped):
        for _ in range(9):
            pass
