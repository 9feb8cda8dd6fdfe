"""Made-up results, so that a book takes seconds: its pages are tested, not its numbers."""

from manual_grad.lectures import EQUATIONS, ERRATA
from manual_grad.report.planted import PLANTED, checked
from manual_grad.report.results import Results

ABOUT = {
    "dtype": "float64", "seed": 0, "jax": "1", "numpy": "2", "python": "3", "device_kind": "cpu",
    "machine": "x86_64", "source": "made up for a test",
}  # fmt: skip


def verdict(entry, status=None):
    erratum = "-E" in entry.tag
    return {
        "tag": entry.tag,
        "lecture": entry.lecture,
        "title": entry.title,
        "status": status or ("erratum" if erratum else "verified"),
        "oracles": {
            "value": {"max_error": 0.0, "share": 0.0, "passed": True},
            "reverse": {"max_error": None if status else 2e-16, "share": 0.1, "passed": status is None},
        },
        "inputs": {"X": "float64[7,3]", "y": "int64[]"},
        "failures": ["f_bwd: X against reverse: relative error 1.0"] if status else [],
        "counterexample": "its shapes clash: no product of (10, 12) times (25, 12)" if erratum else "",
    }


def verdicts(failed=()):
    entries = (*EQUATIONS, *ERRATA)
    return {e.tag: verdict(e, "failed" if e.tag in failed else None) for e in entries}


def mutant(tag, formula, kind, survives=(), killed_by=("reverse",)):
    checks = ["ones", "projection", "sum", "bfloat16", "square"]
    return {
        "tag": tag, "formula": formula, "mutant": kind, "says": "X", "killed_by": list(killed_by),
        "relative_error": {"reverse": 1.0}, "survives": list(survives), "checks": checks,
    }  # fmt: skip


KILLS = [
    mutant("A-08", "softmax_bwd", "cotangent ignored", ["ones"]),
    mutant("A-10", "softmax_cross_entropy_bwd", "sign flipped"),
]
TRAINING = [
    {
        "epoch": epoch,
        "train_loss": 2.0 / epoch,
        "test_accuracy": 1 - 0.5 / epoch,
        "autodiff": {"train_loss": 2.0 / epoch, "test_accuracy": 1 - 0.5 / epoch},
        "parameter_gap": 1e-16,
    }
    for epoch in (1, 2, 3)
]


def timed(case, size, ratio, group="formula", **more):
    """A row as ``manual-grad bench --json`` writes it."""
    pair = ["columns", "rows"] if group == "layout" else ["manual", "autodiff"]
    moved, temporaries = 1e3 * size, 0 if size < 50 else 400 * size
    sides = [(pair[0], ratio, temporaries, 4 * size), (pair[1], 1, 800 * size, 8 * size)]
    return {
        "case": case, "size": f"{size}×8", "group": group, "pair": pair, "ratio": ratio,
        "interval": [ratio * 0.9, ratio * 1.05], "same_program": False, "verdict": "faster",
        "work_flops": 2e3 * size, "dispatch_share": 0.1, "over": {pair[1]: ratio, "torch": 1.5 * ratio},
        "sides": {
            name: {"median": 1e-6 * size * t, "temporaries": b, "moved": moved, "kept": {"new": new}}
            for name, t, b, new in sides
        },
    } | more  # fmt: skip


def grown(p, n):
    fit = {"c": 1e-5, "b": 1e-6, "p": p, "off": 0.1}
    sizes = (4, n)
    costs = {"seconds": [1e-6 * size**p for size in sizes], "temporaries": [8 * size for size in sizes]}
    return costs | {"time": fit, "memory": (p and fit) or None}


SCALE = {"case": "attention_streaming", "family": "streaming attention", "axes": "Lq Lk", "sizes": [4, 4096]}
BENCHMARKS = {
    "scale": [SCALE | {"sides": {"manual": grown(1, 4096), "autodiff": grown(0, 4096)}}],
    "environment": {"jax": "1", "device_kind": "cpu", "threads": 2, "torch": None},
    "ceiling": {"flops": 3e11, "copies": [[1e4, 3e10], [1e8, 1e10]]},
    "rows": [
        timed("relu", 8, 1.1, same_program=True, verdict="same program, the ratio is noise"),
        timed("relu", 800, 0.9, dispatch_share=0.7),
        timed("softmax_cross_entropy_with_integer_labels", 64, 1.25, verdict="slower"),
        timed("ops.conv2d", 200, 0.2, "drop-in"),
        timed("jac_softmax_logits_blocks", 64, 0.002, "jacobian"),
        timed("columns_against_rows", 6000, 0.97, "layout", verdict="even"),
    ],
}


def results(**changes):
    made = {
        "verdicts": verdicts(),
        "about": ABOUT,
        "kills": KILLS,
        "diagnoses": [checked(planted) for planted in PLANTED[:2]],
        "training": TRAINING,
        "benchmarks": BENCHMARKS,
        "cases": ("mse", *(row["case"] for row in BENCHMARKS["rows"])),
    }
    return Results(**made | changes)
