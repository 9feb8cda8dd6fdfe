"""The devices of a run: those of one host, or of several processes that connect at an address."""

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from manual_grad.border import InputError, require
from manual_grad.forms import TEXT, misfit, parsed, whole


def mesh_of(devices: int | None) -> Mesh | None:
    """A mesh over the batch axis; None for a single device, where nothing is split.

    Args:
        devices: the number of devices of this host; None for one, or for all if there are several processes.
    Raises:
        InputError: there are not that many.
    """
    found = jax.devices()
    if jax.process_count() > 1:
        require(
            devices in (None, len(found)),
            f"devices is {devices}, "
            f"expected all {len(found)} of the {jax.process_count()} processes, or none",
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


def connect(
    coordinator: str,
    processes: int | None,
    process: int | None,
    timeout: int,
    agreement: str = "",
    lost: Callable[[], Any] | None = None,
) -> None:
    """Make the devices of several processes one system; to be called before anything is computed.

    Args:
        coordinator: HOST:PORT of process 0, or ``auto`` for what JAX finds in the cluster's environment.
        processes: the number of processes; with ``auto``, None for what JAX finds.
        process: the number of this process, counted from 0; likewise.
        timeout: how many seconds to wait for the others, at the start and whenever one does not answer.
        agreement: what must be the same for all, such as the settings of the run.
        lost: called from another thread if one of them ends before :func:`part`.
    Raises:
        InputError: the others did not connect in time or were given different settings, the address cannot
            be used, or no cluster was found.
    """
    if coordinator == "auto":
        coordinator, processes, process = _found_cluster(processes, process, timeout)
    host, _, port = coordinator.rpartition(":")
    require(
        bool(host) and port.isdigit() and 0 < int(port) < 65536,
        f"coordinator is {coordinator!r}, expected HOST:PORT or auto",
    )
    if processes is None or processes < 1 or process is None or not 0 <= process < processes:
        raise InputError(
            f"process_id is {process}, expected a number from 0 to {(processes or 2) - 1}; "
            f"--num-processes is {processes}"
        )
    meet((host.strip("[]"), int(port)), processes, process, timeout, agreement, lost)
    if lost:
        before_abort(lost)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=timeout,
            shutdown_timeout_seconds=timeout,
        )
    except Exception as error:  # the exception depends on the failure and the version of JAX
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the processes could not be joined at {coordinator}: {reason}") from None


def _found_cluster(processes: int | None, process: int | None, timeout: int) -> tuple[str, int, int]:
    """Address, number of processes and this one's number, as ``jax.distributed.initialize`` finds them."""
    from jax._src.clusters import ClusterEnv  # JAX has no public name for it

    given = os.environ.get("JAX_COORDINATOR_ADDRESS"), processes, process
    try:
        address, processes, process, _ = ClusterEnv.auto_detect_unset_distributed_params(
            *given, None, None, timeout
        )
    except Exception as error:  # a cluster's environment that JAX cannot parse
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"coordinator is auto, but JAX cannot read this cluster ({reason})") from None
    if address is None or processes is None or process is None:
        raise InputError(
            "coordinator is auto, but JAX finds no cluster in the environment (Slurm, Open MPI, Kubernetes, "
            "Cloud TPU); expected HOST:PORT with --num-processes and --process-id"
        )
    return address, processes, process


def before_abort(act: Callable[[], Any]) -> None:
    """Arrange for ``act`` to be called when JAX would abort this process, as it does if process 0 dies.

    JAX aborts from its own thread without notice. That thread raises the signal itself, so ``act`` runs like
    any function called back by a library, even if the main thread hangs in a collective.
    """
    if os.name != "posix":
        return
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: act())
    _handlers.append(handler)  # C keeps no reference
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))


_handlers: list[Any] = []


HELLO, ALL_HERE, DONE = "manual-grad train", b"all here\n", b"done\n"
LONGEST = 10**5  # bytes of a greeting
_links: list[socket.socket] = []  # to the others: from process 0 to all, from any other to process 0
_parting, _parted = threading.Event(), threading.Event()


def meet(
    address: tuple[str, int],
    processes: int,
    process: int,
    timeout: float,
    agreement: str = "",
    lost: Callable[[], Any] | None = None,
) -> None:
    """Wait until all processes have connected: if one is missing, JAX ends the others without an exception.

    Process 0 listens at the address and greets the others once all have connected; then JAX gets the port.
    With ``lost``, the connections stay open: the system closes those of a process that ends, however it ends.

    Raises:
        InputError: not all connected in time, two claim the same number, or their settings differ.
    """
    at, deadline = f"{address[0]}:{address[1]}", time.monotonic() + timeout
    try:
        if process == 0:
            links = _greet(address, processes, deadline, agreement)
        else:
            links = [_appear(address, process, deadline, agreement)]
    except TimeoutError as missing:
        raise InputError(f"{missing} at {at} within {timeout:g} s (--timeout)") from None
    except OSError as error:
        raise InputError(f"coordinator is {at!r}, which cannot be used: {error.strerror or error}") from None
    if lost and links:
        _links[:] = links
        threading.Thread(target=_watch, args=(list(links), process == 0, lost), daemon=True).start()
        return
    for link in links:
        link.close()


