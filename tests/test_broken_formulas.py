"""Break one formula of each family by hand, as a reader would: ``manual-grad verify`` names the tag."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WINGS = ("formulas", "kernels", "networks")
BREAKS = {  # file: (line, what it becomes, a tag that must fail)
    "chain_rule": ("dq = df * z  # [C-01]", "dq = df * q  # [C-01]", "C-01"),
    "mse": ("dy = (2 * share * error)", "dy = (2 * dJ * error)", "A-04"),
    "activations": ("dx = jnp.where(x > 0, dout, 0)", "dx = jnp.where(x < 0, dout, 0)", "B-06"),
    "softmax": ("(dprobs - (dprobs * probs).sum(axis=-1, keepdims=True))", "dprobs", "A-08"),
    "dense": ("dW = dZ @ X.T  # [B-15] [D-07]", "dW = -(dZ @ X.T)  # [B-15] [D-07]", "D-07"),
    "two_layer": ("db1 = dz  # [B-08]", "db1 = da  # [B-08]", "B-08"),
    "mlp": ("deltas[-1] @ W)[0])  # [C-05]", "deltas[0] @ W)[0])  # [C-05]", "C-05"),
    "correlation": ("_correlate(_pad(dO, f), _rot180(f))", "_correlate(_pad(dO, f), f)", "C-10"),
    "cnn": ("(dZ1,) = relu_bwd(Z1, dA1)", "(dZ1,) = relu_bwd(dA1, dA1)", "A-11"),
    "linear_cross_entropy": ("old + h.T @ errors", "h.T @ errors", "A-10"),
}


# Broken together where none of the tags is computed by another's formula; the last is used by most networks.
TOGETHER = (
    ("linear_cross_entropy", "mse", "chain_rule", "correlation", "dense"),
    ("softmax", "cnn", "two_layer", "mlp"),
    ("activations",),
)
# The tag is what is tested here, not the reason, which is looked for only briefly.
VERIFY = "from manual_grad.cli import app, verify; verify.EXPLAINED = 0.1; app.main()"


def test_every_family_is_broken():
    assert sorted(family for group in TOGETHER for family in group) == sorted(BREAKS)


@pytest.mark.parametrize("families", TOGETHER, ids="-".join)
def test_a_broken_formula_is_named(families, tmp_path):
    for package in ("manual_grad", "reference"):
        shutil.copytree(ROOT / package, tmp_path / package)
    for family in families:
        right, wrong, _ = BREAKS[family]
        (path,) = (p for w in WINGS for p in tmp_path.glob(f"manual_grad/{w}/{family}.py"))
        assert path.read_text().count(right) == 1
        path.write_text(path.read_text().replace(right, wrong))
    tags = sorted(BREAKS[family][2] for family in families)
    words = [sys.executable, "-c", VERIFY, "verify", "--oracle", "reverse"]
    words += [word for tag in tags for word in ("--tag", tag)]
    done = subprocess.run(
        words,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(tmp_path / "reference")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert f"failed ({', '.join(tags)})" in " ".join(done.stdout.split())
