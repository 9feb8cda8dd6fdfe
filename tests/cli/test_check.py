"""``manual-grad check`` as users see it: exit codes, the cause in the table, one line for bad input."""

import io
import json
import sys
import zipfile

import numpy as np
import pytest

from manual_grad.cli import app as cli

MINE = """
import numpy as np
import jax.numpy as jnp

def loss(x, w, y):
    return ((x @ w - y) ** 2).mean()

def grad(x, w, y):
    r = 2 * (x @ w - y) / len(y)
    return np.outer(r, w), x.T @ r, -r

def summed(x, w, y):
    dx, dw, dy = grad(x, w, y)
    return dx, len(y) * dw, dy

def grad_w(x, w, y):
    return None, grad(x, w, y)[1], None

def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)

def ce(z, labels):
    return -np.log(softmax(z)[np.arange(len(z)), labels]).mean()

def ce_jax(z, labels):
    p = jnp.exp(z) / jnp.exp(z).sum(1, keepdims=True)
    return -jnp.log(p[jnp.arange(len(z)), labels]).mean()

def dce(z, labels):
    return (softmax(z) - np.eye(z.shape[1])[labels].astype(z.dtype)) / len(z)

def dce_labels(z, labels):
    return dce(z, labels), np.zeros(len(z))

def raises(*args):
    raise KeyError("w")

def leaves(x, w, y):
    raise SystemExit(0)

class Skipped(BaseException):
    pass

def skips(x, w, y):
    raise Skipped("no GPU")

def lists(x, w, y):
    return [g.tolist() for g in grad(x, w, y)]

def objects(x, w, y):
    return tuple(g.astype(object) for g in grad(x, w, y))

def vector(x, w, y):
    return x @ w - y

number = 3
"""
SHAPES = "--input x=8x3 --input w=3 --input y=8"
CE = "--input z=8x5 --input labels=int:0..4:8"


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Call the console script in a folder with ``mine.py``: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "leaves.py").write_text(f"import sys\n{MINE}\nsys.exit(0)")
    (tmp_path / "skips.py").write_text("raise BaseException('skipped')")
    (tmp_path / "text.npz").write_text("no archive")
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((8, 3)), "w": rng.standard_normal(3), "y": rng.standard_normal(8)}
    np.savez("all.npz", **arrays)
    np.savez("some.npz", x=arrays["x"])
    np.savez("objects.npz", x=np.array([None, 1]), w=arrays["w"], y=arrays["y"])
    np.savez("shapes.npz", **arrays | {"y": rng.standard_normal(7)})
    np.save("one.npy", arrays["x"])
    header = io.BytesIO()
    about = {"descr": "<f8", "fortran_order": False, "shape": (10**13,)}
    np.lib.format.write_array_header_1_0(header, about)
    with zipfile.ZipFile("huge.npz", "w") as archive:
        for name in arrays:
            archive.writestr(f"{name}.npy", header.getvalue())

    def call(words):
        monkeypatch.setattr(sys, "argv", ["manual-grad", "check", *words.split()])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


RIGHT = [
    f"mine.py:loss mine.py:grad {SHAPES}",
    f"mine.py:loss mine.py:grad {SHAPES} --dtype float32 --seed 4",
    f"mine:loss mine:grad {SHAPES}",
    "mine.py:loss mine.py:grad --input w=3 --input y=8 --input x=8x3",
    "mine.py:loss mine.py:grad --inputs all.npz",
    f"mine.py:loss mine.py:grad_w {SHAPES} --wrt w",
    f"mine.py:ce mine.py:dce {CE} --against softmax_cross_entropy_with_integer_labels",
    f"mine.py:ce mine.py:dce {CE} --against mine.py:ce_jax",
]


@pytest.mark.parametrize("words", RIGHT)
def test_a_right_gradient_exits_0(run, words):
    code, out, err = run(words)
    assert (code, err) == (0, "")
    assert "right" in out


