"""One command for a machine with a GPU: tests, benchmarks and the large cases, in under eight minutes.

    python benchmarks/gpu.py --out gpu

It needs Python and JAX. Other packages are installed with pip or, without a network, from a folder that
another machine filled beforehand (``--pack carried`` there, ``--packages carried`` here). Each step is a
process with its own time limit. A failure is recorded and does not stop the other steps. After every step, a
dated JSON file and a Markdown file are rewritten. ``--device cpu --small`` is a rehearsal.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 460  # for all steps in total
NEEDED = ("beartype", "hypothesis", "jaxtyping", "pytest", "xdist", "rich", "typer")
PIP_NAMES = {"xdist": "pytest-xdist"}
TESTS = ("tests/formulas/test_values.py", "tests/formulas/test_against_jax.py", "tests/test_ops.py")
LARGE = (
    "conv2d[128×26×32×3×64]", "conv2d[32×32×16×5×32]", "conv2d[128×12×6×5×16]", "conv2d[16×56×64×3×64]",
    "cnn[128×28×32×64×128]", "softmax_cross_entropy[4096×1000]",
    "softmax_cross_entropy_with_integer_labels[4096×1000]", "linear_cross_entropy[512×256×32000]",
    "linear_cross_entropy[4096×256×32000]",
)  # fmt: skip
SMALL = ("conv2d[4×8×3×3×5]", "softmax_cross_entropy[4×10]")


def steps(device, small, folder):
    """Name, time limit in seconds, command; a benchmark's last argument is the JSON file that it writes."""

    def bench(name, limit, *words):
        words = ("-m", "manual_grad", "bench", "--device", device, "--quick", *words)
        return name, limit, (sys.executable, *words, "--json", str(folder / f"{name}.json"))

    cases = [word for label in (SMALL if small else LARGE) for word in ("--case", label)]
    tests = TESTS[:1] if small else TESTS
    many = () if small else ("-n", str(max(1, min(8, (os.cpu_count() or 1) // 2))))
    pytest = (sys.executable, "-m", "pytest", "-o", "addopts=", "-v", "--tb=line", "-p", "no:cacheprovider")
    yield "tests", 150, (*pytest, *many, *tests)
    yield bench("quick", 100, *(("--case", "mse") if small else ()))
    yield bench("large_float32_highest", 80, *cases)
    yield bench("large_float32_default", 80, "--precision", "default", *cases)
    yield bench("large_bfloat16", 80, "--dtype", "bfloat16", *cases)


def run_step(name, limit, command, environment, folder):
    """Run a step and return its outcome, whatever happens; its output is in ``folder/name.log``."""
    started = time.monotonic()
    (folder / f"{name}.json").unlink(missing_ok=True)  # an earlier run's
    log = folder / f"{name}.log"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background; a step inherits it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code = None
        for patience, how in ((limit, signal.SIGINT), (10, signal.SIGKILL), (None, None)):
            try:
                code = process.wait(patience)
                break
            except subprocess.TimeoutExpired:  # an interrupted benchmark writes the rows that it has
                os.killpg(process.pid, how)
    seconds = time.monotonic() - started
    text = log.read_text(errors="replace")
    ended = "timed out" if seconds >= limit else "passed" if code == 0 else f"failed, exit {code}"
    return {
        "step": name,
        "ended": ended,
        "seconds": round(seconds, 1),
        "limit": round(limit),
        "command": " ".join(map(str, command[1:])),
        "result": _tests(text) if name == "tests" else _benchmark(folder / f"{name}.json"),
        "last_lines": [] if ended == "passed" else text.splitlines()[-15:],
    }


def _tests(text):
    """The number of tests by outcome, and the names of those that failed."""
    found = re.findall(r"^(?:\[gw\d+\].*? )?(PASSED|FAILED|ERROR|SKIPPED) +(tests/\S+)", text, re.MULTILINE)
    found += [
        (w, t) for t, w in re.findall(r"^(tests/\S+) (PASSED|FAILED|ERROR|SKIPPED)", text, re.MULTILINE)
    ]
    by_test = {test: word for word, test in found}
    words = list(by_test.values())
    counts = {word.lower(): words.count(word) for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
    return counts | {"not_passed": sorted(t for t, word in by_test.items() if word in ("FAILED", "ERROR"))}


def _benchmark(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def about(device):
    """Date, versions and device; asked of JAX in a process of its own, which may hang or crash."""
    ask = (
        "import jax, json; d = jax.devices()[0]; "
        "print(json.dumps({'device': d.platform, 'device_kind': d.device_kind}))"
    )
    known = {"date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"), "wanted": device}
    known |= {"python": platform.python_version(), "machine": platform.machine(), "threads": os.cpu_count()}
    for package in ("jax", "jaxlib", "numpy", "torch", "manual-grad"):
        try:
            known[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            known[package] = None
    commit = subprocess.run(("git", "rev-parse", "--short", "HEAD"), cwd=ROOT, capture_output=True, text=True)
    known["commit"] = commit.stdout.strip() or None
    try:
        done = subprocess.run((sys.executable, "-c", ask), capture_output=True, text=True, timeout=60)
        return known | json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return known | {"device": None, "device_kind": None}


def markdown(known, results):
    """The report as Markdown, ready for the documentation."""
    versions = ", ".join(
        f"{name} {known[name]}" for name in ("jax", "jaxlib", "torch", "python") if known[name]
    )
    lines = [
        f"# {known['device_kind']}, {known['date'][:10]}",
        "",
        f"{versions}; commit {known['commit']}.",
        "",
    ]
    lines += ["| step | ended | seconds | |", "|---|---|---|---|"]
    for r in results:
        lines.append(f"| {r['step']} | {r['ended']} | {r['seconds']} | {_in_short(r['result'])} |")
    for r in results:
        rows = (r["result"] or {}).get("rows", [])
        if rows:
            lines += [
                "",
                f"## {r['step']}",
                "",
                "A table of ratios, ours over others (below 1 ours is faster), and milliseconds.",
                "",
            ]
            lines += ["| case | autodiff | 95 % | PyTorch | ours, ms | error |", "|---|---|---|---|---|---|"]
            lines += [_row(row) for row in rows]
        for test in (r["result"] or {}).get("not_passed", []):
            lines.append(f"- not passed: `{test}`")
    return "\n".join(lines) + "\n"


def _in_short(result):
    if not result:
        return "no result"
    if "rows" in result:
        return f"{len(result['rows'])} cases{', ' + result['ended'] if result['ended'] else ''}"
    return ", ".join(f"{count} {word}" for word, count in result.items() if isinstance(count, int) and count)


def _row(row):
    ours = row["sides"][row["pair"][0]]
    torch, error = row["over"].get("torch"), ours.get("error")
    ratio = "same program" if row["same_program"] else f"{row['ratio']:.2f}"
    low, high = row["interval"]
    cells = [
        f"`{row['case']}` {row['size']}",
        ratio,
        f"{low:.2f}–{high:.2f}",
        f"{torch:.2f}" if torch else "",
    ]
    cells += [f"{1e3 * ours['median']:.3g}", f"{error:.1e}" if error is not None else ""]
    return f"| {' | '.join(cells)} |"


def write(path, text):
    """Write under a temporary name, then rename, so that an interrupted run leaves the last complete file."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def environment_of(device, packages):
    """The environment of a step: Python finds the checkout first, then the packages carried along."""
    places = [ROOT, ROOT / "reference", ROOT / "benchmarks", *([packages] if packages else [])]
    before = os.environ.get("PYTHONPATH")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*map(str, places), *([before] if before else [])]),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share the GPU
        "PYTHONUNBUFFERED": "1",
    }
    return environment | ({"JAX_PLATFORMS": "cpu"} if device == "cpu" else {})


def install(packages, pack=None):
    """Install missing packages into a folder; with ``pack``, a version of Python, all packages."""
    packages.mkdir(parents=True, exist_ok=True)
    sys.path.append(str(packages))
    missing = [m for m in NEEDED if pack or not importlib.util.find_spec(m)]
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(packages))
    if missing:
        names = [PIP_NAMES.get(name, name) for name in missing]
        other = ("--only-binary", ":all:", "--python-version", pack) if pack else ()
        subprocess.run((*pip, *other, *names), timeout=120, check=bool(pack))
    if pack or not importlib.util.find_spec("manual_grad"):  # for its version
        subprocess.run((*pip, "--no-deps", str(ROOT)), timeout=60, check=bool(pack))


def main():
    """Run the steps."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for results and logs")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="one test file and small cases: a rehearsal")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps; all by default")
    parser.add_argument("--packages", type=Path, help="folder with what is not installed here")
    parser.add_argument("--pack", type=Path, help="fill such a folder on a machine with a network, and stop")
    parser.add_argument("--python", default="3.12", metavar="VERSION", help="what it is filled for")
    chosen = parser.parse_args()
    if chosen.pack:
        install(chosen.pack.resolve(), pack=chosen.python)
        return 0
    folder = chosen.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    packages = (chosen.packages or folder / "packages").resolve()
    started = time.monotonic()
    install(packages)
    known, results = about(chosen.device), []
    environment = environment_of(chosen.device, packages)
    for name, limit, command in steps(chosen.device, chosen.small, folder):
        if chosen.only and name not in chosen.only:
            continue
        left = SECONDS - (time.monotonic() - started)
        results.append(run_step(name, max(1, min(limit, left)), command, environment, folder))
        print(f"{name}: {results[-1]['ended']} after {results[-1]['seconds']} s", flush=True)
        date = known["date"][:10]
        content = {"about": known, "steps": results, "seconds": round(time.monotonic() - started, 1)}
        write(
            folder / f"{chosen.device}-{date}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        )
        write(folder / f"{chosen.device}-{date}.md", markdown(known, results))
    return int(any(r["ended"] != "passed" for r in results))


if __name__ == "__main__":
    sys.exit(main())
