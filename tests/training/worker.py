"""What tests run in separate processes: ``devices``, ``auto`` or ``process PORT K I`` says what."""

import hashlib
import json
import os
import signal
import sys
from dataclasses import replace

import jax
import numpy as np

from manual_grad.border import InputError
from manual_grad.training import devices, loop
from tests.training.corners import tiny

SETTINGS = loop.Settings(data="tiny", epochs=2, batch_size=8, dtype="float64")


def train(settings, mesh, **more):
    data = tiny()
    return loop.train(loop.build(settings, data, mesh), loop.initial_state(settings, data), **more)


def largest_gap(a, b):
    return max(
        float(np.abs(x - y).max() / np.abs(y).max())
        for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def on_eight_devices():
    """How far a run on eight devices is from the same on one."""
    mesh = devices.mesh_of(8)
    found = {"devices": mesh.size}
    for name, changes in {
        "mlp": {},
        "cnn": {"net": "cnn", "epochs": 1},
        "full": {"full_batch": True},
    }.items():
        settings = replace(SETTINGS, **changes)
        split, single = (train(settings, m).state for m in (mesh, None))
        found[name] = largest_gap((split.sides, split.losses), (single.sides, single.losses))
        found[f"{name} accuracies"] = [s.records[-1]["test_accuracy"] for s in (split, single)]
    return found


def as_one_of(coordinator, *numbers):
    """Where a run ends that only the last process wants to stop, in its third piece."""
    devices.connect(coordinator, *numbers, 60, "the same")
    process, processes, asked = jax.process_index(), jax.process_count(), []

    def should_stop():
        asked.append(1)
        return devices.any_process(process == processes - 1 and len(asked) == 3)

    loop.PIECE_STEPS = 2
    outcome = train(SETTINGS, devices.mesh_of(None), should_stop=should_stop)
    params = jax.tree.leaves(outcome.state.sides)
    return {
        "status": outcome.status,
        "devices": jax.device_count(),
        "at": [outcome.state.epoch, outcome.state.step],
        "bits": hashlib.sha256(b"".join(p.tobytes() for p in params)).hexdigest(),
        "losses": np.asarray(outcome.state.losses["manual"]).tolist(),
    }


def until_one_is_killed(found):
    """The same run again, in which process 0 is killed: the others print ``found`` and how it ended."""

    def leave(status):
        print(json.dumps(found | {"then": status}), flush=True)
        os._exit(0)

    def on_step(state):
        if jax.process_index() == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    devices.before_abort(lambda: leave("deserted"))  # whichever comes first
    leave(train(SETTINGS, devices.mesh_of(None), on_step=on_step).status)


def differing(found):
    """The line with which processes are refused of which the last has other samples."""
    try:
        devices.require_same("samples", 5 + (jax.process_index() == jax.process_count() - 1))
    except InputError as error:
        return found | {"refused": str(error)}
    raise AssertionError("nothing was refused")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    what, *numbers = sys.argv[1:]
    if what == "devices":
        print(json.dumps(on_eight_devices()))
    elif what == "auto":
        print(json.dumps(differing(as_one_of("auto", None, None))))
    else:
        port, processes, process = map(int, numbers)
        until_one_is_killed(as_one_of(f"127.0.0.1:{port}", processes, process))