def test_a_wrong_gradient_exits_1_and_says_why(run, tmp_path):
    code, out, _ = run(f"mine.py:loss mine.py:summed {SHAPES} --json found.json")
    assert code == 1
    assert "1 of 3 gradients wrong: w" in out
    assert "scaled by N = 8" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["passed"] is False
    assert [f["ok"] for f in found["findings"]] == [True, False, True]
    assert found["findings"][1]["diagnosis"].startswith("scaled by N = 8")
    assert set(found["findings"][1]["where"]) == {"index", "got", "expected"}
    assert found["inputs"] == {"x": "float64[8,3]", "w": "float64[3]", "y": "float64[8]"}
    assert not list(tmp_path.glob("*.part"))


def test_a_gradient_that_could_not_be_checked_is_not_called_wrong(run, tmp_path):
    np.savez(tmp_path / "nan.npz", x=np.full((8, 3), np.nan), w=np.ones(3), y=np.ones(8))
    code, out, _ = run("mine.py:loss mine.py:grad --inputs nan.npz")
    assert code == 1
    assert "3 of 3 gradients not checked: x, w, y" in out
    assert "wrong:" not in out
    assert "gradients wrong" not in out


def test_a_wrong_shape_is_valid_json(run, tmp_path):
    (tmp_path / "mine.py").write_text(MINE + "\ndef turned(x, w, y):\n    return grad(x, w, y)[0].T, w, y\n")
    assert run(f"mine.py:loss mine.py:turned {SHAPES} --json found.json")[0] == 1
    assert json.loads((tmp_path / "found.json").read_text())["findings"][0]["max_error"] is None


def test_the_seed_decides_the_arguments(run, tmp_path):
    def error(seed):
        run(f"mine.py:loss mine.py:summed {SHAPES} --seed {seed} --json found.json")
        return json.loads((tmp_path / "found.json").read_text())["findings"][1]["where"]

    assert error(1) == error(1) != error(2)


