"""A program, not to be imported, that answers questions about definitions on standard input.

SymPy and decimal arithmetic hold the interpreter's lock for a long time, so a process of their own is faster
when JAX's threads are busy. It starts in a fraction of a second because it bypasses the packages'
``__init__`` files, which import JAX.
"""

import contextlib
import importlib
import pickle
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent


def _bare(name: str, folder: Path) -> None:
    """Register a package so that its modules can be imported without running its ``__init__``."""
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(folder)]


def answer_questions() -> None:
    """Read (oracle, definition's name, point, wrt); write the derivatives or, if wrt is None, the value."""
    definitions = importlib.import_module("manual_grad_reference.definitions")
    with contextlib.suppress(ImportError):  # before the first question
        importlib.import_module("manual_grad_reference.oracles.symbolic")
    while True:
        try:
            oracle, name, point, wrt = pickle.load(sys.stdin.buffer)
        except (EOFError, KeyboardInterrupt):
            return
        asked = importlib.import_module(f"manual_grad_reference.oracles.{oracle}")
        definition = getattr(definitions, name)
        found = asked.value(definition, point) if wrt is None else asked.derivative(definition, point, wrt)
        pickle.dump(found, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _bare("manual_grad_reference", HERE.parent)
    _bare("manual_grad_reference.oracles", HERE)
    answer_questions()
