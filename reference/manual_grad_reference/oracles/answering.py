"""Answers questions about definitions on standard input, in a process of its own: a program, not imported.

SymPy and decimals hold the interpreter's lock for long, so beside JAX's threads another process is faster. It
starts in a fraction of a second, as the packages' own ``__init__`` files, which bring JAX, are passed over.
"""

import importlib
import pickle
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent


def _bare(name: str, folder: Path) -> None:
    """A package whose modules can be imported, without what its ``__init__`` imports."""
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(folder)]


def answer_questions() -> None:
    """Read (oracle, definition's name, point, wrt or None for its value), write derivatives or the value."""
    definitions = importlib.import_module("manual_grad_reference.definitions")
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
