import functools
import gc
import os

import jax
import pytest
from hypothesis import settings
from jax._src.interpreters import mlir

from manual_grad.checker import verdict

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")
os.environ["MANUAL_GRAD_CACHE"] = ""  # the console script keeps no compiled programs in the tester's folder
gc.set_threshold(100_000, 20, 100)  # JAX keeps millions of objects, and looking through them takes time
if hasattr(
    mlir, "make_ir_context"
):  # JAX loads every dialect anew for each program, a quarter of the time here
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)
if jax.__version_info__ >= (0, 10):  # XLA ends a process that gives it a flag that it does not know
    compiles_fast = "--xla_cpu_use_fusion_emitters=false --xla_cpu_experimental_ynn_fusion_type="
    os.environ.setdefault("XLA_FLAGS", f"{compiles_fast} --xla_cpu_parallel_codegen_split_count=1")

jax.config.update("jax_disable_most_optimizations", True)  # compiling costs most of the time here


@pytest.fixture(autouse=True, scope="module")
def x64():
    """float64 for the tests only: the doctests of the same run show what a user sees without it."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True)
def no_edits(monkeypatch, request):
    """The edits of the checked code are searched for in their own tests only: they take seconds."""
    if "edits" not in request.node.path.name:
        monkeypatch.setattr(verdict, "SEARCHED", (0.0, 0.0, 0.0))


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    """Tables as wide as in a file, whatever the tester's terminal is."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def x32():
    """JAX as it is for a user who enabled nothing."""
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)
