"""What devices send each other: known programs, known formulas, and wrong counts that are noticed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from manual_grad_benchmarks import devices

ROOT = Path(__file__).parents[2]
HLO = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %state = (s32[], f32[8,4]) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%state), index=1
  %reduced = f32[8,4]{1,0} all-reduce(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
  ROOT %next = (s32[], f32[8,4]) tuple(%i, %reduced)
}

ENTRY %main (x: f32[8,4]) -> f32[64,4] {
  %x.1 = f32[8,4]{1,0} parameter(0)
  %y = bf16[100]{0} parameter(1)
  %loop = (s32[], f32[8,4]) while(%start), condition=%add, body=%body, config={"known_trip_count":{"n":"5"}}
  %started = (f32[8,4]{1,0}, f32[64,4]{1,0}) all-gather-start(%x.1), replica_groups=[1,8]<=[8], dimensions={0}
  %both = (f32[8,4]{1,0}, bf16[100]{0}) all-reduce(%x.1, %y), replica_groups={{0,1},{2,3}}, to_apply=%add
  %part = f32[1,4]{1,0} reduce-scatter(%x.1), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %moved = bf16[100]{0} collective-permute(%y), source_target_pairs={{0,1},{1,2}}
  %turned = f32[8,4]{1,0} all-to-all(%x.1), replica_groups={}, dimensions={0}
  ROOT %whole = f32[64,4]{1,0} all-gather-done(%started)
}
"""
KNOWN = {  # an array x has 8 · 4 entries of 4 bytes, y has 100 of 2
    "all-reduce": {"count": 6, "bytes": 5 * 128 * 2 * 3 / 4 + (128 + 200) * 2 * 1 / 2},
    "all-gather": {"count": 1, "bytes": 128 * 7},
    "reduce-scatter": {"count": 1, "bytes": 128 * 7 / 8},
    "collective-permute": {"count": 1, "bytes": 200},
    "all-to-all": {"count": 1, "bytes": 128 * 7 / 8},
}


def test_a_known_program_is_counted():
    assert devices.sent(HLO, 8) == KNOWN


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("RING", devices.RING | {"all-reduce": lambda n: (n - 1) / n}),
        ("RING", devices.RING | {"all-gather": lambda n: 1}),
        ("RING", {kind: way for kind, way in devices.RING.items() if kind != "all-to-all"}),
        ("_kind", lambda op: re.sub("-(start|done)$", "", op)),  # counted twice
        ("_kind", lambda op: op.removesuffix("-done")),
        ("_group", lambda rest, n: n),
        ("_steps", lambda op, rest: 1),
        ("_bytes", lambda shape: 128),
    ],
)
def test_a_wrong_count_is_noticed(part, wrong, monkeypatch):
    monkeypatch.setattr(devices, part, wrong)
    assert devices.sent(HLO, 8) != KNOWN


def test_a_loop_that_does_not_say_how_often_it_sends_is_refused():
    with pytest.raises(devices.Unknown, match="all-reduce runs an unknown number of times"):
        devices.sent(HLO.replace("known_trip_count", "trip_count"), 8)


def bench(*words, folder):
    done = subprocess.run(
        [sys.executable, "-m", "manual_grad", "bench", "--devices", "4", "--json", "found.json", *words],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "reference", ROOT / "benchmarks")))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads((folder / "found.json").read_text())
    assert content["passed"]
    return done.stdout, {(row["case"], row["axis"]): row for row in content["devices"]}


def test_known_formulas_send_what_paper_says(tmp_path):
    """In a process of its own, where one host has four devices."""
    names = ("dense_rows", "softmax", "embedding", "attention_streaming", "rnn")
    out, rows = bench(*(word for name in names for word in ("--case", name)), folder=tmp_path)
    assert "What each of 4 devices sends" in out
    found = {key: [devices.total(side) for side in row["sides"].values()] for key, row in rows.items()}
    others = {"dense_rows": "dm", "softmax": "K", "embedding": "VD"}
    for key in [(name, axis) for name in names for axis in ["N", *others.get(name, "")]]:
        assert found[key][0] == pytest.approx(rows[key]["paper"], rel=0.01), key
    assert found["dense_rows", "N"] == [2 * 3 / 4 * 4 * (512 * 384 + 384)] * 2
    assert found["rnn", "N"][1] > 10 * found["rnn", "N"][0]  # autodiff sums over the devices in every step
    assert rows["attention_streaming", "L"]["sharded"] == rows["rnn", "T"]["sharded"] == "sequence"


def test_the_table_for_a_pod_is_computed():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").split("For a pod of 256 devices")[1]
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| (\S+) MB \| (\S+) ms \|$", text, re.MULTILINE
    )
    assert len(rows) == 8
    for name, sharded, sent, sizes, megabytes, milliseconds in rows:
        lengths = {
            n: int(v)
            for names, v in re.findall(r"((?:\w+ = )+)(\d+)", sizes)
            for n in names.split(" = ")[:-1]
        }
        paper = dict(term.split(" ", 1) for term in sent.split("; "))
        count = 2 * devices.on_paper(paper, lengths, 256)
        assert float(megabytes) == pytest.approx(count / 1e6, rel=0.005), name
        assert float(milliseconds) == pytest.approx(count / 1e11 * 1e3, rel=0.005), name
        assert sharded == "batch" or devices.FORMULAS[name].sends[sharded[-1]] == paper
