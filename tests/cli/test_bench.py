"""``manual-grad bench`` as users see it."""

import json
import sys
from dataclasses import replace

import jax
import pytest

from manual_grad.border import InputError
from manual_grad.cli import app as cli
from manual_grad.report.benchmark_figures import figures
from manual_grad.report.benchmarks import context, require_known
from manual_grad_benchmarks import cases, ceiling, peers
from manual_grad_benchmarks import run as measuring

TITLE = "Value and gradients: by hand against autodiff"
SETTINGS = ("jax_enable_x64", "jax_default_device", "jax_platforms", "jax_default_matmul_precision")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run in a folder of its own: (exit code, standard output, standard error); JAX is left as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ceiling, "PRODUCTS", ((256, 256, 256),))
    monkeypatch.setattr(ceiling, "COPIES", (1 << 14, 1 << 20))
    before = {name: getattr(jax.config, name) for name in SETTINGS}

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["manual-grad", "bench", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    yield call
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def two_rows(run, tmp_path):
    words = "--quick --no-peers --json b.json --plot figures --case mse[64] --case relu[64]"
    code, out, error = run(*words.split())
    assert (code, error) == (0, "")
    return out, json.loads((tmp_path / "b.json").read_text()), tmp_path


def test_table_json_and_plots(two_rows):
    out, found, folder = two_rows
    assert "same program, the ratio is noise" in out
    assert "geometric mean" in out
    assert {"environment", "ceiling", "rows", "summary", "passed", "quick", "seconds"} <= set(found)
    assert found["passed"] is True
    about = {"jax", "jaxlib", "device", "threads", "dtype", "seed", "load", "memory_kept"}
    assert about <= set(found["environment"])
    assert found["ceiling"]["flops"] > 1e8
    for row, name in zip(found["rows"], ("mse", "relu"), strict=True):
        assert (row["case"], row["size"], row["pair"]) == (name, "64", ["manual", "autodiff"])
        low, high = row["interval"]
        assert low <= row["ratio"] <= high
        assert row["rounds"] >= 5
        assert row["compile_ratio"] > 0
        assert row["accurate"] is True
        for side in row["sides"].values():
            assert side["lower_quartile"] <= side["median"] <= side["upper_quartile"]
            assert side["trace_seconds"] > 0 < side["compile_seconds"]
            assert side["temporaries"] >= 0
            assert side["bytes_accessed"] > 0
            assert side["share_of_ceiling"] > 0
            assert side["error"] < 1e-6
            assert side["kept"]["new"] + side["kept"]["arguments"] >= 64 * 4
    names = {"ratio.png", "time.png", "memory.png", "roofline.png"}
    assert {path.name for path in (folder / "figures").iterdir()} == names
    assert all((folder / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_how_cost_grows(run, tmp_path):
    words = "--scale --quick --json s.json --plot figures --case layer_norm"
    code, out, error = run(*words.split())
    assert (code, error) == (0, "")
    assert "p of time" in out
    assert "N: 4–256" in out
    assert TITLE not in out
    content = json.loads((tmp_path / "s.json").read_text())
    (found,) = content["scale"]
    assert (found["case"], found["family"], found["sizes"]) == ("layer_norm", "norm", [4, 16, 64, 256])
    assert 0.9 < found["sides"]["autodiff"]["memory"]["p"] < 1.5
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"scale_time.png", "scale_memory.png"}
    require_known(content, tmp_path / "s.json")
    (shown,) = context(content, {})["scales"]
    assert shown[:2] == ["norm: layer_norm", "N from 4 to 256"]
    assert [figure.name for figure in figures(content)][:1] == ["time"]
    content["scale"][0]["sides"]["manual"]["time"]["p"] = "two"
    with pytest.raises(
        InputError, match=r"scale\[0\].sides.manual.time.p is 'two', expected a finite number"
    ):
        require_known(content, tmp_path / "s.json")


def test_a_planted_mistake_stops_the_run(run, monkeypatch, tmp_path):
    wrong = cases.by_hand(cases.FORMULAS["mse"].fwd, lambda res, dJ: (res, -res))
    (mse,) = cases.chosen(["mse[64]"], cases.every_case())
    planted = replace(mse, sides=mse.sides | {"manual": cases.Side(wrong)})
    monkeypatch.setattr(cases, "every_case", lambda: [planted])
    code, out, error = run("--quick", "--no-peers", "--json", "b.json")
    assert code == 1
    assert error.startswith("manual-grad: mse[64]: manual is wrong: out[1][1]")
    assert "geometric mean" not in out
    assert json.loads((tmp_path / "b.json").read_text())["passed"] is False


def test_ctrl_c_keeps_what_was_measured(run, monkeypatch, tmp_path):
    measure, calls = measuring.measure, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(measuring, "measure", interrupted)
    code, _, error = run(
        "--quick", "--no-peers", "--case", "mse[64]", "--case", "relu[64]", "--json", "b.json"
    )
    assert code == 130
    assert error == "manual-grad: interrupted: 1 of 2 cases were measured\n"
    found = json.loads((tmp_path / "b.json").read_text())
    assert [row["case"] for row in found["rows"]] == ["mse"]
    assert found["passed"] is False
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--case sofmax", "--case is 'sofmax', but there is no such case; similar: softmax"),
        ("--device tpu", "--device is 'tpu', expected cpu or gpu"),
        ("--device gpu", "--device is 'gpu', but JAX finds only: cpu; for a GPU install jax[cuda12]"),
        ("--dtype int8", "--dtype is 'int8', expected one of float64, float32, bfloat16, float16"),
        ("--devices 1", "--devices is 1, expected at least 2"),
        ("--devices 64 --case mse", "--devices is 64, expected at most the 1 that this process has"),
        ("--devices 8 --scale", "--devices counts instead of timing; it cannot be combined with --scale"),
        ("--json no/b.json", "--json is 'no/b.json', but there is no folder"),
        ("--plot no/figures", "--plot is 'no/figures', but there is no folder"),
        ("--json .", "--json is '.', a folder; expected a file"),
    ],
)
def test_bad_input_gets_one_line(run, words, line):
    code, out, error = run(*words.split())
    assert (code, out) == (2, "")
    assert error.startswith(f"manual-grad: {line}")
    assert error.count("\n") == 1


def test_a_missing_extra_gets_one_line(run, monkeypatch):
    def missing():
        raise peers.MissingPeer("--peers needs PyTorch: pip install 'manual-grad[peers]'")

    monkeypatch.setattr(peers, "load_torch", missing)
    code, _, error = run("--peers", "--case", "mse[64]")
    assert (code, error) == (2, "manual-grad: --peers needs PyTorch: pip install 'manual-grad[peers]'\n")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, error = run("--plot", "figures", "--case", "mse[64]")
    assert (code, error) == (2, "manual-grad: --plot needs matplotlib: pip install 'manual-grad[plot]'\n")


def test_the_cases_are_listed_and_chosen(run):
    _, out, _ = run("--list", "--case", "jacobian", "--case", "conv2d[[]128*")
    labels = [line.split()[1] for line in out.splitlines()]
    assert "jac_softmax_logits_blocks[64×100]" in labels
    assert "conv2d[128×26×32×3×64]" in labels
    assert not [label for label in labels if label.startswith("mse")]
