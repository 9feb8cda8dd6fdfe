"""The page "Is my gradient wrong?": the line that it gives for a wrong one is right; its shell lines work."""

import functools
import inspect
import re
import sys

import jax
import numpy as np
import pytest

from manual_grad.cli import app as cli
from manual_grad.report import planted as module
from manual_grad.report.pages import SHELL
from manual_grad.report.planted import PLANTED, mended


def gradient(source, planted):
    """What a source computes, in the module of the planted mistakes."""
    names = dict(vars(module))
    exec(source, names)
    return np.asarray(names[planted.grad.__name__](*planted.args))


@functools.cache
def true_gradient(loss, argnums):
    args = next(p.args for p in PLANTED if p.loss is loss)
    return np.asarray(jax.grad(loss, argnums)(*args))


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.grad.__name__)
def test_the_line_given_by_the_page_fixes_the_gradient(planted, x64):
    wrong, number, right = mended(planted)
    lines = wrong.splitlines()
    indent = re.match(" *", lines[number - 1])[0]
    mended_source = "\n".join([*lines[: number - 1], indent + right, *lines[number:]])
    want = true_gradient(planted.loss, planted.argnums)
    np.testing.assert_allclose(gradient(mended_source, planted), want, rtol=1e-12, atol=1e-12)
    got = gradient(wrong, planted)
    assert got.shape != want.shape or not np.allclose(got, want, rtol=1e-3)
    assert "#" not in wrong
    assert inspect.getsource(planted.grad).count("  # ") == 1


def test_the_shell_lines_work_when_pasted(tmp_path, monkeypatch, capsys):
    file, content, command = re.fullmatch(
        r"\s*cat > (\S+) <<'END'\n(.*)END\n(.*)\n", SHELL, flags=re.DOTALL
    ).groups()
    (tmp_path / file).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert "1/N is missing" in " ".join(capsys.readouterr().out.split())
