"""The command for a machine with a GPU, rehearsed on the CPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
SPEC = importlib.util.spec_from_file_location("gpu_command", SCRIPT)
gpu = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gpu)


def step(tmp_path, code, limit=60, name="bench"):
    return gpu.run_step(name, limit, (sys.executable, "-c", code), dict(os.environ), tmp_path)


def test_a_rehearsal(tmp_path):
    words = ("--device", "cpu", "--small", "--only", "quick", "--out", tmp_path)
    done = subprocess.run((sys.executable, SCRIPT, *words), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = tmp_path.glob("cpu-*.json")
    content = json.loads(found.read_text())
    assert content["about"]["device"] == "cpu"
    assert [row["case"] for row in content["steps"][0]["result"]["rows"]] == ["mse", "mse"]
    assert "| `mse` 4096 |" in found.with_suffix(".md").read_text(encoding="utf-8")


def test_a_failing_step_is_recorded_with_its_output(tmp_path):
    found = step(tmp_path, "import sys; print('no such device'); sys.exit(3)")
    assert (found["ended"], found["result"]) == ("failed, exit 3", None)
    assert found["last_lines"] == ["no such device"]


def test_a_hanging_step_is_interrupted_and_its_output_is_kept(tmp_path):
    code = f"""
import json, time
try:
    time.sleep(60)
except KeyboardInterrupt:
    json.dump({{"rows": [], "ended": "interrupted"}}, open({str(tmp_path / "bench.json")!r}, "w"))
"""
    found = step(tmp_path, code, limit=5)  # Python starts in it, on a busy machine too
    assert (found["ended"], found["result"]["ended"]) == ("timed out", "interrupted")


def test_an_older_result_is_not_mistaken_for_this_one(tmp_path):
    (tmp_path / "bench.json").write_text('{"rows": []}')
    assert step(tmp_path, "raise SystemExit(1)")["result"] is None


@pytest.mark.parametrize("before", ["", "[gw0] [ 50%] "], ids=["alone", "workers"])
def test_tests_are_counted(before):
    lines = {"PASSED": "tests/a.py::t[1]", "FAILED": "tests/a.py::t[2]"}
    text = "\n".join(f"{before}{w} {t}" if before else f"{t} {w} [ 50%]" for w, t in lines.items())
    assert gpu._tests(text) == {"passed": 1, "failed": 1, "error": 0, "skipped": 0} | {
        "not_passed": ["tests/a.py::t[2]"]
    }


def test_every_large_case_is_one():
    from manual_grad_benchmarks.cases import every_case

    assert {*gpu.LARGE, *gpu.SMALL} <= {case.label for case in every_case() if not case.quick}
