"""Small changes to the source of formulas and kernels: does ``verify`` see each of them? See mutation.md."""

import argparse
import functools
import importlib
import inspect
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import libcst
import numpy as np
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

from manual_grad.compiling import split_settings
from manual_grad.lectures import EQUATIONS
from manual_grad.verify import equations as claims
from manual_grad.verify import hard

PATHS = [path for name in ("formulas", "kernels") for path in sorted(Path("manual_grad", name).glob("*.py"))]
REFUSALS = ("require", "isinstance", "describe", "InputError", "pair")  # for the tests of bad input
NAMED = r"jac_\w+|\w+_(fwd|bwd)"  # by whom bad input is refused
SECONDS = 120  # for one mutant
FIRST, TOGETHER, FULLY = 8, 7, 3  # claims: checked first, in one program, by every oracle
TRACED_ONCE = ("conv2d", "conv2d_cpu", "geometry", "limits", "recurrent")  # JAX keeps their programs


# ---------------------------------------------------------------- the mutants


class _Finder(libcst.CSTVisitor):
    """Find mutmut's changes inside functions, except in refusals, decorators, annotations and ``strict=``."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self):
        self.found, self.inside = [], []

    def on_visit(self, node):
        if isinstance(node, libcst.Raise | libcst.Decorator | libcst.Annotation) or _refuses(node):
            return False
        if isinstance(node, libcst.Arg) and node.keyword and node.keyword.value == "strict":
            return False
        if isinstance(node, libcst.FunctionDef | libcst.ClassDef):
            self.inside.append(node)
        in_function = self.inside and isinstance(self.inside[-1], libcst.FunctionDef)
        for kind, operator in mutation_operators if in_function else ():
            if isinstance(node, kind):
                line = self.get_metadata(PositionProvider, node).start.line
                changes = [new for new in operator(node) if not _tells_nothing(node, new)]
                self.found += [(self._outermost(), line, node, new) for new in changes]
        return True

    def _outermost(self):
        """The function that is not inside another, such as ``Conv2DResiduals.reach``."""
        first = next(n for n, part in enumerate(self.inside) if isinstance(part, libcst.FunctionDef))
        return ".".join(part.name.value for part in self.inside[: first + 1])

    def on_leave(self, node):
        if self.inside and self.inside[-1] is node:
            self.inside.pop()


def _refuses(node):
    """Whether it is a call of what refuses bad input, its definition, or the name that it gives."""
    if isinstance(node, libcst.SimpleString):
        return re.fullmatch(NAMED, node.evaluated_value)
    if isinstance(node, libcst.FunctionDef):
        return node.name.value.startswith("_require")
    called = isinstance(node, libcst.Call) and isinstance(node.func, libcst.Name)
    return called and node.func.value.lstrip("_").startswith(REFUSALS)


def _tells_nothing(old, new):
    """Whether None stands for a value; or nothing is changed but letters' case or zip's ``strict=True``."""
    if isinstance(old, libcst.Assign):
        return True
    if isinstance(old, libcst.SimpleString):
        return "XX" not in new.value  # "valid" is "VALID" to XLA
    if not isinstance(old, libcst.Call):
        return False
    before, after = ({arg.keyword.value for arg in call.args if arg.keyword} for call in (old, new))
    values = [arg.value for arg in new.args]
    none = any(isinstance(value, libcst.Name) and value.value == "None" for value in values)
    return none or "strict" in before - after


def mutants():
    """Every mutant, by a name such as ``manual_grad/formulas/mse.py:mse_bwd:3``."""
    for path in PATHS:
        wrapper, finder, number = MetadataWrapper(libcst.parse_module(path.read_text())), _Finder(), Counter()
        wrapper.visit(finder)
        for function, line, old, new in finder.found:
            number[function] += 1
            yield {
                "name": f"{path}:{function}:{number[function]}",
                "path": path,
                "function": function,
                "line": line,
                "old": wrapper.module.code_for_node(old).strip(),
                "new": wrapper.module.code_for_node(new).strip(),
                "source": functools.partial(
                    lambda m, o, n: m.deep_replace(o, n).code, wrapper.module, old, new
                ),
            }


# ---------------------------------------------------------------- planting one


def _plain(where, name):
    """The function of this name in a module, or in one of its classes, without what is wrapped around it."""
    for part in name.split("."):
        where = where.__dict__[part]
    return inspect.unwrap(getattr(where, "fget", None) or getattr(where, "__func__", where))


def planted(mutant):
    """Puts the mutant's code into the function, for whoever holds it; the same again takes it out."""
    module = importlib.import_module(str(mutant["path"].with_suffix("")).replace("/", "."))
    space = {"__name__": module.__name__}
    exec(compile(mutant["source"](), module.__file__, "exec"), space)
    both = _plain(module, mutant["function"]), _plain(SimpleNamespace(**space), mutant["function"])

    def swap():
        for part in ("__code__", "__defaults__", "__kwdefaults__"):
            values = [getattr(function, part) for function in both]
            for function, value in zip(both, reversed(values), strict=True):
                setattr(function, part, value)
        if mutant["path"].stem in TRACED_ONCE:
            jax.clear_caches()

    return both[0].__code__, swap


