"""The examples beside the README run, and their models' gradients agree with the library's."""

import runpy
from pathlib import Path
from unittest.mock import Mock

import pytest

from manual_grad import ops

EXAMPLES = sorted(Path(__file__).parents[1].joinpath("examples").glob("*.py"))
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def test_all_three_are_there():
    assert [path.stem for path in EXAMPLES] == ["equinox_mlp", "flax_nnx", "optax_loop"]


USED = {"equinox_mlp": "dense_rows", "flax_nnx": "dense_rows", "optax_loop": "conv2d"}


@each_example
def test_gradients_agree(path, capsys, monkeypatch):
    """And the gradients are those of the formulas: each backward pass is called."""
    used = [USED[path.stem], "relu", "softmax_cross_entropy_with_integer_labels"]
    counts = {name: Mock(wraps=getattr(ops, f"{name}_bwd")) for name in used}
    for name, count in counts.items():
        monkeypatch.setattr(ops, f"{name}_bwd", count)
    difference = runpy.run_path(str(path))["main"]()
    assert difference < 1e-13
    assert f"{difference:.1e}" in capsys.readouterr().out
    assert all(count.called for count in counts.values()), counts


@each_example
def test_a_wrong_gradient_is_detected(path, monkeypatch):
    right = ops.relu_bwd
    monkeypatch.setattr(ops, "relu_bwd", lambda res, dout: (1.001 * right(res, dout)[0],))
    assert runpy.run_path(str(path))["main"]() > 1e-4
