"""An installation makes our three packages importable from anywhere, and no folder of the checkout.

`.ci/run` runs these twice: where the checkout is installed editably, and where its wheel is.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"manual_grad", "manual_grad_benchmarks", "manual_grad_reference"}
OTHERS = {
    path.stem
    for folder in (ROOT, ROOT / "benchmarks", ROOT / "reference")
    for path in folder.iterdir()
    if path.is_dir() or path.suffix == ".py"
} - {"__main__", "__pycache__", "build"}
FIND = """
import importlib.util, json, sys
places = {}
for name in sys.argv[1:]:
    spec = importlib.util.find_spec(name)
    if spec is not None:
        places[name] = [*(spec.submodule_search_locations or ()), spec.origin or ""]
print(json.dumps(places))
"""


SCRIPT = Path(sys.executable).with_name("manual-grad")
pytestmark = pytest.mark.skipif(
    not SCRIPT.exists() or "PYTHONPATH" in os.environ,
    reason="needs manual-grad installed, not just on PYTHONPATH: unset it, then pip install -e .",
)


def run_elsewhere(tmp_path, *words):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_folder_of_the_checkout_is_importable_elsewhere(tmp_path):
    names = OURS | {name for name in OTHERS if name.isidentifier()}
    assert {"benchmarks", "reference", "tests"} < names
    places = json.loads(run_elsewhere(tmp_path, sys.executable, "-c", FIND, *sorted(names)))
    ours = {name for name in places if name in OURS or any(str(ROOT) + os.sep in p for p in places[name])}
    assert ours == OURS


def test_the_console_script_works_elsewhere(tmp_path):
    assert "verify" in run_elsewhere(tmp_path, SCRIPT, "--help")