# ---------------------------------------------------------------- asking about it


class Questions:
    """Every claim of every equation, every hard input, and the functions that each of them reaches."""

    def __init__(self):
        posed = [(e, n) for e in EQUATIONS for n in range(len(e.claims))]
        self.posed = [claims._pose(e, n, "float64", 0) for e, n in posed]
        self.reach, self.asked = {}, {}
        for k in range(len(self.posed)):
            self._follow("claim", k, self._call)
        for k in range(len(hard.CASES)):
            self._follow("hard", k, self._hard)

    def _follow(self, kind, k, ask):
        codes, started, folders = set(), time.perf_counter(), tuple({str(p.parent.resolve()) for p in PATHS})

        def see(frame, event, _):
            if event == "call" and frame.f_code.co_filename.startswith(folders):
                codes.add(frame.f_code)

        jax.clear_caches()
        sys.setprofile(see)
        try:
            ask(k)
        finally:
            sys.setprofile(None)
        for code in codes:
            self.reach.setdefault((code.co_filename, code.co_qualname), []).append(
                (kind, time.perf_counter() - started, k)
            )

    def _call(self, k):
        for formula in self.posed[k].formulas.values():
            call = self.posed[k].problem.calls(formula)
            arrays, settings = split_settings(call.inputs)
            run = functools.partial(formula, **settings)
            jax.eval_shape(lambda args, arrays, run=run: run(*args, **arrays), call.args, arrays)

    def _hard(self, k):
        formula, case = hard.CASES[k]
        if case is hard.KEPT:
            hard.check_hard(formula, case)
            return
        drawn = {name: hard._cast(v, case.dtype) for name, v in case.draw(np.random.default_rng(0)).items()}
        dout = drawn.pop("dout", None)

        def both(*primals):
            out, res = formula.fwd(*primals, **case.settings)
            return formula.bwd(res, out if dout is None else dout)

        jax.eval_shape(both, *drawn.values())

    def of(self, code, kind):
        """The claims or hard inputs that reach a function, the cheapest first."""
        found = self.reach.get((code.co_filename, code.co_qualname), ())
        return [k for kind_, _, k in sorted(found) if kind_ == kind]

    def quickly(self, ks):
        """The failures found by the quick oracles in the first of these claims that fails."""
        posed = [self.posed[k] for k in ks]
        for k in ks:
            if k not in self.asked:
                self.asked[k] = claims._checks([self.posed[k]], claims.QUICK_ORACLES)[0]
        checks = [self.asked[k] for k in ks]
        for p, answers, asked in zip(posed, claims._answers(posed, checks), checks, strict=True):
            verdict = claims.Verdict(p.entry.tag, "", "")
            claims._add(p, answers, asked, verdict)
            if verdict.failures:
                return f"{p.entry.tag}: {verdict.failures[0]}"
        return None

    def fully(self, k):
        """The failures found by the exact and symbolic oracles in a claim."""
        p = self.posed[k]
        integers = [
            {way: found.worst for way, found in f.items()}
            for f in claims._exactly([p], claims.ORACLES).values()
        ]
        for found in (*integers, *claims._symbolically([p], claims.ORACLES).values()):
            for way, worst in found.items():
                if not worst.share <= 1:
                    return f"{p.entry.tag}: {way}: {worst.detail}"
        return None


