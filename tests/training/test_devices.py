"""Several devices and several processes give the single device's run, to rounding, or say who is missing."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from manual_grad.border import InputError
from manual_grad.training import devices
from tests.training import worker

ROOT = Path(__file__).parents[2]


def start(*words, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.worker", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "reference")])} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process):
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1])


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_eight_devices_give_the_run_of_one():
    found = answer(start("devices", XLA_FLAGS="--xla_force_host_platform_device_count=8"))
    assert found["devices"] == 8
    for name in ("mlp", "cnn", "full"):
        assert found[name] < 1e-11, name
        split, single = found[f"{name} accuracies"]
        assert split == single


def slurm(port, processes, process):
    """What Slurm tells each of its processes, and the port that JAX would take from the job's number."""
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": str(processes),
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
        "JAX_COORDINATOR_PORT": str(port),
    }


def test_two_processes_of_a_cluster_train_as_one_and_stop_together(port):
    found = [answer(process) for process in [start("auto", **slurm(port, 2, i)) for i in range(2)]]
    assert_one_run(found, 2)
    assert found[0]["refused"] == "process 1 has different samples from process 0"


def test_four_processes_train_as_one_and_say_so_when_one_is_killed(port):
    killed, *others = [start("process", port, 4, i) for i in range(4)]
    found = [answer(process) for process in others]
    assert killed.wait() == -9
    killed.communicate()
    assert_one_run(found, 4)
    assert found[0]["then"] == "deserted"


def assert_one_run(found, processes):
    """All found the same, stopped at the same step, and had the losses of a single process until then."""
    a = found[0]
    assert all(b == a for b in found)
    assert (a["status"], a["devices"], a["at"]) == ("interrupted", processes, [0, 3])
    asked = iter([False] * 3 + [True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.loop, "PIECE", 0)
        alone = worker.train(worker.SETTINGS, None, should_stop=lambda: next(asked)).state
    np.testing.assert_allclose(a["losses"][:3], alone.losses["manual"][:3], rtol=1e-12)


def call(results, *arguments):
    try:
        results.append(devices.meet(*arguments))
    except InputError as error:
        results.append(str(error))


def test_a_missing_process_is_named(port):
    started = time.monotonic()
    with pytest.raises(InputError, match=r"^processes 1, 2 of 3 did not join at 127.0.0.1:\d+ within 0.2 s"):
        devices.meet(("127.0.0.1", port), 3, 0, 0.2)
    with pytest.raises(InputError, match=r"^process 0 did not join at 127.0.0.1:\d+ within 0.2 s"):
        devices.meet(("127.0.0.1", port), 3, 1, 0.2)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("other", "first_says", "other_says"),
    [
        ((1, "same"), None, None),
        (
            (1, "batch 8"),
            "process 1 was given different settings: batch 8, expected same",
            "process 0 gave up",
        ),
        ((7, "same"), "a process says that it is process_id 7, expected 1", "process 0 gave up"),
    ],
)
def test_processes_connect_or_say_why_not(port, other, first_says, other_says):
    address, results = ("127.0.0.1", port), []
    thread = threading.Thread(target=call, args=(results, address, 2, other[0], 10, other[1]))
    thread.start()
    time.sleep(0.2)  # the other one is there first
    mine = []
    with socket.socket() as stranger:
        call(mine, address, 2, 0, 10, "same")
        thread.join()
        assert stranger.connect_ex(address) != 0  # the port is free again
    for found, expected in ((mine[0], first_says), (results[0], other_says)):
        assert found is None if expected is None else found.startswith(expected)


STRANGERS = [
    b"GET / HTTP/1.1\n", b"5\n", b"[]\n", b"null\n", b'["a"]\n', b"[" * 9999 + b"\n", b"\xff\n", b"",
    b"a" * 10**6, b'{"manual-grad train": {"process": "1", "agreement": ""}}\n', b'[1, ""]\n',
]  # fmt: skip


def test_strangers_at_the_port_do_no_harm(port):
    """They send something, or stay silent; a process that has left again is waited for."""
    address, results = ("127.0.0.1", port), []
    thread = threading.Thread(target=call, args=(results, address, 2, 0, 10, ""))
    thread.start()
    time.sleep(0.1)
    strangers = [socket.create_connection(address) for _ in STRANGERS]
    for stranger, said in zip(strangers, STRANGERS, strict=True):
        with contextlib.suppress(OSError):  # hung up on
            stranger.sendall(said)
    mine = []
    call(mine, address, 2, 1, 10, "")
    thread.join()
    for stranger in strangers:
        stranger.close()
    assert (mine, results) == ([None], [None])


@pytest.fixture
def watched(monkeypatch):
    """Process 0 and process 1, each with one end of a connection: what it watches, and what it lost."""
    ends, lost = socket.socketpair(), ([], [])
    for name in ("_parting", "_parted"):
        monkeypatch.setattr(devices, name, threading.Event())
    threads = [
        threading.Thread(target=devices._watch, args=([end], first, lambda found=found: found.append(1)))
        for end, first, found in zip(ends, (True, False), lost, strict=True)
    ]
    for thread in threads:
        thread.start()
    yield ends, lost, threads
    for end in ends:
        end.close()


def test_a_process_that_ends_is_noticed_at_once(watched):
    ends, lost, threads = watched
    ends[1].shutdown(socket.SHUT_RDWR)  # what the system does for a process that is killed
    for thread in threads:
        thread.join(5)
    assert lost == ([1], [1])
    assert devices._parted.is_set()


def test_finished_processes_are_not_reported(watched, monkeypatch):
    ends, lost, threads = watched
    monkeypatch.setattr(devices, "_links", list(ends))  # both are done
    devices.part(5)
    for thread in threads:
        thread.join(5)
    ends[1].shutdown(socket.SHUT_RDWR)
    assert lost == ([], [])
    assert devices._parted.is_set()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("127.0.0.1", 2, 0), "coordinator is '127.0.0.1', expected HOST:PORT or auto"),
        (("127.0.0.1:0", 2, 0), "coordinator is '127.0.0.1:0', expected HOST:PORT or auto"),
        (("127.0.0.1:80000", 2, 0), "coordinator is '127.0.0.1:80000', expected HOST:PORT or auto"),
        (("127.0.0.1:1234", 2, 2), "process_id is 2, expected a number from 0 to 1"),
        (("127.0.0.1:1234", None, 1), "--num-processes is None"),
        (("no host:1234", 2, 1), "coordinator is 'no host:1234', which cannot be used"),
    ],
)
def test_an_impossible_address_is_refused(arguments, line):
    with pytest.raises(InputError) as error:
        devices.connect(*arguments, timeout=1)
    assert line in str(error.value)


def test_a_port_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with pytest.raises(InputError, match="which cannot be used: Address already in use"):
            devices.meet(address, 2, 0, 1)


def test_no_cluster_gives_one_clear_line():
    with pytest.raises(InputError, match="coordinator is auto, but JAX finds no cluster in the environment"):
        devices.connect("auto", None, None, 1)


def test_a_cluster_that_jax_cannot_read_gives_one_clear_line(monkeypatch, port):
    for name, value in (slurm(port, 2, 0) | {"SLURM_NTASKS": "2(x3)"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"cannot read this cluster \(ValueError: .*2\(x3\)"):
        devices.connect("auto", None, None, 1)


@pytest.mark.parametrize("wanted", [0, 4096])
def test_more_devices_than_there_are_is_refused(wanted):
    with pytest.raises(InputError, match=f"devices is {wanted}, expected at (least 1|most the)"):
        devices.mesh_of(wanted)
