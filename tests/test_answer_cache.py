"""The oracles' answers are kept, each for exactly its question; what a formula returns never is."""

import contextlib
import dataclasses
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import manual_grad
import manual_grad_reference
from manual_grad import answer_cache, compiling
from manual_grad.lectures import EQUATIONS
from manual_grad.verify import differences, equations, exact, symbolic
from manual_grad.verify.problem import Problem
from manual_grad_reference import activations, dense

ALL = equations.ORACLES
POINT = {"x": np.arange(3.0), "rate": 0.5, "mode": None, "parts": [[np.arange(2)], (1, "same")]}
QUESTION = ("forward", activations.relu, ("x",), POINT)
OTHERS = {
    "oracle": ("reverse", *QUESTION[1:]),
    "function": ("forward", activations.sigmoid, ("x",), POINT),
    "variable": ("forward", activations.relu, ("rate",), POINT),
    "entry": ("forward", activations.relu, ("x",), POINT | {"x": np.array([0.0, 1.0, 2.5])}),
    "sign of zero": ("forward", activations.relu, ("x",), POINT | {"x": np.array([-0.0, 1.0, 2.0])}),
    "dtype": ("forward", activations.relu, ("x",), POINT | {"x": np.arange(3.0).view(np.int64)}),
    "shape": ("forward", activations.relu, ("x",), POINT | {"x": np.arange(3.0)[None]}),
    "number": ("forward", activations.relu, ("x",), POINT | {"rate": 0.25}),
    "type of a number": (
        "forward",
        activations.relu,
        ("x",),
        POINT | {"parts": [[np.arange(2)], (True, "same")]},
    ),
    "setting": ("forward", activations.relu, ("x",), POINT | {"mode": "valid"}),
    "nesting": ("forward", activations.relu, ("x",), POINT | {"parts": [[np.arange(2)], 1, "same"]}),
    "grouping": ("forward", activations.relu, ("x",), POINT | {"parts": [[np.arange(2), (1, "same")]]}),
    "name": ("forward", activations.relu, ("x",), {"y" if k == "x" else k: v for k, v in POINT.items()}),
}


@pytest.fixture
def said():
    return []


@pytest.fixture
def kept(tmp_path, said):
    """Keep answers in a folder; closed afterwards."""
    answer_cache.keep(tmp_path, said.append)
    yield tmp_path
    answer_cache.forget()


@pytest.fixture
def next_run(monkeypatch):
    """Use the same folder as a process that is started now."""

    def start(folder):
        monkeypatch.setattr(answer_cache, "STARTED", time.time())
        answer_cache.keep(folder, pytest.fail)

    return start


def counted(value):
    calls = []
    return calls, lambda: calls.append(1) or value


def test_a_question_is_answered_once(kept, said, next_run):
    calls, answer = counted((np.arange(3.0), {"b": None}))
    for _ in range(3):
        (got, rest) = answer_cache.remembered(QUESTION, answer)
        np.testing.assert_array_equal(got, np.arange(3.0))
        assert rest == {"b": None}
    assert len(calls) == 1
    assert answer_cache.how_many_read() == 0  # of an earlier run
    next_run(kept)
    answer_cache.remembered(QUESTION, answer)
    assert len(calls) == 1
    assert answer_cache.how_many_read() == 1
    assert said == []


@pytest.mark.parametrize("part", OTHERS)
def test_another_question_has_another_answer(kept, part):
    answer_cache.remembered(QUESTION, lambda: "first")
    assert answer_cache.remembered(OTHERS[part], lambda: "second") == "second"


@pytest.mark.parametrize(
    "unnamed",
    [lambda x: x, manual_grad.relu_fwd, dataclasses.replace, object(), jnp.tanh],
    ids=["lambda", "formula", "library", "object", "jitted"],
)
def test_what_has_no_name_in_the_reference_is_asked_each_time(kept, unnamed):
    calls, answer = counted(1)
    for _ in range(2):
        answer_cache.remembered(("forward", unnamed), answer)
        answer_cache.remembered(None, answer)
    assert len(calls) == 4


def test_a_patched_function_of_the_reference_is_asked_each_time(kept, monkeypatch):
    answer_cache.remembered(QUESTION, lambda: "right")
    monkeypatch.setattr(activations, "relu", lambda x: x)
    patched = ("forward", activations.relu, ("x",), POINT)
    assert answer_cache.remembered(patched, lambda: "patched") == "patched"
    assert answer_cache.remembered(QUESTION, lambda: "the old one is no longer what its name says") != "right"