def seen_by(questions, code, every):
    """Which check sees the change, and in what words; cheap ones first."""
    asked = questions.of(code, "claim")[: None if every else FIRST]
    for some in (asked[:1], *(asked[i : i + TOGETHER] for i in range(1, len(asked), TOGETHER))):
        if some and (words := questions.quickly(some)):
            return "verify", words
    for k in questions.of(code, "hard"):
        formula, case = hard.CASES[k]
        verdict = hard.check_hard(formula, replace(case, jax={}))
        if not verdict.passed:
            return "hard", f"{formula.name}, {case.name}: {verdict.ours.detail}"
    for k in asked[: None if every else FULLY]:
        if words := questions.fully(k):
            return "verify", words
    return None, None


def work(todo, out, every):
    """Ask about these mutants; a line for each before, in case it takes the process with it, and after."""
    questions = Questions()
    signal.signal(signal.SIGALRM, _stop)
    for mutant in todo:
        row = {key: str(value) for key, value in mutant.items() if key != "source"}
        print(json.dumps(row | {"seen": "crash"}), file=out, flush=True)
        started = time.perf_counter()
        code, swap = planted(mutant)
        swap()
        signal.alarm(SECONDS)
        try:
            row["seen"], row["words"] = seen_by(questions, code, every)
        except (Exception, _TooLong) as error:  # in the drawing of a case, say, which calls the function
            row["seen"], row["words"] = "verify", f"{type(error).__name__}: {error}"[:300]
        finally:
            signal.alarm(0)
            swap()
        row["seconds"] = round(time.perf_counter() - started, 2)
        print(json.dumps(row), file=out, flush=True)


class _TooLong(BaseException):
    """A mutant that does not end; no Exception, which would be taken for the formula's answer."""


def _stop(*_):
    raise _TooLong(f"more than {SECONDS} s")


def rows(path):
    """The results for each mutant, by name; the last one counts."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def main():
    """Work through the mutants that have no line yet, then print who saw how many, and who nobody saw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a line for each mutant; continued if there")
    parser.add_argument("--only", default="", help="part of a mutant's name")
    parser.add_argument("--every", type=int, default=1, help="take each N-th mutant")
    parser.add_argument(
        "--all", action="store_true", help="all claims that reach a function, not the cheapest"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    chosen = [mutant for mutant in list(mutants())[:: options.every] if options.only in mutant["name"]]
    done = rows(options.out)
    todo = [mutant for mutant in chosen if mutant["name"] not in done]
    if options.worker:
        with options.out.open("a") as out:
            work(todo, out, options.all)
        return
    while todo:  # a mutant that takes the process with it is seen; the others go on in a new one
        subprocess.run([sys.executable, *sys.argv, "--worker"], check=False)
        done, before = rows(options.out), len(todo)
        todo = [mutant for mutant in chosen if mutant["name"] not in done]
        if len(todo) == before:
            sys.exit("the process that asks does not start")
    for row in done.values():
        if row["seen"] is None:
            print(f"{row['path']}:{row['line']} {row['function']}: {row['old']!r} becomes {row['new']!r}")
    print(dict(Counter(row["seen"] or "nobody" for row in done.values())))


if __name__ == "__main__":
    main()
