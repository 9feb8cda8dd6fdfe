"""Every pair as users compile it, with XLA's defaults: a process without the tests' flags."""

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.catalogue import FORMULAS

from .comparing import error, run_by_hand, truth
from .scenarios import drawn, of


def errors():
    """The largest relative error of any array of each pair, in float32."""
    scenarios = [of(entry) for entry in FORMULAS.values()]
    given = [drawn(scenario, 6, jnp.float32) for scenario in scenarios]

    @jax.jit
    def program(given):
        return [run_by_hand(scenario, *one) for scenario, one in zip(scenarios, given, strict=True)]

    found = {}
    for scenario, one, got in zip(scenarios, given, program(given), strict=True):
        pairs = zip(*map(jax.tree.leaves, (got, truth(scenario, *one))), strict=True)
        found[scenario.id] = float(np.max([error(g, w) for g, w in pairs]))
    return found


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print({name: e for name, e in errors().items() if not e <= 1e-5})
