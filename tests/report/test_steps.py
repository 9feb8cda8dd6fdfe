"""Every line of a derivation equals the one above it, in numbers; a wrong line is detected."""

import ast
import inspect
import re
from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.compiling import quickly
from manual_grad.lectures import EQUATIONS
from manual_grad.report.prose import derivations
from manual_grad.report.steps import HELPERS, NAMES, SAME, D, Given, Step, evaluated

BLOCKS = {
    e.tag: [p for p in derivations(e.lecture)[e.tag].parts if not isinstance(p, str)] for e in EQUATIONS
}


def chains(block):
    """The lines that are said to be equal."""
    found = []
    for line in block:
        if isinstance(line, Step):
            found += [] if line.continues else [[]]
            found[-1].append(line)
    return found


def test_every_equation_is_derived_line_by_line():
    """None is explained in words only, and in each some line follows from another."""
    derived = {tag for tag, blocks in BLOCKS.items() for b in blocks if any(len(c) > 1 for c in chains(b))}
    assert derived == {e.tag for e in EQUATIONS}


@pytest.mark.parametrize("tag", BLOCKS)
def test_every_line_equals_the_one_above(tag):
    """And it has a reason, and is computed in another way."""
    known = {}
    for block in BLOCKS[tag]:
        for line, value in zip(block, evaluated(block, known), strict=True):
            assert not isinstance(line, Step) or (np.isfinite(value).all() and value.any()), line
        for chain in chains(block):
            assert all(line.why for line in chain[1:]), chain[0]
            assert len({line.code for line in chain}) == len(chain), chain[0]


@pytest.mark.parametrize("tag", BLOCKS)
def test_a_wrong_line_is_detected(tag):
    """Each line in turn, once negated and once slightly off."""
    known = {}
    for block in BLOCKS[tag]:
        evaluated(block, known)
        for above, line in (pair for chain in chains(block) for pair in pairwise(chain)):
            for wrong in ("-({})", f"({{}}) * (1 + {100 * SAME})"):
                planted = replace(line, code=wrong.format(line.code))
                with pytest.raises(ValueError, match="the line above is"):
                    evaluated((replace(above, latex="above"), planted), dict(known))


def names_in(code):
    """The names that an expression takes from outside."""
    nodes = list(ast.walk(ast.parse(code, mode="eval")))
    own = {arg.arg for node in nodes if isinstance(node, ast.Lambda) for arg in node.args.args}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return {node.id for node in nodes if isinstance(node, ast.Name)} - own


@pytest.mark.parametrize("tag", BLOCKS)
def test_the_numbers_that_a_line_is_computed_from_are_shown(tag):
    """Given arrays and numbers; what the first line of a chain differentiates may be hidden."""
    hidden = {}
    for line in (line for block in BLOCKS[tag] for line in block):
        if isinstance(line, Given):
            data = re.match(r"array\(|-?\d+\.\d*$", line.code) and not line.shown
            hidden[line.name] = bool(data)
        elif line.continues and "D(" not in line.code:
            assert {name for name in names_in(line.code) if hidden.get(name)} == set(), line.latex


def test_the_basis_of_the_first_lines_is_exact():
    x = np.array([0.3, -2.0])
    assert abs(D(lambda x: np.exp(x) * x[0], x) - np.exp(x[:, None]) * [[1.3, 0], [1, 0.3]]).max() < 1e-15


class Either:
    """NumPy, and JAX for whatever JAX is differentiating."""

    def __init__(self, ours=np, jaxs=jnp):
        self.ours, self.jaxs = ours, jaxs

    def __getattr__(self, name):
        return Either(getattr(self.ours, name), getattr(self.jaxs, name))

    def __call__(self, *args, **settings):
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, settings)))
        return (self.jaxs if traced else self.ours)(*args, **settings)


@pytest.fixture(scope="module")
def jaxs(x64):
    """The names that an expression may use, where D is JAX's Jacobian."""
    scope = {"np": Either()}
    for helper in HELPERS:
        exec(inspect.getsource(helper), scope)
    names = {name: scope.get(name) or getattr(scope["np"], name) for name in NAMES}
    return names | {"D": lambda f, x: quickly(jax.jacobian(f))(np.asarray(x, float))}


@pytest.mark.parametrize("tag", BLOCKS)
def test_the_first_lines_are_what_jax_gives(tag, jaxs):
    """Those, and what they need; the lines below them equal them."""
    known, by_jax = {}, dict(jaxs)
    for block in BLOCKS[tag]:
        lines = [line for line in block if line.name or not line.continues]
        for line, got, want in zip(lines, evaluated(lines, known), evaluated(lines, by_jax), strict=True):
            if isinstance(line, Step):
                np.testing.assert_allclose(
                    got, want, rtol=SAME, atol=SAME * abs(want).max(), err_msg=line.latex
                )
