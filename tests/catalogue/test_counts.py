"""The number of checks for each formula: if a count falls, a test names it.

If one has risen, ``python -m tests.catalogue.test_counts`` updates the table.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from manual_grad.catalogue import FORMULAS
from manual_grad.golden.exported import FORMULAS as EXPORTED
from manual_grad.lectures import EQUATIONS
from manual_grad.verify.kill_matrix import targets
from manual_grad.verify.mutants import mutants_of
from tests.formulas.scenarios import SCENARIOS

TABLE = Path(__file__).with_name("counts.json")
COMMAND = "python -m tests.catalogue.test_counts"


def mutants_in(target):
    formulas = {name: target.claim.formulas[name] for name in target.formulas}
    return mutants_of(replace(target.claim, formulas=formulas))


def vectors(name):
    exported = EXPORTED.get(name)
    return sum(len(exported.cases_of(variant)) for variant in exported.variants) if exported else 0


def counted():
    """Entry → the number of its checks of each kind, without running them."""
    planted = Counter(mutant.formula for target in targets(EQUATIONS) for mutant in mutants_in(target))
    claimed = [name for e in EQUATIONS for claim in e.claims for name in claim.formulas]
    return {
        name: {
            "claims": sum(claimed.count(f) for f in (f"{name}_bwd", *(f.name for f in entry.functions))),
            "mutants": sum(
                planted[f] for f in (f"{name}_fwd", f"{name}_bwd", *(f.name for f in entry.functions))
            ),
            "golden vectors": sum(vectors(f) for f in (name, *(f.name for f in entry.functions))),
            "variants": len(entry.variants),
            "tested variants": sum(s.entry.name == name for s in SCENARIOS),
            "functions": len(entry.functions),
            "hard inputs": len(entry.hard),
            "benchmarks": len(entry.bench.sizes) if entry.bench else 0,
        }
        for name, entry in FORMULAS.items()
    }


def compared(table, now):
    """The counts that fell and those that rose, one per line."""
    pairs = [(e, what, n, now.get(e, {}).get(what, 0)) for e, row in table.items() for what, n in row.items()]
    fell = [f"{e}: {what} fell from {n} to {m}" for e, what, n, m in pairs if m < n]
    return fell, [f"{e}: {what} rose from {n} to {m}" for e, what, n, m in pairs if m > n]


def test_no_count_fell():
    table, now = json.loads(TABLE.read_text()), counted()
    fell, rose = compared(table, now)
    assert not fell, "\n".join(fell)
    assert not rose, "\n".join([*rose, f"update the table: {COMMAND}"])
    assert table.keys() == now.keys(), f"update the table: {COMMAND}"


@pytest.mark.parametrize("name", list(FORMULAS)[:1])
def test_a_count_that_falls_is_named(name):
    now = counted()
    row = now[name] | {"variants": now[name]["variants"] - 1}
    assert compared(now, now | {name: row})[0][0].startswith(f"{name}: variants fell from ")
    assert compared(now, {n: row for n, row in now.items() if n != name})[0]


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    TABLE.write_text(json.dumps(counted(), indent=1) + "\n")
