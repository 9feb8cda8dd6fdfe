"""The tests behind an equation or a function, in the form that pytest accepts."""

from collections.abc import Iterable

from manual_grad.report.code import Source, formulas

COMPACT = ("_blocks", "_diagonal", "_factors")  # these forms are tested along with the dense ones


def of_tag(tag: str) -> str:
    """The test that compares an equation with JAX, or refutes an erratum.

    >>> of_tag("A-10")
    'tests/lectures/test_claims.py::test_equation_holds[A-10]'
    """
    name = "test_erratum_is_refuted" if "-E" in tag else "test_equation_holds"
    return f"tests/lectures/test_claims.py::{name}[{tag}]"


def of_formula(name: str) -> list[str]:
    """The arguments of ``pytest`` that test a formula on its own, with separate inputs.

    >>> of_formula("mse_bwd"), of_formula("jac_mse_y_hat")
    (['tests/formulas/test_against_jax.py -k=-mse-'], ['tests/formulas/test_jacobians.py -k=-jac_mse_y_hat'])
    """
    pair = name.removesuffix("_fwd").removesuffix("_bwd")
    if pair != name and {f"{pair}_fwd", f"{pair}_bwd"} <= formulas().keys():
        return [f"tests/formulas/test_against_jax.py -k=-{pair}-"]
    if name.startswith("jac_"):
        file = "tests/formulas/test_jacobians.py"
        return [file] if name.endswith(COMPACT) else [f"{file} -k=-{name}"]
    return []


def doctest(source: Source) -> list[str]:
    """The example in a function's docstring, as a test; none if there is no example."""
    file = source.place.partition(":")[0]
    return [f"{file}::{source.module}.{source.name}"] if ">>> " in source.doc else []


def of_function(source: Source) -> list[str]:
    """The tests of any public function, its example first."""
    own = of_formula(source.name)
    if source.module == "manual_grad.ops":
        own += [f"tests/test_ops.py -k=[{source.name}]"]
    return [*doctest(source), *own]


def of_equation(tag: str, names: Iterable[str]) -> list[str]:
    """The test of its claims, then those of the formulas in them."""
    return [of_tag(tag), *dict.fromkeys(test for name in names for test in of_formula(name))]