def test_what_is_raised_is_not_kept(kept):
    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        answer_cache.remembered(QUESTION, fails)
    assert answer_cache.remembered(QUESTION, lambda: "now") == "now"


def test_nothing_is_kept_unless_asked_for():
    calls, answer = counted(1)
    for _ in range(2):
        answer_cache.remembered(QUESTION, answer)
    assert len(calls) == 2


def test_a_damaged_answer_is_computed_again(kept, said, next_run):
    answer_cache.remembered(QUESTION, lambda: np.arange(3.0))
    answer_cache.forget()
    with contextlib.closing(sqlite3.connect(answer_cache.file_in(kept), isolation_level=None)) as file:
        ((whole,),) = file.execute("SELECT answer FROM answers").fetchall()
        file.execute("UPDATE answers SET answer = ?", (whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],))
    next_run(kept)
    np.testing.assert_array_equal(answer_cache.remembered(QUESTION, lambda: np.arange(3.0)), np.arange(3.0))
    assert answer_cache.how_many_read() == 0
    assert said == []


@pytest.mark.parametrize("content", [b"not a file of answers" * 99, b"", None])
def test_a_broken_file_costs_one_line(tmp_path, said, content):
    file = answer_cache.file_in(tmp_path)
    file.mkdir() if content is None else file.write_bytes(content)
    answer_cache.keep(tmp_path, said.append)
    for question in (QUESTION, OTHERS["oracle"], QUESTION):
        assert answer_cache.remembered(question, lambda: "computed") == "computed"
    answer_cache.forget()
    assert len(said) == (content != b"")


@pytest.mark.parametrize("files", [{}, {"removed": Path("nowhere.py")}], ids=["none", "removed"])
def test_sources_that_are_not_found_count_as_changed(monkeypatch, files):
    assert not answer_cache.changed.__wrapped__(0)
    monkeypatch.setattr(answer_cache, "_files", lambda: files)
    assert answer_cache.changed.__wrapped__(0)


@pytest.mark.parametrize("when", ["before", "during"])
def test_nothing_is_kept_if_a_source_changes(tmp_path, monkeypatch, when):
    def change():
        monkeypatch.setattr(answer_cache, "STARTED", 0.0)
        answer_cache.changed.cache_clear()

    if when == "before":
        change()
    answer_cache.keep(tmp_path, pytest.fail)
    change()
    answer_cache.remembered(QUESTION, lambda: "kept")
    assert answer_cache.remembered(QUESTION, lambda: "computed") == "computed"
    answer_cache.forget()
    answer_cache.changed.cache_clear()


def test_a_full_file_is_only_read(kept, monkeypatch):
    answer_cache.remembered(QUESTION, lambda: "kept")
    monkeypatch.setattr(answer_cache, "LARGEST", 0)
    answer_cache.remembered(OTHERS["oracle"], lambda: "not kept")
    assert answer_cache.remembered(OTHERS["oracle"], lambda: "computed") == "computed"
    assert answer_cache.remembered(QUESTION, lambda: "computed") == "kept"


def test_the_files_of_older_sources_are_removed(tmp_path, said):
    for age in range(6):
        file = tmp_path / f"answers-{age}.sqlite"
        file.touch()
        Path(f"{file}-journal").touch()
        os.utime(file, (1000 - age, 1000 - age))
    answer_cache.keep(tmp_path, said.append)
    answer_cache.forget()
    assert {f.name for f in tmp_path.iterdir()} == {
        f"answers-{age}.sqlite{end}" for age in range(answer_cache.FILES - 1) for end in ("", "-journal")
    }


def test_a_file_that_was_removed_is_not_missed(kept, said):
    answer_cache.remembered(QUESTION, lambda: "kept")
    answer_cache.file_in(kept).unlink()
    assert answer_cache.remembered(OTHERS["oracle"], lambda: "computed") == "computed"
    assert said == []


