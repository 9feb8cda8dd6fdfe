"""``manual-grad golden`` as users see it: whole files or none, exit codes, one line for bad input."""

import json
import os
import sys

import numpy as np
import pytest

from manual_grad.cli import app as cli


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Call the console script in a folder of its own: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(words):
        monkeypatch.setattr(sys, "argv", ["manual-grad", "golden", *words.split()])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return exit.value.code, *capsys.readouterr()

    return call


def test_export_then_compare(run):
    code, out, _ = run("export mse --out g.npz --seed 3 --dtype float32")
    assert (code, out) == (
        0,
        f"g.npz: mse, random, float32, seed 3: 9 arrays, {os.path.getsize('g.npz')} bytes\n",
    )
    with np.load("g.npz") as g:
        x, y, dout = g["in/y_hat"], g["in/y"], g["dout"]
    right = {"grad/y_hat": 2 * dout * (x - y) / 7, "grad/y": 2 * dout * (y - x) / 7}
    np.savez("right.npz", **right)
    code, out, _ = run("compare g.npz right.npz")
    assert code == 0
    assert "all 2 right" in out
    assert "note out is not in right.npz: not compared" in out
    np.savez("wrong.npz", **right | {"grad/y": 7 * right["grad/y"]})
    code, out, _ = run("compare g.npz wrong.npz --json found.json")
    assert code == 1
    assert "1 of 2 wrong: grad/y" in out
    with open("found.json") as file:
        found = json.load(file)
    assert found["golden"]["formula"] == "mse"
    assert not found["passed"]
    assert [f["ok"] for f in found["findings"]] == [True, False]
    assert found["findings"][1]["diagnosis"].startswith("scaled by N = 7")


def test_the_same_command_writes_the_same_bytes(run, tmp_path):
    for name in ("a.npz", "b.npz", "a.safetensors", "b.safetensors"):
        assert run(f"export jac_mse_y_hat --out {name}")[0] == 0
    for suffix in ("npz", "safetensors"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert run("compare a.npz b.safetensors")[0] == 0


def test_list_names_what_can_be_exported(run):
    code, out, _ = run("list --json formulas.json")
    assert code == 0
    assert "softmax_cross_entropy_columns" in out
    with open("formulas.json") as file:
        conv = next(f for f in json.load(file)["formulas"] if f["formula"] == "conv2d")
    assert conv["variants"] == ["valid", "strides", "same", "padding", "dilation", "groups", "all"]
    assert "A-11" in conv["equations"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("export conv2 --out g.npz", "there is no formula 'conv2'; similar: conv2d"),
        ("export zzzz --out g.npz", "there is no formula 'zzzz'; manual-grad golden list shows them"),
        ("export mse --out g.txt", "--out is 'g.txt', expected a name that ends in .npz or .safetensors"),
        ("export mse --out no/g.npz", "--out is 'no/g.npz', but there is no folder"),
        ("export mse --out folder.npz", "--out is 'folder.npz', a folder; expected a file"),
        ("export mse --out g.npz --dtype f8", "--dtype is 'f8', expected one of float64, float32"),
        ("export mse --out g.npz --case hard", "--case is 'hard', expected one of random, ties, extreme"),
        ("export mse --out g.npz --case ties", "mse has no case 'ties', expected one of random, extreme"),
        ("export mse --out g.npz --variant x", "mse has no variant 'x'; it has none"),
        (
            "export conv2d --out g.npz --variant x",
            "conv2d has no variant 'x', expected one of valid, strides",
        ),
        ("export mlp_rows --out g.npz --variant tanh --case ties", "mlp_rows tanh has no case 'ties'"),
        ("export mse --out g.npz --seed -1", "Invalid value for '--seed'"),
        ("export mse", "Missing option '--out'"),
        ("compare none.npz mine.npz", "there is no file 'none.npz'"),
        ("compare text.npz text.npz", "text.npz cannot be read: it is not an .npz archive"),
        ("compare text.safetensors text.npz", "cannot be read: it is not a .safetensors file"),
        ("compare mine.npz mine.npz", "mine.npz holds no golden vectors (no golden.json)"),
        ("compare mine.npz mine.npz --json no/f.json", "--json is 'no/f.json', but there is no folder"),
        ("list --json no/f.json", "--json is 'no/f.json', but there is no folder"),
    ],
)
def test_bad_input_gives_one_line_and_nothing_is_written(run, tmp_path, words, line):
    (tmp_path / "folder.npz").mkdir()
    for name in ("text.npz", "text.safetensors"):
        (tmp_path / name).write_text("no archive")
    np.savez("mine.npz", x=np.ones(2))
    before = sorted(os.listdir())
    code, out, error = run(words)
    assert (code, out) == (2, "")
    assert error.startswith("manual-grad: ")
    assert error.count("\n") == 1
    assert line in error
    assert sorted(os.listdir()) == before
