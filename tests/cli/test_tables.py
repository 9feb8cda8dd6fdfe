"""Tables at the widths that terminals have: the verdict is always there, and no number is cut."""

import io
from itertools import pairwise
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console

from manual_grad.cli import hard, mutants, show, tables, train
from manual_grad.cli import verify as work
from manual_grad.lectures import EQUATIONS, ERRATA
from manual_grad.verify.equations import ORACLES, OracleVerdict, Verdict
from manual_grad.verify.hard import Answer, HardVerdict
from manual_grad.verify.kill_matrix import Row
from manual_grad_benchmarks import table as bench

WIDTHS = (80, 100, 200)
SIDE = {"median": 0.287, "temporaries": 2_054_144, "share_of_ceiling": 0.71, "error": 3.1e-7}
SIDE["kept"] = {"new": 1_048_576, "arguments": 2048}
ROW = {
    "case": "softmax_cross_entropy_with_integer_labels",
    "size": "4096×1000",
    "pair": ["manual", "autodiff"],
    "sides": {"manual": SIDE, "autodiff": SIDE},
    "interval": [0.91, 1.02],
    "ratio": 0.9312,
    "compile_ratio": 1.01,
    "over": {"autodiff": 0.93, "autodiff (best options)": 0.97, "torch": 0.57},
    "verdict": "same program",
    "same_program": True,
    "dispatch_share": 0.1,
    "accurate": True,
}


def printed(what, width):
    console = Console(width=width, file=io.StringIO())
    what(console)
    lines = console.file.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    assert not any("…" in line for line in lines)
    return lines


def test_code_is_wrapped_and_never_cut():
    shown = "".join("".join(printed(lambda c: show.print_code(c, "rnn_bwd"), 60)).split())
    assert 'Float[Array,"TNH"],Float[Array,"NH"]]' in shown
    assert "for d in (dx, dW_ih, dW_hh, db, dh0))".replace(" ", "") in shown


@pytest.mark.parametrize("width", WIDTHS)
def test_what_continues_a_line_of_code_is_indented(width):
    lines = printed(lambda c: show.print_code(c, "linear_cross_entropy_bwd"), width)
    assert {line[:5] for line in lines if line.strip() and line[0] != " "} == {"@chec", "def l"}
    assert (len(lines) > 7) == (width < 110)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_derivation_keeps_its_indents(width):
    (equation,) = (e for e in EQUATIONS if e.tag == "C-07")
    lines = printed(lambda c: show._print_equation(c, equation), width)
    continued = [line for above, line in pairwise(lines) if above.startswith("    := ") and "for" in line]
    assert all(line.startswith("        ") for line in continued if not line.startswith("    := "))
    assert any(line.startswith("        ") for line in lines) == (width < 200)


def test_blank_lines_come_one_at_a_time():
    (equation,) = (e for e in EQUATIONS if e.tag == "C-10")  # one of its derivations begins with a formula
    lines = printed(lambda c: show._print_equation(c, equation), 80)
    assert all(above.strip() or line.strip() for above, line in pairwise(lines[:-1]))


@pytest.mark.parametrize("width", WIDTHS)
def test_mutants_keep_whole_names(width):
    names = ["jac_softmax_cross_entropy_logits", "jac_softmax_cross_entropy_logits_one_hot"]
    errors = dict.fromkeys(ORACLES, 1.5)
    rows = [
        Row(
            "A-10", name, "softmax off-diagonal missing", "logits, labels", list(ORACLES), errors, ["sum"], []
        )
        for name in names
    ]
    lines = cells(printed(lambda console: mutants.show(console, rows, one_by_one=True), width))
    column = "".join(row[1] for row in lines if len(row) > 3)
    assert all(name in column for name in names)
    assert "softmax off-diagonal missing" in " ".join(row[2] for row in lines if len(row) > 3)


def cells(lines):
    """The rows of a table; a row that wraps is one line for each of its lines."""
    return [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines]


@pytest.mark.parametrize("width", WIDTHS)
def test_equations_keep_their_verdicts(width):
    found = {name: OracleVerdict(2.9e-10 if name == "differences" else 1e-16, 0.31) for name in ORACLES}
    verdicts = [Verdict(e.tag, e.lecture, e.title, oracles=found) for e in EQUATIONS]
    verdicts += [Verdict(e.tag, e.lecture, e.title, "erratum", counterexample="at [4]: 1") for e in ERRATA]
    rows = cells(printed(lambda console: work._print_verdicts(console, verdicts, "float64"), width))
    for verdict in verdicts:
        (row,) = (row for row in rows if row[0] == verdict.tag)
        assert row[-1] == ("refuted" if verdict.status == "erratum" else "verified")
        assert "-E" in verdict.tag or "3e-10" in row
    header = next(row for row in rows if row[0] == "tag")
    assert set(ORACLES) <= set(header) or width < 130
    assert {"reverse", "differences"} <= set(header)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_benchmark_keeps_ratio_and_verdict(width):
    lines = printed(lambda console: tables.print_fitted(console, bench.table("t", [ROW]), bench.LEAST), width)
    text = " ".join(" ".join(row) for row in cells(lines))
    assert "0.93 [0.91, 1.02]" in text
    assert "same program" in text
    assert ("71%" in text) == ("1 MB / 1 MB" in text) == (width == 200)
    assert ("are too few for: kept arguments, ceiling" in text) == (width < 200)


@pytest.mark.parametrize("width", WIDTHS)
def test_training_side_by_side_keeps_its_headers(width):
    record = {"epoch": 1, "train_loss": 0.5, "test_accuracy": 0.9, "seconds": 1.0}
    record |= {"autodiff": record, "loss_gap": 1e-16, "parameter_gap": 1e-15}
    state = SimpleNamespace(records=[record], sides={"manual": None, "autodiff": None})
    shown = train._table(state, 1)
    header = cells(printed(lambda c: tables.print_fitted(c, shown, train.LEAST), width))[1]
    assert {"epoch", "train loss", "test accuracy", "losses apart"} <= set(header)


def test_the_least_important_columns_are_dropped():
    """A table that fits is printed with all its columns."""
    table = bench.table("t", [ROW])
    whole, narrow = (
        printed(lambda c: tables.print_fitted(c, table, bench.LEAST), width) for width in (250, 100)
    )
    assert not any("too few" in line for line in whole)
    left_out = " ".join(" ".join(narrow[-2:]).split())
    named = left_out.partition("for: ")[2].partition(" (")[0].split(", ")
    assert named == [name.replace("+\n", "+") for name in bench.LEAST[: len(named)]]


@pytest.mark.parametrize("width", WIDTHS)
def test_hard_inputs_keep_whole_numbers(width):
    numbers = "dW [-1.36e+03 2.73e+03 -1.37e+03 -1.36e+03 2.73e+03 -1.37e+03]"
    ours = Answer("ours", True, numbers, "", 0.0)
    jax = Answer("−ln(exp/Σexp)[y]", False, "nan", "J is nan, expected 1", None)
    names = {"linear_cross_entropy": "float16", "jac_softmax_cross_entropy_logits_one_hot": "bfloat16"}
    verdicts = [
        HardVerdict("a very large batch", "Why.", "∞/∞", name, (), dtype, {}, numbers, ours, (jax,))
        for name, dtype in names.items()
    ]
    lines = printed(lambda console: hard.print_hard(console, verdicts), width)
    words = " ".join(lines).split()
    assert words.count("-1.37e+03]") == words.count("-1.37e+03") == 4
    assert sum("right" in line.replace("right answer", "") for line in lines) == 2
    assert "−ln(exp/Σexp)[y]:" in words
