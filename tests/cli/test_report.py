"""``manual-grad report`` as users see it: exit codes, one line for bad input, no half book."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest

from manual_grad.cli import app as cli
from manual_grad.lectures import EQUATIONS
from manual_grad.report import pages, results
from manual_grad.report.planted import PLANTED
from tests.report import made_up


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """In a folder of its own, and with nothing computed: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "gather", lambda seed, show, **read: made_up.results(diagnoses=[]))
    monkeypatch.setattr(pages, "render", lambda found, show: {"index.html": b"<p>", "data/a.json": b"{}"})

    def call(words):
        monkeypatch.setattr(sys, "argv", ["manual-grad", "report", *words.split()])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return exit.value.code, *capsys.readouterr()

    return call


def test_a_book_is_written(run, tmp_path):
    code, out, error = run("--out book")
    assert (code, error) == (0, "")
    assert out.startswith("book/index.html: 2 files")
    assert {p.name for p in (tmp_path / "book").iterdir()} == {"index.html", "data", "book.json"}
    assert run("--out book")[0] == 2
    assert run("--out book --force")[0] == 0


def test_failures_exit_1_and_are_named(run, monkeypatch):
    wrong = made_up.results(verdicts=made_up.verdicts(failed=("A-10",)), diagnoses=[])
    monkeypatch.setattr(results, "gather", lambda seed, show, **read: wrong)
    code, out, _ = run("--out book")
    assert code == 1
    assert "FAILED: A-10" in out
    alive = made_up.results(kills=[made_up.mutant("A-08", "softmax_bwd", "zero", killed_by=())], diagnoses=[])
    monkeypatch.setattr(results, "gather", lambda seed, show, **read: alive)
    code, out, _ = run("--out other")
    assert code == 1
    assert "FAILED: A-08 softmax_bwd: zero" in out
    blind = made_up.results(diagnoses=[{"mistake": "1/N is missing", "ok": True}])
    assert blind.failed == ["unseen by the checker: 1/N is missing"]


def test_an_interrupted_run_writes_nothing(run, monkeypatch, tmp_path):
    def interrupted(found, show):
        raise KeyboardInterrupt

    monkeypatch.setattr(pages, "render", interrupted)
    code, _, error = run("--out book")
    assert (code, error.strip()) == (130, "manual-grad: interrupted; nothing was written")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["jinja2", "latex2mathml", "pygments", "sklearn"])
def test_a_missing_extra_is_named(run, monkeypatch, module):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name)
    )
    code, _, error = run("--out book")
    assert code == 2
    assert error.startswith("manual-grad: report needs ")
    assert error.strip().endswith("pip install 'manual-grad[report]'")


VERDICTS = {"environment": made_up.ABOUT, "equations": list(made_up.verdicts().values())}
BAD = {
    "verdicts": {
        "[1, 2]": "is not what manual-grad verify --json writes",
        "{": "is not JSON",
        '{"equations": [{"tag": 3}], "environment": {}}': "is not what manual-grad verify --json writes",
        json.dumps(VERDICTS | {"equations": VERDICTS["equations"][5:]}): "lacks A-01 and 4 more",
        json.dumps(
            VERDICTS | {"equations": [*VERDICTS["equations"], made_up.verdict(EQUATIONS[0]) | {"tag": "Z-9"}]}
        ): ("has 'Z-9', which is not a tag of this version"),
    },
    "kills": {
        '{"mutants": [{"tag": "A-01"}]}': "is not what manual-grad verify --mutants --json writes",
        '{"mutants": []}': "it has no mutants",
    },
    "benchmarks": {
        '{"rows": [{"case": 1}]}': "is not what manual-grad bench --json writes: rows[0].case is 1, expected",
        '{"rows": []}': "is not what manual-grad bench --json writes: it has no rows",
        json.dumps(made_up.BENCHMARKS | {"scale": [made_up.BENCHMARKS["scale"][0] | {"sides": {}}]}): (
            "attention_streaming has no sides in scale"
        ),
        json.dumps(made_up.BENCHMARKS | {"scale": [made_up.BENCHMARKS["scale"][0] | {"sizes": []}]}): (
            "attention_streaming has 2 seconds of manual for 0 sizes"
        ),
    },
}
ROW = {"case": "relu", "ratio": 0.5}
BAD_ROWS = {
    "group is '/../../../../victim', expected one of formula, drop-in, jacobian, layout": {
        "group": "/../../../../victim"
    },
    "group is a list of 1": {"group": ["formula"]},
    "ratio is '0.5', expected a number": {"ratio": "0.5"},
    "ratio is 1e+300": {"ratio": 1e300},
    "ratio is true": {"ratio": True},
    "case is ' ', expected a case's name": {"case": " "},
    "pair is a list of 1, expected a list of 2": {"pair": ["a"]},
    "interval is a list of 2": {"interval": [0, 1]},
    "dispatch_share is '0.5', expected a finite number": {"dispatch_share": "0.5"},
    "over.torch is 'x'": {"over": {"torch": "x"}},
    "sides.manual is 'fast', expected an object": {"sides": {"manual": "fast"}},
    "sides.manual.median is a list of 0": {"sides": {"manual": {"median": []}}},
    "verdict is null": {"verdict": None},
}
FIRST, *REST = VERDICTS["equations"]
ORACLE = FIRST["oracles"]["value"]
BAD_VERDICTS = {
    "environment.dtype is missing": {"environment": {}},
    "environment.seed is '0', expected an integer from 0": {"environment": made_up.ABOUT | {"seed": "0"}},
    "equations[0].oracles.value.max_error is 'small'": {"max_error": "small"},
    "equations[0].oracles.value.passed is 1, expected true or false": {"passed": 1},
    "equations[0].oracles.guess is an object, expected no oracle but value, reverse": {"guess": ORACLE},
    "equations[0].failures[0] is 5, expected text": {"failures": [5]},
    "equations[0].counterexample is missing": {"counterexample": ...},
    "is not JSON; expected what manual-grad verify --json writes (it is nested deeper than 64)": {
        "failures": json.loads("[" * 99 + "]" * 99)
    },
    "(it holds nan, which is not JSON)": {"max_error": float("nan")},
    "surrogates not allowed": {"failures": ["\ud800"]},
}


