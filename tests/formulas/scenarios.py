"""Every pair of the catalogue in every variant, with inputs to run it on: the one list behind these tests.

A few geometries and chunks are run here only; they are variants of an entry too, which nobody else needs.
"""

import inspect
import re
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from manual_grad.catalogue import FORMULAS, Formula, convolution, softmax
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.linear_cross_entropy import LINEAR_CROSS_ENTROPY


@dataclass(frozen=True, eq=False)
class Scenario:
    """An entry in one of its variants."""

    entry: Formula
    variant: str

    @property
    def id(self):
        return "-".join(part for part in (tags_of(self.entry), self.entry.name, self.variant) if part)

    @property
    def settings(self):
        return self.entry.settings(self.variant)

    def fwd(self, *primals):
        return self.entry.fwd(*primals, **self.settings)

    def bwd(self, res, dout):
        return self.entry.bwd(res, dout)

    def reference(self, *primals):
        return self.entry.reference(*primals, **self.entry.for_reference(self.settings))

    def sabotaged(self, **changes):
        """The same of an entry that is changed."""
        return replace(self, entry=replace(self.entry, **changes))


def tags_of(entry):
    """The equations in the docstrings of a pair, as ``A-05+A-06``; a range counts as its ends."""
    texts = (inspect.getdoc(fn) or "" for fn in (entry.fwd, entry.bwd))
    return "+".join(sorted({tag for text in texts for tag in re.findall(r"\[([A-Z]-\d\d)\]", text)}))


def conv2d_of_xla(x, kernel, bias, strides=(1, 1), padding="VALID", dilation=(1, 1), groups=1):
    """JAX's own convolution, with a bias; pairs only."""
    form = {"rhs_dilation": dilation, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return lax.conv_general_dilated(x, kernel, strides, padding, feature_group_count=groups, **form) + bias


CROPPED = {
    "cropping": {"padding": ((-1, 2), (0, -2))},
    "depthwise": {"groups": 4, "C": 1, "O": 12},
    "everything": {"strides": (2, 3), "padding": ((3, 1), (-1, 4)), "dilation": (2, 3), "groups": 2},
}
ALSO_HERE = (
    replace(convolution.CONV2D, reference=conv2d_of_xla, variants=CROPPED),
    replace(softmax.SOFTMAX_CROSS_ENTROPY, draw=softmax.BY_ONE_HOT, variants={"one_hot": {}}),
    replace(LINEAR_CROSS_ENTROPY, variants={"chunk_dividing": {"N": 6, "chunk": 2}}),
)
FORMULATIONS = (convolution.CONV2D_CPU, convolution.CONV2D_PLAIN)  # tests/kernels has their geometries
SCENARIOS = [
    Scenario(entry, variant)
    for entry in (*FORMULAS.values(), *ALSO_HERE)
    for variant in (["all"] if entry in FORMULATIONS else entry.variants)
]
each_scenario = {"argvalues": SCENARIOS, "ids": [scenario.id for scenario in SCENARIOS]}


def of(entry, variant=None):
    """The scenario of an entry, in its first variant unless another is named."""
    return Scenario(entry, next(iter(entry.variants)) if variant is None else variant)


def is_float(tree):
    leaves = jax.tree.leaves(tree)
    return bool(leaves) and all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)


def draw(scenario, seed, dtype=jnp.float64):
    """The primals by name; every ReLU is well away from its kink."""
    inputs = scenario.entry.inputs(Draw(np.random.default_rng(seed), dtype), scenario.variant)
    return {name: inputs[name] for name in scenario.entry.primals}


def drawn(scenario, seed, dtype=jnp.float64):
    """The primals, and a random cotangent; one of ones would hide mistakes (softmax has the gradient 0)."""
    primals = tuple(draw(scenario, seed, dtype).values())
    return primals, random_like(output(scenario, primals), seed)


def output(scenario, primals):
    """The shape and dtype of what the formula gives."""
    return jax.eval_shape(scenario.reference, *primals)


def random_like(tree, seed):
    """Gaussian arrays in the shapes and dtypes of ``tree``."""
    rng = np.random.default_rng([seed, 99])
    return jax.tree.map(lambda leaf: normal(rng, leaf.dtype, *leaf.shape), tree)


def array(values, dtype):
    return jax.device_put(np.asarray(values).astype(dtype))  # jnp.asarray compiles a program for each shape


def normal(rng, dtype, *shape, scale=1.0):
    return array(scale * rng.standard_normal(shape), dtype)


def in_float64(leaf):
    return array(leaf, jnp.float64) if is_float(leaf) else leaf
