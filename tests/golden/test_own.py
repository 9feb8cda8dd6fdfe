"""Golden vectors of a user's own function, and the example in C: exported, compiled, run, compared."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from manual_grad.cli import app as cli

EXAMPLE = Path(__file__).parents[2] / "examples" / "golden"
INPUTS = "--input x=6x5 --input gamma=5"
THEIRS = """
import numpy as np
import jax.numpy as jnp

def rms_norm(x, gamma):
    return x

def two(params, k):
    return jnp.tanh(params) * k, jnp.sum(params)

def numpy(x):
    return np.exp(x)

def integers(x):
    return jnp.argmax(x)

def infinite(x):
    return jnp.sum(jnp.log(x - x))
"""


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Call the console script where the example is: (exit code, standard output, standard error)."""
    for path in EXAMPLE.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    (tmp_path / "theirs.py").write_text(THEIRS)
    monkeypatch.chdir(tmp_path)

    def call(words):
        monkeypatch.setattr(sys, "argv", ["manual-grad", "golden", *words.split()])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return exit.value.code, *capsys.readouterr()

    return call


@pytest.mark.skipif(
    shutil.which("cc") is None, reason="no C compiler, cc (Debian: apt-get install gcc libc6-dev)"
)
def test_the_example_in_c(run):
    def compiled(*flags):
        warnings = ("-Wall", "-Wextra", "-Werror")
        subprocess.run(["cc", "-O2", *warnings, *flags, "rms_norm.c", "-lm", "-o", "rms_norm"], check=True)
        subprocess.run(["./rms_norm", "golden.safetensors", "mine.safetensors"], check=True)
        return run("compare golden.safetensors mine.safetensors --function rms_norm.py:rms_norm")

    assert run(f"export rms_norm.py:rms_norm {INPUTS} --dtype float32 --out golden.safetensors")[0] == 0
    code, out, _ = compiled()
    assert code == 0, out
    assert "all 2 right" in out
    code, out, _ = compiled("-DFORGET_THE_NORM")
    assert code == 1
    assert "1 of 2 wrong: grad/x" in out
    assert "root mean square of x" in " ".join(out.replace("│", " ").split())
    code, out, _ = run("compare golden.safetensors mine.safetensors")  # only the numbers are looked at
    assert code == 1
    assert "with --function rms_norm.py:rms_norm, the cause is searched for" in out
    code, _, err = run("compare golden.safetensors mine.safetensors --function theirs.py:two")
    assert code == 2
    assert "golden.safetensors is not for this function" in err


def test_integers_several_outputs_and_wrt(run, tmp_path):
    code, _, _ = run(
        "export theirs.py:two --input params=4x3 --input k=int:1..5:3 --wrt params --out two.npz"
    )
    assert code == 0
    with np.load("two.npz") as g:
        truth = {name: g[name] for name in g if name.startswith(("grad", "out", "dout"))}
        slope = 1 - np.tanh(g["in/params"]) ** 2
        by_hand = g["dout/0"] * slope * g["in/k"] + g["dout/1"]
        assert "Drawn as params=4x3, k=int:1..5:3" in g["README.txt"].decode()
    assert {*truth} == {"grad/params", "out/0", "out/1", "dout/0", "dout/1"}
    assert np.allclose(truth["grad/params"], by_hand, rtol=1e-14)
    np.savez("mine.npz", **{"grad/params": 2 * by_hand})
    code, out, _ = run("compare two.npz mine.npz")
    assert code == 1
    assert "scaled by 2" in out


BAD = {
    f"export rms_norm.py:rms_norm {INPUTS} --case ties --out g.npz": "--case and --variant apply to",
    "export rms_norm.py:rms_norm --out g.npz": "give the arguments either as --input",
    "export rms_norm.py:rms_norm --input x=6x5 --out g.npz": "takes 2 arguments (x, gamma), but",
    f"export rms_norm.py:rms_norm {INPUTS} --wrt y --out g.npz": "--wrt is 'y', expected one of x, gamma",
    f"export rms_norm.py:rms_norm {INPUTS} --dtype int8 --out g.npz": "--dtype is 'int8'",
    f"export nowhere.py:rms_norm {INPUTS} --out g.npz": "there is no file 'nowhere.py'",
    "export theirs.py:numpy --input x=3 --out g.npz": "be differentiated by JAX: TracerArrayConversion",
    "export theirs.py:integers --input x=3 --out g.npz": "expected floating-point arrays",
    "export theirs.py:infinite --input x=3 --out g.npz": "is not finite",
    "export theirs.py:numpy --input x=int:0..3:3 --out g.npz": "has no floating-point argument",
    "export mse --input x=3 --out g.npz": "apply to a function of yours",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_gives_one_clear_line(run, words):
    code, out, err = run(words)
    assert (code, out) == (2, "")
    assert err.startswith("manual-grad: ")
    assert err.count("\n") == 1
    assert BAD[words] in err
    assert not Path("g.npz").exists()


def test_an_archive_runs_no_code(run, tmp_path):
    """What an archive calls its function is only a name."""
    (tmp_path / "evil.py").write_text("def f(x):\n    return 2 * x\n")
    assert run("export evil.py:f --input x=3 --out g.npz")[0] == 0
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    with np.load("g.npz") as g:
        np.savez("mine.npz", **{"grad/x": 2 * g["dout"]})
    assert run("compare g.npz mine.npz")[0] == 0
