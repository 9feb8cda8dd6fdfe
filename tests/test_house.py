"""The house rules: layers import downwards, formulas do not use autodiff, tags connect everything."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import manual_grad
from manual_grad.lectures import EQUATIONS, ERRATA
from manual_grad.lectures.entries import tags_in

ROOT = Path(__file__).parents[1]
FLOORS = {  # folder: what it may import, besides itself and what everything may import
    "manual_grad.formulas": set(),
    "manual_grad.kernels": {"manual_grad.formulas"},
    "manual_grad.networks": {"manual_grad.formulas", "manual_grad.kernels"},
    "manual_grad.ops": {"manual_grad.formulas", "manual_grad.kernels"},
    "manual_grad_reference": set(),
    "manual_grad.compare": set(),
    "manual_grad.answer_cache": set(),
    "manual_grad.compiling": {"manual_grad.answer_cache", "manual_grad_reference"},
    "manual_grad.digits": set(),
    "manual_grad.environment": set(),
    "manual_grad.forms": set(),
    "manual_grad.npz": set(),
    "manual_grad.sympy_process": set(),
    "manual_grad.budget": {"manual_grad.compare", "manual_grad_reference"},
}
MATHEMATICS = {"manual_grad.formulas", "manual_grad.kernels", "manual_grad.networks"}
COMPARING = {"manual_grad.budget", "manual_grad.compare", "manual_grad.compiling", "manual_grad_reference"}
CATALOGUE = MATHEMATICS | COMPARING | {"manual_grad.digits", "manual_grad.ops"}
FLOORS |= {
    "manual_grad.catalogue": CATALOGUE,
    "manual_grad.checker": COMPARING | {"manual_grad.digits"},
    "manual_grad.lectures": CATALOGUE | {"manual_grad.catalogue"},
}
PROOF = FLOORS["manual_grad.lectures"] | {"manual_grad.lectures", "manual_grad.checker"}
PROOF |= {"manual_grad.answer_cache", "manual_grad.sympy_process"}
FILES = {"manual_grad.environment", "manual_grad.forms", "manual_grad.npz"}
FLOORS |= {
    "manual_grad.verify": PROOF,
    "manual_grad.golden": PROOF | FILES | {"manual_grad.public"},
    "manual_grad.training": PROOF | FILES | {"manual_grad.ops", "manual_grad.verify"},
}
FLOORS["manual_grad.report"] = FLOORS["manual_grad.training"] | {"manual_grad.training"}
FLOORS["manual_grad_benchmarks"] = FLOORS["manual_grad.training"] | {"manual_grad.training"}
FOLDERS = {"manual_grad_benchmarks": ["benchmarks"], "manual_grad_reference": ["reference"]}
PACKAGES = ("manual_grad", "manual_grad_benchmarks", "manual_grad_reference", "tests")
AUTODIFF = {
    "grad", "value_and_grad", "vjp", "jvp", "jacobian", "jacrev", "jacfwd", "hessian", "linearize",
    "linear_transpose", "custom_vjp", "custom_jvp", "custom_gradient", "checkpoint", "remat", "ad",
}  # fmt: skip
TAGS = [entry.tag for entry in (*EQUATIONS, *ERRATA)]
LEDGER = [
    *(f"A-{n:02}" for n in range(1, 12)), *(f"B-{n:02}" for n in range(1, 17)),
    *(f"C-{n:02}" for n in range(1, 12)), *(f"D-{n:02}" for n in range(1, 12)),
    *(f"E-{n:02}" for n in range(1, 33)),
    "A-E1", "B-E1", "B-E2", "B-E3", "C-E1", *(f"D-E{n}" for n in range(1, 9)),
]  # fmt: skip


def sources(package):
    path = ROOT.joinpath(*FOLDERS.get(package, ()), *package.split("."))
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def imported(tree):
    """Every module that a syntax tree imports of this project."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def forbidden_imports(tree, allowed):
    return [n for n in imported(tree) if not any(n == a or n.startswith(f"{a}.") for a in allowed)]