BAD = {
    f"nowhere.py:loss mine.py:grad {SHAPES}": "there is no file 'nowhere.py'",
    f"nowhere:loss mine.py:grad {SHAPES}": "there is no file or module 'nowhere'",
    f"broken:loss mine.py:grad {SHAPES}": "broken raised ZeroDivisionError",
    f"mine.py:loss {SHAPES}": "give the gradient too, as file.py:function, or --torch",
    f"mine.py:loss mine.py:grad {SHAPES} --torch": "--torch takes one function",
    f"mine.py:loss mine.py:grad {SHAPES} --device cuda": "--reference and --device require --torch",
    f"mine.py:nope mine.py:grad {SHAPES}": "mine.py has no function 'nope'",
    f"mine.py mine.py:grad {SHAPES}": "expected file.py:function",
    f"mine.py:number mine.py:grad {SHAPES}": "mine.py:number is 3, expected a function",
    f"broken.py:loss mine.py:grad {SHAPES}": "broken.py raised ZeroDivisionError",
    f"skips.py:loss mine.py:grad {SHAPES}": "skips.py raised BaseException: skipped",  # as pytest.skip does
    f"skips:loss mine.py:grad {SHAPES}": "skips raised BaseException: skipped",
    f"mine.py:skips mine.py:grad {SHAPES}": "loss raised Skipped: no GPU",
    f"mine.py:loss mine.py:skips {SHAPES}": "grad raised Skipped: no GPU",
    f"mine.py:loss mine.py:grad {SHAPES} --against mine.py:skips": "against raised Skipped: no GPU",
    "mine.py:loss mine.py:grad --input w=3 --input y=8 --input z=8x3": (
        "mine.py:loss takes x, w, y, but --input gives w, y, z, with w in another place; "
        "expected all of them by name, or all in order"
    ),
    f"leaves.py:loss mine.py:grad {SHAPES}": "leaves.py raised SystemExit: 0",
    f"mine.py:leaves mine.py:grad {SHAPES}": "loss raised SystemExit: 0",
    f"mine.py:loss mine.py:leaves {SHAPES}": "grad raised SystemExit: 0",
    "mine.py:loss mine.py:grad": "--input name=shape",
    f"mine.py:loss mine.py:grad {SHAPES} --inputs all.npz": "either",
    "mine.py:loss mine.py:grad --input x=8x3": "takes 3 arguments (x, w, y), but --input gives 1",
    "mine.py:loss mine.py:grad --input x=8y3": "expected a shape of positive sizes",
    "mine.py:loss mine.py:grad --input x=0": "expected a shape of positive sizes",
    "mine.py:loss mine.py:grad --input x": "expected name=shape",
    "mine.py:loss mine.py:grad --input x=3 --input x=3": "given twice",
    "mine.py:loss mine.py:grad --input x=int:3:8": "labels=int:0..9:8",
    "mine.py:loss mine.py:grad --input x=int:0..99999999999999999999:8": "expected bounds within int64",
    f"mine.py:loss mine.py:grad --input x=int:0..{'9' * 5000}:8": "expected bounds within int64",
    f"mine.py:loss mine.py:grad --input x=1{'x1' * 100}": "101 axes, expected at most 32",
    f"mine.py:loss mine.py:grad --input x=3 --json {'a' * 300}": "--json is 'aaaa",
    f"{'a' * 300}.py:loss mine.py:grad --input x=3": "File name too long",
    f"mine.py:loss mine.py:grad --inputs {'a' * 300}": "--inputs is 'aaaa",
    "mine.py:loss mine.py:grad --inputs nowhere.npz": "there is no file 'nowhere.npz'",
    "mine.py:loss mine.py:grad --inputs text.npz": "text.npz is not an archive",
    "mine.py:loss mine.py:grad --inputs one.npy": "is not an archive",
    "mine.py:loss mine.py:grad --inputs some.npz": "has no array 'w'; it has x",
    "mine.py:loss mine.py:grad --inputs objects.npz": "array of objects",
    "mine.py:loss mine.py:grad --inputs huge.npz": "x is damaged: it declares float64[10000000000000]",
    "mine.py:loss mine.py:grad --inputs shapes.npz": "loss raised ValueError",
    f"mine.py:loss mine.py:raises {SHAPES}": "grad raised KeyError",
    f"mine.py:loss mine.py:lists {SHAPES}": "grad returned a Python list",
    f"mine.py:loss mine.py:objects {SHAPES}": "object[8,3]",
    f"mine.py:vector mine.py:grad {SHAPES}": "expected a floating-point scalar",
    f"mine.py:loss mine.py:grad_w {SHAPES} --wrt v": "expected one of x, w, y",
    f"mine.py:ce mine.py:dce {CE}": "write jnp.exp); give a JAX version of it, or the name of a "
    "formula, with --against",
    f"mine.py:ce mine.py:dce {CE} --against softmax_cross": "no formula is called 'softmax_cross'",
    f"mine.py:ce mine.py:dce_labels {CE} --against mine.py:ce_jax": "expected None",
    f"mine.py:ce mine.py:dce {CE} --against mine.py:ce_jax --wrt labels": "nothing can be differentiated",
    f"mine.py:loss mine.py:grad {SHAPES} --dtype int8": "--dtype",
    f"mine.py:loss mine.py:grad {SHAPES} --json nowhere/found.json": "no folder",
    f"mine.py:loss mine.py:grad {SHAPES} --draws 0": "--draws",
    f"mine.py:loss mine.py:grad {SHAPES} --seconds 0": "--seconds",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_gives_one_clear_line(run, words):
    code, out, err = run(words)
    assert code == 2, err
    assert out == ""
    assert err.startswith("manual-grad: ")
    assert err.count("\n") == 1
    assert BAD[words] in err
    assert len(err) < 400


def test_help_teaches(run):
    code, out, _ = run("--help")
    assert code == 0
    for word in ("--input", "--inputs", "--against", "--wrt", "--json", "Examples"):
        assert word in out