def with_verdict(changes):
    """The verdicts, the first of them changed: itself, its first oracle, or the oracles."""
    if "environment" in changes:
        return VERDICTS | changes
    oracles = FIRST["oracles"] | ({"value": ORACLE | changes} if changes.keys() <= ORACLE.keys() else {})
    oracles |= {name: oracle for name, oracle in changes.items() if name == "guess"}
    first = FIRST | {"oracles": oracles} | {k: v for k, v in changes.items() if k in FIRST}
    first = {k: v for k, v in first.items() if v is not ...}
    return VERDICTS | {"equations": [first, *REST]}


BAD_KILLS = {
    "tag is 'Z-9', expected one of A-01": {"tag": "Z-9"},
    "killed_by is 'reverse', expected a list": {"killed_by": "reverse"},
    "killed_by[0] is 'guess', expected one of value": {"killed_by": ["guess"]},
    "survives[0] is 'guess', expected one of ones": {"survives": ["guess"]},
    "relative_error.guess is 1, expected no oracle but": {"relative_error": {"guess": 1}},
    "says is null, expected text": {"says": None},
}
for said, changes in BAD_VERDICTS.items():
    BAD["verdicts"][json.dumps(with_verdict(changes))] = said
for said, changes in BAD_KILLS.items():
    BAD["kills"][json.dumps({"mutants": [made_up.KILLS[0], made_up.KILLS[1] | changes]})] = (
        f"mutants[1].{said}"
    )
for said, changes in BAD_ROWS.items():
    BAD["benchmarks"][json.dumps({"rows": [ROW, ROW | changes]})] = f"rows[1].{said}"
BAD["benchmarks"][json.dumps({"rows": [ROW], "environment": "a"})] = "environment is 'a', expected an object"
BAD["benchmarks"][json.dumps({"rows": [ROW], "ceiling": {"copies": [[1, "a"]]}})] = "copies[0] is a list of 2"


@pytest.mark.parametrize(
    ("option", "text", "said"), [(o, t, s) for o, cases in BAD.items() for t, s in cases.items()]
)
def test_a_file_of_another_kind_is_refused(run, tmp_path, option, text, said):
    (tmp_path / "given.json").write_text(text)
    code, _, error = run(f"--out book --{option} given.json")
    assert code == 2
    assert error.startswith(f"manual-grad: --{option}: given.json ")
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "book").exists()
    assert "cannot be read: No such file" in run(f"--out book --{option} nowhere.json")[2]


def test_an_endless_file_is_refused(run, monkeypatch):
    monkeypatch.setattr(results, "LARGEST", 1000)
    assert "has more than 1000 bytes" in run("--out book --kills /dev/zero")[2]


def test_files_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "given.json"
    path.write_text(json.dumps(VERDICTS))
    assert results.read_verdicts(path)["equations"] == VERDICTS["equations"]
    path.write_text(json.dumps({"mutants": made_up.KILLS}))
    assert results.read_kills(path)["mutants"] == made_up.KILLS
    path.write_text(json.dumps(made_up.BENCHMARKS))
    assert results.read_benchmarks(path) == made_up.BENCHMARKS


def test_results_are_gathered_from_the_checker(monkeypatch):
    """For two tags, one kind of mutants and one planted mistake."""
    chosen = tuple(e for e in EQUATIONS if e.tag in ("A-02", "A-04"))
    for name, value in {
        "EQUATIONS": chosen,
        "ENTRIES": chosen,
        "TAGS": ("A-02", "A-04"),
        "PLANTED": PLANTED[:1],
    }.items():
        monkeypatch.setattr(results, name, value)
    monkeypatch.setattr(results, "SELECTED", ("mse_bwd",))
    monkeypatch.setattr(results, "_trained", lambda seed: made_up.TRAINING)
    shown = []
    found = results.gather(3, None, None, None, lambda what, done: shown.append((what, done)))
    assert [v["status"] for v in found.verdicts.values()] == ["verified", "verified"]
    assert found.about["seed"] == 3
    assert set(found.oracles) == {"value", "reverse", "forward"}
    assert {r["formula"] for r in found.kills} == {"mse_bwd"}
    assert all(r["killed_by"] for r in found.kills)
    assert found.diagnoses[0]["diagnosis"].startswith("scaled by N = 8")
    assert len(shown) == results.steps(False, False) == 5


def test_a_wrong_formula_fails_and_does_not_stop_the_book(monkeypatch):
    def wrong(target, seed, oracles):
        raise results.kill_matrix.FormulaError("A-04: mse_bwd itself does not pass reverse")

    monkeypatch.setattr(results.kill_matrix, "kill", wrong)
    monkeypatch.setattr(results, "PLANTED", ())
    monkeypatch.setattr(results, "SELECTED", ("mse_bwd",))
    monkeypatch.setattr(results.loop, "train", lambda program, state: SimpleNamespace(status="diverged"))
    verdicts = {"equations": [], "environment": {}, "source": "a file"}
    found = results.gather(3, verdicts, None, None, lambda *_: None)
    assert found.failed == ["A-04: mse_bwd itself does not pass reverse"]
    assert found.training == []