def linked() -> bool:
    """Whether this process is one of several that monitor one another."""
    return bool(_links)


def part(timeout: float, done: bool = True) -> None:
    """Wait until all processes are done, or one of them has died, which no longer matters.

    Args:
        timeout: in seconds.
        done: whether this one has finished its work.
    """
    _parting.set()
    for link in _links if done else ():
        with contextlib.suppress(OSError):
            link.sendall(DONE)
    _parted.wait(timeout)


def _watch(links: list[socket.socket], first: bool, lost: Callable[[], Any]) -> None:
    """Call ``lost`` if a process ends without having reported that it is done; report when all are done."""
    waiting = dict.fromkeys(links, b"")
    while waiting:
        for link in select.select(list(waiting), [], [])[0]:
            try:
                said = link.recv(64)
            except OSError:
                said = b""
            waiting[link] += said
            if waiting[link].endswith(DONE * (1 if first else 2)):
                del waiting[link]
            elif not said:
                if not _parting.is_set():
                    lost()
                _parted.set()
                return
    if first:
        _parting.wait()
        for link in links:  # a second time: the first was process 0's own
            with contextlib.suppress(OSError):
                link.sendall(DONE)
    _parted.set()


def _greet(address: tuple[str, int], processes: int, deadline: float, agreement: str) -> list[socket.socket]:
    """The connections of all others; connections from strangers, silent or not, are ignored."""
    heard: dict[socket.socket, bytes] = {}
    there: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(address))
        while len(there) < processes - 1:
            missing = [i for i in range(1, processes) if i not in there]
            ready = select.select(
                [server, *heard, *there.values()], [], [], max(deadline - time.monotonic(), 0)
            )[0]
            if not ready:
                names = ", ".join(map(str, missing))
                many = "es" * (len(missing) > 1)
                raise TimeoutError(f"process{many} {names} of {processes} did not join")
            for peer in ready:
                if peer is server:
                    heard[stack.enter_context(server.accept()[0])] = b""
                    continue
                said = _received(peer)
                if peer not in heard:  # was there, and has left again
                    there = {i: other for i, other in there.items() if other is not peer}
                    continue
                heard[peer] += said
                if said and b"\n" not in heard[peer] and len(heard[peer]) <= LONGEST:
                    continue
                hello = _hello(heard.pop(peer))
                if hello is None:
                    peer.close()
                    continue
                require(
                    hello[0] in missing and hello[0] not in there,
                    f"a process says that it is process_id {hello[0]}, expected "
                    f"{' or '.join(map(str, missing))}",
                )
                require(
                    hello[1] == agreement,
                    f"process {hello[0]} was given different settings: {hello[1]}, expected {agreement}",
                )
                there[hello[0]] = peer
        server.close()  # the port is JAX's
        for i, peer in there.items():
            try:
                peer.settimeout(max(deadline - time.monotonic(), 1))
                peer.sendall(ALL_HERE)
                peer.settimeout(None)
            except OSError:
                raise TimeoutError(f"process {i} of {processes} joined, then left") from None
        for stranger in heard:
            stranger.close()
        stack.pop_all()
        return list(there.values())


def _received(peer: socket.socket) -> bytes:
    try:
        return peer.recv(4096)
    except OSError:
        return b""


def _hello(line: bytes) -> tuple[int, str] | None:
    """The number and the settings of the process that has connected; None for anything else."""
    try:
        said = parsed(line)
    except ValueError:
        return None
    form = {HELLO: {"process": whole(0), "agreement": TEXT}}
    return None if misfit(said, form) else (said[HELLO]["process"], said[HELLO]["agreement"])


def _listen(address: tuple[str, int]) -> socket.socket:
    """Listen at the address, or at the port on every address if it is not one of this machine's."""
    try:
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server(address, family=family)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return socket.create_server(("", address[1]))


def _appear(address: tuple[str, int], process: int, deadline: float, agreement: str) -> socket.socket:
    hello = json.dumps({HELLO: {"process": process, "agreement": agreement}}) + "\n"
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("process 0 did not join")
        try:
            with contextlib.ExitStack() as stack:
                peer = stack.enter_context(socket.create_connection(address, timeout=left))
                peer.sendall(hello.encode())
                answer = b""
                while len(answer) < len(ALL_HERE) and (said := peer.recv(len(ALL_HERE) - len(answer))):
                    answer += said
                require(answer == ALL_HERE, "process 0 gave up: its own message says why")
                stack.pop_all()
                peer.settimeout(None)
                return peer
        except socket.gaierror:
            raise
        except TimeoutError:
            raise TimeoutError("not all of the other processes joined") from None
        except OSError:  # nobody is listening there yet
            time.sleep(min(0.1, left))


def any_process(here: bool) -> bool:
    """Whether something is true on any process; all get the same answer at the same point of the run."""
    if jax.process_count() == 1:
        return here
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(here))))


def require_same(what: str, number: int) -> None:
    """Refuse processes that do not all agree on a number, such as a checksum.

    Raises:
        InputError: they differ; all processes raise it.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    found = multihost_utils.process_allgather(np.array(number, np.uint32)).tolist()
    others = [str(i) for i, their in enumerate(found) if their != found[0]]
    require(not others, f"process {', '.join(others)} has different {what} from process 0")
