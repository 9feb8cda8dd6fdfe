"""The console script as users see it: exit codes, one clear line for bad usage, JSON beside tables."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
import typer

from manual_grad import digits, lectures
from manual_grad.catalogue import FORMULAS
from manual_grad.cli import app as cli
from manual_grad.cli import verify as work
from manual_grad.cli import workers
from manual_grad.lectures import EQUATIONS, ERRATA


@pytest.fixture
def run(capsys, monkeypatch):
    """Call the console script with these words: (exit code, standard output, standard error)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["manual-grad", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


def test_mutants_of_a_wrong_formula_give_one_line(run, monkeypatch):
    """Here the formula is an equation's with its gradient negated."""
    (equation,) = (e for e in EQUATIONS if e.tag == "C-01")
    (claim, *_) = equation.claims
    (way, right), *_ = claim.formulas.items()
    wrong = replace(claim, formulas={way: lambda *a, **k: jax.tree.map(jnp.negative, right(*a, **k))})
    monkeypatch.setattr(work, "EQUATIONS", [replace(equation, claims=(wrong,))])
    code, out, error = run("verify", "--mutants", "--tag", "C-01")
    assert (code, out) == (1, "")
    assert error.startswith(f"manual-grad: C-01: {way} itself does not pass ")
    assert error.count("\n") == 1


def test_one_equation_is_verified(run, tmp_path):
    code, out, _ = run("verify", "--tag", "a-10", "--json", tmp_path / "v.json")
    assert code == 0
    assert "A-10" in out
    assert "1 equation verified, 0 errata refuted, 0 failed" in out
    found = json.loads((tmp_path / "v.json").read_text())
    assert found["passed"] is True
    assert {"jax", "jaxlib", "numpy", "python", "device", "dtype", "seed"} <= set(found["environment"])
    (equation,) = found["equations"]
    assert equation["tag"] == "A-10"
    assert equation["lecture"] == "A"
    assert equation["status"] == "verified"
    assert equation["title"]
    assert equation["inputs"]["logits"] == "float64[5,7]"
    assert set(equation["oracles"]) == {"value", "reverse", "forward", "differences", "symbolic"}
    for name, oracle in equation["oracles"].items():
        assert oracle["passed"] is True
        assert 0 <= oracle["max_error"] <= (1e-8 if name == "differences" else 1e-12)
        assert 0 <= oracle["share"] <= 1
    assert list(tmp_path.iterdir()) == [tmp_path / "v.json"]


def test_an_equation_is_shown_with_its_code_and_verdict(run):
    code, out, _ = run("show", "a-02", "--no-cache")
    assert code == 0
    assert r"\frac{\partial J}{\partial \vec{J}_0}" in out
    assert "One output" in out
    assert "def jac_mean_J0(" in out
    assert "Args:" not in out
    assert "1 equation verified" in out
    assert run("show", "A-99")[::2] == (
        2,
        "manual-grad: TAG is 'A-99', but there is no such equation; similar: A-09\n",
    )


def test_an_erratum_is_shown_with_its_correction(run):
    code, out, _ = run("show", "D-E3", "--no-cache")
    assert code == 0
    assert "corrected" in out
    assert "def cross_entropy_bwd(" in out
    assert "refuted" in out


@pytest.mark.parametrize("words", [(), ("--help",), ("golden",), ("verify", "--help")])
def test_help_shows_no_type_for_flags(run, words):
    code, out, _ = run(*words)
    assert code == 0
    assert "<bool>" not in out
    assert "Usage: " in out
    commands = re.findall(r"^│ (\w+) ", out, flags=re.MULTILINE)
    assert words or commands == ["show", "report", "verify", "check", "golden", "bench", "train"]


@pytest.mark.parametrize(
    "words", [[], ["verify"], ["check"], ["golden", "export"], ["bench"], ["train"], ["report"]]
)
def test_help_loses_no_words(run, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    command = typer.main.get_command(cli.app)
    for word in words:
        command = command.commands[word]
    _, out, _ = run(*words, "--help")
    shown = "".join(out.replace("│", "").split())
    for param in command.params:
        said = re.sub(r"\[/?bold\]|\[/\]", "", getattr(param, "help", None) or "").replace("\\[", "[")
        assert "".join(said.split()) in shown


def test_the_differences_say_how_sure_they_are(run, tmp_path):
    code, _, _ = run("verify", "--tag", "A-08", "--oracle", "differences", "--json", tmp_path / "v.json")
    assert code == 0
    (equation,) = json.loads((tmp_path / "v.json").read_text())["equations"]
    differences = equation["oracles"]["differences"]
    assert differences["passed"] is True
    assert differences["max_error"] <= differences["tolerance"] <= 1e-6
    assert 0 < differences["estimate"] <= differences["tolerance"]


def test_the_exact_oracle_says_how_sure_it_is(run, tmp_path):
    code, _, _ = run("verify", "--tag", "A-04", "--oracle", "exact", "--json", tmp_path / "v.json")
    assert code == 0
    (equation,) = json.loads((tmp_path / "v.json").read_text())["equations"]
    assert set(equation["oracles"]) == {"exact"}
    exact = equation["oracles"]["exact"]
    assert exact["max_error"] == 0
    assert 0 < exact["survival_probability"] < 1e-15
    assert exact["draws"] >= 2


def test_an_erratum_shows_its_counterexample(run, tmp_path):
    code, out, _ = run("verify", "--tag", "B-E1", "--tag", "B-E2", "--json", tmp_path / "v.json")
    assert code == 0
    assert "refuted" in out
    found = json.loads((tmp_path / "v.json").read_text())
    assert [e["status"] for e in found["equations"]] == ["erratum", "erratum"]
    assert all(e["counterexample"] for e in found["equations"])


def test_a_lecture_is_all_its_tags(run, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "wanted", lambda: 0)
    monkeypatch.setattr(
        work.claims,
        "verify_all",
        lambda entries, **_: [work.Verdict(e.tag, e.lecture, e.title) for e in entries],
    )
    run("verify", "--lecture", "c", "--lecture", "B", "--json", tmp_path / "v.json")
    tags = [e["tag"] for e in json.loads((tmp_path / "v.json").read_text())["equations"]]
    assert tags == [e.tag for e in (*EQUATIONS, *ERRATA) if e.tag[0] in "BC"]


def test_another_process_works_and_a_lost_one_is_replaced():
    batch = [entry for entry in EQUATIONS if entry.tag == "A-02"]
    about = ("float64", 0, ("value",), False)
    with workers.started(1) as processes:
        (there,) = workers.shared(processes, lambda _: pytest.fail("this process took it"), [batch], about)
        processes[0].kill()
        (here,) = workers.shared(processes, lambda entries: [entry.tag for entry in entries], [batch], about)
    assert [(verdict.tag, verdict.status) for verdict in there] == [("A-02", "verified")]
    assert here == ["A-02"]


def test_seed_and_dtype_are_used(run, tmp_path):
    def inputs_and_error(*words):
        assert run("verify", "--tag", "A-08", *words, "--json", tmp_path / "v.json")[0] == 0
        (equation,) = json.loads((tmp_path / "v.json").read_text())["equations"]
        return equation["inputs"]["logits"], equation["oracles"]["reverse"]["max_error"]

    assert inputs_and_error("--dtype", "bfloat16")[0].startswith("bfloat16[")
    first = inputs_and_error("--dtype", "float32")
    assert first == inputs_and_error("--dtype", "float32")
    assert first[1] != inputs_and_error("--dtype", "float32", "--seed", "5")[1]


def test_a_wrong_formula_exits_1_and_names_the_tag(run, tmp_path, monkeypatch):
    verdict = work.Verdict("A-02", "A", "t", "failed", failures=["mse_fwd: J against value: [off] by a lot"])
    verdict.oracles["value"] = work.claims.OracleVerdict(float("inf"), float("inf"), passed=False)
    monkeypatch.setattr(work.claims, "verify_all", lambda entries, **_: [verdict])
    code, out, _ = run("verify", "--tag", "A-02", "--json", tmp_path / "v.json")
    assert code == 1
    assert "failed (A-02)" in out
    assert "[off] by a lot" in out
    found = json.loads((tmp_path / "v.json").read_text())
    assert found["passed"] is False
    assert found["equations"][0]["oracles"]["value"] == {"max_error": None, "share": None, "passed": False}


def test_a_wrong_formula_is_explained_once(monkeypatch):
    """The checker says why, once for each formula, at its first equation."""
    (equation,) = (e for e in EQUATIONS if e.tag == "A-04")
    claim = equation.claims[0]
    summed = {"mse_bwd": lambda dJ, y_hat, y: {"y_hat": 2 * dJ * (y_hat - y), "y": -2 * dJ * (y_hat - y)}}
    wrong = replace(equation, claims=(replace(claim, formulas=summed),))
    verdicts = [work.Verdict("A-04", "A", "t", "failed", failures=["mse_bwd: y_hat"]) for _ in range(2)]
    work._explained([wrong, wrong], verdicts, seed=0)
    assert any("mse_bwd, why: y_hat: scaled by N" in failure for failure in verdicts[0].failures)
    assert verdicts[1].failures == ["mse_bwd: y_hat"]
    monkeypatch.setattr(work, "EXPLAINED", 0)
    work._explained([wrong], verdicts[1:], seed=0)
    assert verdicts[1].failures[1:] == ["why: manual-grad verify --tag A-04 looks for the reason"]


def test_many_seeds_give_the_share_that_fails(run, tmp_path, monkeypatch):
    def with_a_bad_seed(entries, dtype, seed, oracles):
        verdict = work.Verdict("A-02", "A", "t", "failed" if seed == 6 else "verified")
        verdict.failures = ["mse_fwd: J against value: [off] by a lot"] if seed == 6 else []
        return [verdict]

    monkeypatch.setattr(work.claims, "verify_all", with_a_bad_seed)
    words = ("verify", "--tag", "A-02", "--seed", "5", "--json", tmp_path / "v.json", "--seeds")
    code, out, _ = run(*words, "4")
    assert code == 1
    assert "1 of 4 seeds failed (6), 25%" in out
    assert "[off] by a lot" in out
    found = json.loads((tmp_path / "v.json").read_text())
    assert [row["seed"] for row in found["seeds"]] == [5, 6, 7, 8]
    assert [list(row["failures"]) for row in found["seeds"]] == [[], ["A-02"], [], []]
    assert (found["passed"], found["environment"]["seed"]) == (False, 5)
    assert run(*words, "1")[0] == 0


BAD_USAGE = {
    "--seeds 0": "--seeds",
    "--seeds 2 --hard": "--hard can be combined only with",
    "--tag A-1": "A-10",
    "--tag nonsense": "no such equation",
    "--lecture Z": "expected one of A, B, C, D, E",
    "--tag A-10 --lecture B": "is not in --lecture B",
    "--dtype int8": "--dtype",
    "--oracle nonsense": "expected one of value, reverse",
    "--quick --oracle exact": "it cannot be combined with --oracle",
    "--seed x": "--seed",
    "--seed -1": "--seed",
    "--nonsense": "--seed). See manual-grad verify --help.\n",
    "--tag A-02 --json .": "a folder",
    "--tag A-02 --json nowhere/v.json": "no folder",
    "--hard --dtype float32": "--hard can be combined only with",
    "--hard --tag C-01": "--hard has no case for C-01",
    f"--tag A-02 --json {'a' * 300}": "characters)', expected a file that can be used: File name too long",
}


@pytest.mark.parametrize("words", BAD_USAGE)
def test_bad_usage_gives_one_clear_line(run, words):
    code, out, err = run("verify", *words.split())
    assert code == 2
    assert out == ""
    assert err.startswith("manual-grad: ")
    assert err.count("\n") == 1
    assert BAD_USAGE[words] in err


def test_an_unknown_command_gives_one_clear_line(run):
    code, _, err = run("nonsense")
    assert code == 2
    assert err.count("\n") == 1


def test_a_missing_extra_is_named(run, monkeypatch):
    digits.load_digits_28.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    code, _, err = run("verify", "--tag", "A-11")
    assert code == 2
    assert "pip install 'manual-grad[digits]'" in err
    assert err.count("\n") == 1
    digits.load_digits_28.cache_clear()


def test_sympy_is_needed_only_by_its_oracle(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "manual_grad_reference.oracles.symbolic", raising=False)
    monkeypatch.delattr(sys.modules["manual_grad_reference.oracles"], "symbolic", raising=False)
    monkeypatch.setitem(sys.modules, "sympy", None)
    code, out, err = run("verify", "--tag", "A-02", "--oracle", "all")
    assert (code, out) == (2, "")
    assert "pip install 'manual-grad[symbolic]'" in err
    assert err.count("\n") == 1
    assert run("verify", "--tag", "A-02", "--oracle", "reverse", "--oracle", "exact")[0] == 0
    code, out, err = run("verify", "--tag", "A-02")
    assert code == 0
    assert "symbolic" not in out
    assert "continuing without it" in err


def test_a_full_disk_leaves_nothing_half_written(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    code, _, err = run("verify", "--tag", "A-02", "--json", tmp_path / "v.json")
    assert code == 2
    assert "No space left on device" in err
    assert not list(tmp_path.iterdir())


def test_help_teaches(run):
    code, out, _ = run("verify", "--help")
    assert code == 0
    for word in ("--lecture", "--tag", "--dtype", "--seed", "--json", "Examples", "jax.vjp"):
        assert word in out
    assert run("--version")[1].startswith("manual-grad ")


@pytest.mark.parametrize(
    "words", ["--help", "--version", "verify --help", "train --help", "bench --nonsense"]
)
def test_help_does_not_wait_for_jax(words):
    code = f"""import sys
from manual_grad.cli.app import main
sys.argv = ["manual-grad", *{words.split()!r}]
try:
    main()
finally:
    print(sorted({{"jax", "numpy", "sympy", "manual_grad.lectures"}} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.returncode == (2 if "nonsense" in words else 0)


SLEEP = "import time; print('importing', flush=True); time.sleep(60)"
SWALLOW = (
    f"try:\n    {SLEEP}\nexcept BaseException:\n    raise ImportError from None"  # as NumPy's C code does
)


@pytest.mark.parametrize("jax_py", [SLEEP, SWALLOW], ids=["passed on", "swallowed"])
def test_ctrl_c_while_jax_is_imported_gives_one_clear_line(tmp_path, jax_py):
    (tmp_path / "jax.py").write_text(jax_py)
    code = """import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
from manual_grad.cli.app import main
main()"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, "verify", "--tag", "A-02"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "manual-grad: interrupted; nothing was written\n")


@pytest.mark.parametrize("command", [("verify",), ("train",), ("bench",), ("golden", "export")], ids=" ".join)
def test_help_fills_a_narrow_terminal(run, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(*command, "--help")[1].partition("Examples:")[0].splitlines()
    for line, following in itertools.pairwise(map(str.strip, lines)):
        assert not (line and following) or len(line) + len(following.split()[0]) > 75, line


def test_a_device_that_is_not_there_gives_one_clear_line():
    words = [sys.executable, "-m", "manual_grad", "verify", "--tag", "A-02"]
    done = subprocess.run(words, env=os.environ | {"JAX_PLATFORMS": "rocm"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "JAX finds no device (JAX_PLATFORMS is 'rocm')" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "check mine.py:loss mine.py:grad --input x=3",
        "golden list --json list.json",
        "golden export mse --out g.npz",
        "golden compare g.npz g.npz",
        "train --epochs 1",
        "report --out book",
        "bench --quick",
    ],
)
def test_every_command_says_that_there_is_no_device(run, monkeypatch, tmp_path, words):
    def missing(*_):
        raise RuntimeError("Unable to initialize backend 'bogus': it is not known")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jax.devices", missing)
    monkeypatch.setenv("JAX_PLATFORMS", "bogus")
    code, _, err = run(*words.split())
    assert code == 2
    assert err.startswith("manual-grad: JAX finds no device (JAX_PLATFORMS is 'bogus'): Unable to init")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [["golden", "list"], ["--version"], ["bench", "--list"], ["verify", "--help"]]
)
@pytest.mark.parametrize("how", ["closed", "full", "broken"])
def test_unwritable_output_exits_2_with_one_line(monkeypatch, capsys, words, how):
    """1 would mean that a formula is wrong."""
    reader, writer = os.pipe()
    os.close(reader)
    full = None if how == "closed" else open("/dev/full" if how == "full" else writer, "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "argv", ["manual-grad", *words])
    monkeypatch.setattr(sys, "stdout", full)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = {"closed": "is closed", "full": "No space left on device", "broken": "Broken pipe"}[how]
    err = capsys.readouterr().err
    assert (stop.value.code, err.count("\n")) == (2, 1), err
    assert err.startswith("manual-grad: standard output ")
    assert said in err
    if full:
        full.close()  # what is left is taken, or Python changes the exit code when it ends


def test_ctrl_c_writes_nothing_and_says_so(run, tmp_path, monkeypatch):
    def interrupted(entries, **_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        return [work.Verdict(e.tag, e.lecture, e.title) for e in entries]

    monkeypatch.setattr(workers, "wanted", lambda: 0)
    monkeypatch.setattr(work.claims, "verify_all", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    code, _, err = run("verify", "--json", tmp_path / "v.json")
    signal.signal(signal.SIGINT, before)
    assert code == 130
    assert err == "manual-grad: interrupted; nothing was written\n"
    assert not list(tmp_path.iterdir())


def test_lectures_are_named():
    assert set(lectures.LECTURES) >= set("ABCD")


def test_hard_inputs_are_checked(run, tmp_path):
    code, out, _ = run("verify", "--hard", "--tag", "B-06", "--json", tmp_path / "h.json")
    assert code == 0
    for words in ("ReLU at exactly 0 and −0.0", "jnp.maximum(x, 0):", "½", "hard cases right, 0 wrong"):
        assert words in out
    found = json.loads((tmp_path / "h.json").read_text())
    assert found["passed"] is True
    case = next(case for case in found["cases"] if case["name"] == "ReLU at exactly 0 and −0.0")
    assert case["formula"] == "relu"
    assert case["inputs"]["x"] == [0, 0, 2, -3]
    assert case["ours"]["right"] is True
    assert {way["way"]: way["right"] for way in case["jax"]}["jnp.maximum(x, 0)"] is False
    assert set(case) >= {"says", "why", "right", "tags", "dtype", "passed"}


def test_a_formula_that_is_wrong_on_hard_inputs_is_named(run, monkeypatch):
    relu = FORMULAS["relu"]
    at_zero = next(case for case in relu.hard if case.name == "ReLU at exactly 0 and −0.0")
    wrong = replace(relu, bwd=lambda x, dout: (jnp.where(x >= 0, dout, 0),))
    monkeypatch.setattr(work.hard, "cases_of", lambda tags: [(wrong, at_zero)])
    code, out, _ = run("verify", "--hard")
    assert code == 1
    assert "0 hard cases right, 1 wrong" in out
    assert "ReLU at exactly 0 and −0.0: dx[" in out
