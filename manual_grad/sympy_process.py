"""The helper process that evaluates definitions with SymPy and in decimal arithmetic.

It shares nothing with this process. It is started before JAX is imported, and imports SymPy in the meantime.
"""

import atexit
import functools
import pickle
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_ONE_AT_A_TIME = threading.Lock()


def sympy_is_installed() -> bool:
    """Whether SymPy can be imported; this imports nothing."""
    try:
        return find_spec("sympy") is not None
    except ValueError:  # its place in sys.modules was emptied
        return False


def ask_sympy(*question: Any) -> Any:
    """The process's answer to a question: see ``manual_grad_reference/oracles/answering.py``."""
    with _ONE_AT_A_TIME:
        process = start_sympy()
        pickle.dump(question, process.stdin)
        process.stdin.flush()
        return pickle.load(process.stdout)


@functools.cache
def start_sympy() -> Any:
    """The process, which ends with this one."""
    reference = find_spec("manual_grad_reference")
    origin = reference and reference.origin
    assert origin
    program = Path(origin).parent / "oracles" / "answering.py"
    process = subprocess.Popen(
        [sys.executable, "-P", str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is handled by this process
    )
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()