def autodiff_names(tree):
    """Where a syntax tree uses autodiff, by import, attribute or string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in AUTODIFF:
            yield node.attr
        elif isinstance(node, ast.ImportFrom | ast.Import):
            for alias in node.names:
                yield from (part for part in alias.name.split(".") if part in AUTODIFF)
                yield from (
                    part for part in (getattr(node, "module", "") or "").split(".") if part in AUTODIFF
                )
        elif isinstance(node, ast.Constant) and node.value in AUTODIFF:
            yield node.value


@pytest.mark.parametrize("floor", FLOORS)
def test_layers_import_downwards(floor):
    for path in sources(floor):
        allowed = (
            FLOORS[floor] | {floor} | ({"manual_grad.border"} if floor != "manual_grad_reference" else set())
        )
        assert not forbidden_imports(ast.parse(path.read_text()), allowed), path


@pytest.mark.parametrize(
    "line", ["import manual_grad_reference", "from manual_grad.lectures import EQUATIONS"]
)
def test_an_import_upwards_is_detected(line):
    assert forbidden_imports(ast.parse(line), FLOORS["manual_grad.formulas"])


def mathematics():
    return [path for wing in sorted(MATHEMATICS) for path in sources(wing)]


@pytest.mark.parametrize("path", mathematics(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_formulas_never_differentiate(path):
    assert not list(autodiff_names(ast.parse(path.read_text())))


@pytest.mark.parametrize(
    "line",
    [
        "jax.grad(f)",
        "from jax import vjp",
        "import jax.interpreters.ad",
        "getattr(jax, 'jvp')",
        "from jax import linearize as f",
    ],
)
def test_autodiff_is_detected(line):
    assert list(autodiff_names(ast.parse(line)))


def test_formulas_use_no_other_numerics():
    """Only jax.numpy and jax.lax compute there and in the operations; NumPy converts at the border."""
    allowed = {"jax", "jax.lax", "jax.numpy", "jaxtyping", "beartype", "numpy", "collections", "dataclasses"}
    allowed |= {"functools", "inspect", "math", "types", "typing", "manual_grad", "jax.sharding"}
    for path in (*mathematics(), *sources("manual_grad.border"), *sources("manual_grad.ops")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {n if n in allowed else n.split(".")[0] for n in names} <= allowed, path


def test_the_ledger_is_complete():
    assert sorted(TAGS) == sorted(LEDGER)
    assert len(set(TAGS)) == len(TAGS)


def code_tags():
    """Tags at the ends of lines of code, and tags in docstrings, of all formulas."""
    code, docs = set(), set()
    for path in mathematics():
        text = path.read_text()
        code |= {tag for comment in re.findall(r"#.*", text) for tag in tags_in(comment)}
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                docs |= set(tags_in(ast.get_docstring(node) or ""))
    return code, docs


def test_every_equation_is_tagged_in_code_and_docstring():
    equations = {tag for tag in LEDGER if "-E" not in tag}
    code, docs = code_tags()
    assert code == equations
    assert docs == equations


def tags_of_functions():
    """For each function of the formulas: the tags of its docstring and of its lines, and what it calls."""
    docs, code, calls = {}, {}, {}
    for path in mathematics():
        text = path.read_text()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef):
                lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
                docs[node.name] = set(tags_in(ast.get_docstring(node) or ""))
                code[node.name] = set(tags_in(" ".join(re.findall(r"#.*", "\n".join(lines)))))
                calls[node.name] = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return docs, code, calls


def reached(name, calls):
    """``name`` and every function that it calls, and that those call."""
    seen, found = set(), {name}
    while found:
        seen |= found
        found = {called for each in found for called in calls[each] if called in calls} - seen
    return seen


def test_a_docstring_names_the_equations_of_its_lines():
    docs, code, _ = tags_of_functions()
    public = [name for name in docs if not name.startswith("_")]
    assert {name: code[name] - docs[name] for name in public if code[name] - docs[name]} == {}


def test_an_equation_that_a_docstring_names_stands_at_a_line():
    """Of the function, or of one that it calls."""
    docs, code, calls = tags_of_functions()
    lines = {name: set().union(*(code[each] for each in reached(name, calls))) for name in docs}
    lines["from_column_stacking"] |= {"D-09"}  # which only lays out a Jacobian anew
    assert {name: docs[name] - lines[name] for name in docs if docs[name] - lines[name]} == {}


def public_functions(paths):
    for path in paths:
        if path.stem in ("limits", "geometry", "blocks"):  # what the formulas call, none of them a formula
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield pytest.param(path, node, id=f"{path.parent.name}/{path.stem}.{node.name}")


EVERY_SECTION = ("Args:", "Returns:", "Raises:", "Source:", ">>> ")


def missing_sections(path, doc):
    """What is missing in a docstring; a kernel's may refer to the formula's, which has it."""
    pages = sources("manual_grad.formulas") if path.parent.name == "kernels" else []
    docs = {param.values[1].name: ast.get_docstring(param.values[1]) for param in public_functions(pages)}
    of_page = "".join(docs.get(name, "") for name in re.findall(r":func:`(\w+)`", doc))
    own = doc if "Args:" in doc else doc + "".join(re.findall(r"Args:|Returns:|Raises:", of_page))
    return [section for section in EVERY_SECTION if section not in own]


@pytest.mark.parametrize(
    ("path", "node"), [*public_functions(mathematics()), *public_functions(sources("manual_grad.ops"))]
)
def test_public_functions_explain_themselves(path, node):
    assert missing_sections(path, ast.get_docstring(node) or "") == []


@pytest.mark.parametrize(
    ("wing", "doc", "missing"),
    [
        ("kernels", "As :func:`mse_fwd`.\nSource: ours.\n>>> 1", []),
        ("kernels", "As :func:`nobody`.\nSource: ours.\n>>> 1", ["Args:", "Returns:", "Raises:"]),
        ("kernels", "As :func:`mse_fwd`.", ["Source:", ">>> "]),
        ("kernels", "As :func:`mse_fwd`.\nArgs:\nSource: ours.\n>>> 1", ["Returns:", "Raises:"]),
        ("formulas", "As :func:`mse_fwd`.\nSource: ours.\n>>> 1", ["Args:", "Returns:", "Raises:"]),
    ],
)
def test_a_silent_docstring_is_detected(wing, doc, missing):
    assert missing_sections(ROOT / "manual_grad" / wing / "some.py", doc) == missing


def test_every_public_function_is_exported():
    helpers = {"activation_pair"}
    names = {param.values[1].name for param in public_functions(mathematics())}
    assert names - helpers <= set(manual_grad.__all__)
    assert all(hasattr(manual_grad, name) for name in manual_grad.__all__)


def test_every_exported_function_is_compared_with_the_reference():
    """Each public function is named in some lecture's claims, or builds one that is."""
    lectures = "".join(path.read_text() for path in sources("manual_grad.lectures"))
    formulas = "".join(path.read_text() for path in mathematics())
    for name in manual_grad.__all__:
        if name[0].islower() and not re.search(rf"\b{name}\b", lectures):
            assert len(re.findall(rf"\b{name}\(", formulas)) > 1, f"{name} is proved by no claim"


def test_every_tag_names_a_test():
    words = [sys.executable, "-m", "pytest", "-o", "addopts=", "--collect-only", "-q", "tests/lectures"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    ids = set(re.findall(r"\[([A-Z]-E?\d+)\]", done.stdout))
    assert ids == set(LEDGER)


@pytest.mark.parametrize("module", ["manual_grad", "manual_grad.verify"])
def test_an_import_loads_no_catalogue_and_no_sympy(module):
    """Computing or checking a gradient imports no catalogue, lectures or SymPy."""
    heavy = ("manual_grad.catalogue", "manual_grad.lectures", "sympy", "torch", "manual_grad_benchmarks")
    code = f"import sys, {module}; print([m for m in sys.modules if m.startswith({heavy!r})])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