def test_processes_write_at_the_same_time(tmp_path):
    program = (
        "import sys; from pathlib import Path; from manual_grad import answer_cache\n"
        "print(flush=True); input()\n"
        "answer_cache.keep(Path(sys.argv[1]), lambda why: sys.exit(why))\n"
        "for k in range(300): assert answer_cache.remembered(('square', k), lambda: k * k) == k * k\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [subprocess.Popen(command, **pipes) for _ in "abc"]
    for process in processes:
        process.stdout.readline()
    for process in processes:  # all have started
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert [(p.communicate()[1], p.returncode) for p in processes] == [(b"", 0)] * 3
    with contextlib.closing(sqlite3.connect(answer_cache.file_in(tmp_path))) as file:
        assert file.execute("SELECT count(*) FROM answers").fetchone() == (300,)


def test_the_sources_are_those_that_answer(tmp_path, monkeypatch):
    copies = {}
    for package in (manual_grad, manual_grad_reference):
        origin = Path(package.__file__).parent
        copies[package.__name__] = shutil.copytree(origin, tmp_path / origin.name)

    class Found:
        def __init__(self, name):
            self.origin = str(copies[name] / "__init__.py")

    monkeypatch.setattr(answer_cache, "find_spec", Found)
    seen = set()

    def changed(name, package="manual_grad"):
        path = copies[package] / name
        text = path.read_bytes()
        path.write_bytes(text[:-2] + bytes([text[-2] ^ 1]) + text[-1:])  # of the same size
        found = answer_cache.sources.__wrapped__()
        new = found not in seen
        seen.add(found)
        return new

    assert changed("formulas/dense.py")  # the first
    assert not changed("kernels/conv2d.py")
    assert not changed("networks/mlp.py")
    assert changed("dense.py", "manual_grad_reference")
    assert changed("oracles/differences.py", "manual_grad_reference")
    assert changed("lectures/lecture_a.py")
    assert changed("verify/problem.py")
    assert changed("compiling.py")
    monkeypatch.setattr(answer_cache.importlib.metadata, "version", lambda name: "another")
    assert changed("formulas/dense.py")


TAGS = ("A-02", "B-02")  # polynomial, and not


def verified(seed=0, dtype="float64", tags=TAGS, oracles=ALL):
    entries = [e for e in EQUATIONS if e.tag in tags]
    assert len(entries) == len(tags)
    return [equations.as_json(v) for v in equations.verify_all(entries, dtype, seed, oracles)]


def test_an_equation_is_verified_with_the_same_result_and_no_oracle_at_work(kept, next_run, monkeypatch, x64):
    before = verified()
    assert {v["status"] for v in before} == {"verified"}
    assert set().union(*(v["oracles"] for v in before)) == set(ALL)

    def at_work():
        raise AssertionError("an oracle is at work")

    def kept_already(question, answer):
        return answer_cache.remembered(question, answer if question is None else at_work)

    for module in (compiling, differences, exact, symbolic):
        monkeypatch.setattr(module, "remembered", kept_already)
    next_run(kept)
    assert verified() == before
    assert answer_cache.how_many_read() > 20


def test_seeds_dtypes_and_variables_have_answers_of_their_own(tmp_path, next_run, x64):
    """A-09 and B-12: claims of several variables, and of the same reference."""
    asked = [(0, "float64"), (1, "float64"), (0, "float32"), (0, "bfloat16")]
    tags, quick = ("A-09", "B-12"), ("value", "reverse", "forward", "differences")
    alone = [verified(*about, tags, quick) for about in asked]
    for _ in range(2):
        next_run(tmp_path)
        assert [verified(*about, tags, quick) for about in asked] == alone
    assert answer_cache.how_many_read() > 20
    answer_cache.forget()


def test_a_formula_that_became_wrong_fails(kept, next_run, monkeypatch, x64):
    verified()
    next_run(kept)
    calls = Problem.calls

    def doubled(problem, formula):
        call = calls(problem, formula)
        return dataclasses.replace(call, fn=lambda *a, **k: jnp_doubled(formula(*a, **k)))

    monkeypatch.setattr(Problem, "calls", doubled)
    found = verified()
    assert {v["status"] for v in found} == {"failed"}
    for verdict in found:
        assert not any(verdict["oracles"][name]["passed"] for name in verdict["oracles"] if name != "exact")


def jnp_doubled(tree):
    import jax

    return jax.tree.map(lambda leaf: 2 * jnp.asarray(leaf) + 1, tree)


def test_dense_is_known_by_name():
    assert answer_cache._name(dense.dense_rows) == "manual_grad_reference.dense.dense_rows"
