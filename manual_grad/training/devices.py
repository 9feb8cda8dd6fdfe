"""The devices of a run: some of one host, or those of several processes that meet at an address."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from manual_grad.formulas.border import InputError, require


def mesh_of(devices: int | None) -> Mesh | None:
    """A mesh over the batch axis; None for a single device, where nothing is split.

    Args:
        devices: how many of this host's; None for one, or for all of them where there are several processes.
    Raises:
        InputError: there are not so many.
    """
    found = jax.devices()
    if jax.process_count() > 1:
        require(
            devices in (None, len(found)),
            f"devices is {devices}, expected all {len(found)} of {jax.process_count()} processes, or none",
        )
        return Mesh(np.array(found), ("batch",))
    wanted = 1 if devices is None else devices
    require(wanted >= 1, f"devices is {wanted}, expected at least 1")
    hint = "; a CPU counts as several with XLA_FLAGS=--xla_force_host_platform_device_count="
    require(
        wanted <= len(found),
        f"devices is {wanted}, expected at most the {len(found)} that JAX finds ({found[0].platform})"
        + (f"{hint}{wanted}" if found[0].platform == "cpu" else ""),
    )
    return Mesh(np.array(found[:wanted]), ("batch",)) if wanted > 1 else None


def connect(coordinator: str, processes: int | None, process: int | None, timeout: int) -> None:
    """Make the devices of several processes one system; to be called before anything is computed.

    Args:
        coordinator: HOST:PORT of process 0, or ``auto``: what JAX finds in the cluster's environment.
        processes: how many there are.
        process: which of them this is, from 0.
        timeout: for how many seconds the others are waited for.
    Raises:
        InputError: the others did not appear in time, or the address cannot be used.
    """
    settings: dict[str, Any] = {"initialization_timeout": timeout, "shutdown_timeout_seconds": timeout}
    if coordinator != "auto":
        host, _, port = coordinator.rpartition(":")
        require(
            bool(host) and port.isdigit() and 0 < int(port) < 65536,
            f"coordinator is {coordinator!r}, expected HOST:PORT or auto",
        )
        require(
            processes is not None and processes >= 1 and process is not None,
            "coordinator is given, expected the number of processes and which of them this is beside it",
        )
        assert processes is not None
        assert process is not None
        require(
            0 <= process < processes, f"process is {process}, expected a number from 0 to {processes - 1}"
        )
        settings |= {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(**settings)
    except Exception as error:  # what JAX raises differs with the failure and the version
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the processes did not find each other at {coordinator} within {timeout} s: {reason}"
        ) from None


def any_process(here: bool) -> bool:
    """Whether it is so on any of the processes: all get the same answer, at the same place of their run."""
    if jax.process_count() == 1:
        return here
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(here))))
