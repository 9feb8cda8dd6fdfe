"""The training loop: any number of steps compiled as one program, to be stopped and resumed at any of them.

The program runs the steps ``start`` to ``stop`` of an epoch, which are arguments, so the result does not
depend by a single bit on how an epoch is cut into pieces. States are immutable: if a loss becomes infinite or
NaN, the last good parameters are recomputed from an earlier state.
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from manual_grad.border import InputError, require
from manual_grad.digits import MissingExtra
from manual_grad.formulas.softmax import one_hot
from manual_grad.networks.mlp import gradient_descent
from manual_grad.training.networks import NETWORKS, Network, Params, parameter_names

OPTIMIZERS = ("sgd", "momentum", "adam")
GRADIENTS = ("manual", "autodiff", "both")
DTYPES = ("float64", "float32", "bfloat16", "float16")
TOLERANCE = {"float64": 1e-10, "float32": 1e-3}  # the largest relative difference in `both`
STRICT_STEPS = 100  # within this many steps; later, rounding errors may have grown this large
PIECE = 0.25  # seconds between checks of the clock and of Ctrl-C
PIECE_STEPS = 50  # the same for several processes, which must cut an epoch in the same way


class Data(Protocol):
    """The parts of a data set that the loop reads: images (N, H, W) from 0 to 1, integer labels (N,).

    For a text, they are windows of it and the characters that follow, both integers of shape (N, L).
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def train_images(self) -> np.ndarray: ...  # noqa: D102
    @property
    def train_labels(self) -> np.ndarray: ...  # noqa: D102
    @property
    def test_images(self) -> np.ndarray: ...  # noqa: D102
    @property
    def test_labels(self) -> np.ndarray: ...  # noqa: D102


@dataclass(frozen=True)
class Settings:
    """The settings that determine a run bit for bit, given a data set and a set of devices."""

    net: str = "mlp"
    data: str = "digits"
    gradient: str = "manual"
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 0.1
    optimizer: str = "sgd"
    full_batch: bool = False
    seed: int = 0
    dtype: str = "float32"

    @property
    def sides(self) -> tuple[str, ...]:
        """The gradients used for training."""
        return ("manual", "autodiff") if self.gradient == "both" else (self.gradient,)


@dataclass(frozen=True)
class State:
    """The state of a run.

    ``sides`` holds ``(params, optimizer state)`` by gradient; ``losses`` one number per step of this epoch,
    by gradient, of which the first ``step`` are known; ``gaps`` the difference between the two sides after
    each step, for the loss and then each parameter array. ``parted`` is the first step at which a difference
    exceeds the tolerance.
    """

    sides: dict[str, tuple[Params, Any]]
    epoch: int
    step: int
    losses: dict[str, Any]
    gaps: Any
    seconds: float = 0.0
    records: tuple[dict[str, Any], ...] = ()
    parted: dict[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its state, and for ``diverged`` the step (from 1) whose loss was not finite.

    ``deserted`` means that another process of the run cannot be reached; ``reason`` is JAX's message.
    """

    state: State
    status: Literal["finished", "interrupted", "diverged", "deserted"]
    bad_step: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Program:
    """A run's compiled functions, and its data on the devices.

    ``advance(sides, losses, gaps, order, start, stop)`` takes the steps from ``start`` to ``stop``;
    ``measured(side, params)`` is the network's measure over the test samples; ``temporaries`` is the memory
    in bytes that the steps need besides parameters and data.
    """

    settings: Settings
    steps: int
    samples: int
    names: list[str]
    advance: Callable[..., tuple[Any, Any, Any]]
    measured: Callable[[str, Params], float]
    put: Callable[[Any], Any]
    temporaries: int


def require_settings(settings: Settings, data: Data, devices: int = 1) -> None:
    """Refuse invalid settings.

    Raises:
        InputError: the message names the setting, its value and what was expected.
    """
    s, N = settings, len(data.train_images)
    for name, value, known in (
        ("net", s.net, tuple(NETWORKS)),
        ("gradient", s.gradient, GRADIENTS),
        ("optimizer", s.optimizer, OPTIMIZERS),
        ("dtype", s.dtype, DTYPES),
    ):
        require(value in known, f"{name} is {value!r}, expected one of {', '.join(known)}")
    require(
        is_text(data) == (s.net == "gpt"),
        f"net is {s.net!r}, expected {'gpt' if is_text(data) else 'mlp or cnn'} for {data.name}",
    )
    for name, number in (("epochs", s.epochs), ("batch_size", s.batch_size)):
        require(number >= 1, f"{name} is {number}, expected at least 1")
    rate = s.learning_rate
    require(math.isfinite(rate) and rate > 0, f"learning_rate is {rate}, expected a positive number")
    require(
        s.full_batch or s.batch_size <= N,
        f"batch_size is {s.batch_size}, expected at most the {N} training samples of {data.name}",
    )
    require(
        s.full_batch or s.batch_size % devices == 0,
        f"batch_size is {s.batch_size}, expected a multiple of the {devices} devices that share a batch",
    )
    require(
        s.dtype != "float64" or jax.config.read("jax_enable_x64"),
        "dtype is float64, expected JAX's jax_enable_x64 to be on",
    )
    require(
        s.gradient != "both" or s.dtype in TOLERANCE,
        f"dtype is {s.dtype}, expected {' or '.join(TOLERANCE)} for both gradients: narrower ones diverge",
    )


# ---------------------------------------------------------------- one step


def optimizer(name: str, learning_rate: float, eps: float = 1e-8) -> tuple[Callable, Callable]:
    """``(init(params), update(params, dparams, state) -> (params, state))``.

    ``sgd`` is lecture D's D-11; ``momentum`` (0.9) and ``adam``, with this ``eps``, are Optax's.

    Raises:
        MissingExtra: Optax is not installed.
    """
    if name == "sgd":
        return lambda params: (), lambda p, dp, state: (gradient_descent(p, dp, learning_rate), state)
    try:
        import optax
    except ImportError:
        raise MissingExtra(f"the optimizer {name} needs Optax: pip install 'manual-grad[train]'") from None
    rule = (
        optax.sgd(learning_rate, momentum=0.9) if name == "momentum" else optax.adam(learning_rate, eps=eps)
    )

    def update(params: Params, dparams: Params, state: Any) -> tuple[Params, Any]:
        updates, state = rule.update(dparams, state, params)
        return optax.apply_updates(params, updates), state

    return rule.init, update


def chunked(images: np.ndarray, labels: np.ndarray, K: int, chunk: int, dtype: Any) -> tuple[Any, Any]:
    """Images (n, chunk, H, W) and labels (n, chunk, K), one-hot, all 0 where a chunk is padded.

    For a text, windows and the characters that follow; those that do not fill a chunk are left out.

    >>> X, Y = chunked(np.ones((3, 2, 2)), np.array([0, 1, 1]), 2, 2, "float32")
    >>> X.shape, Y.tolist()
    ((2, 2, 2, 2), [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 0.0]]])
    """
    if labels.ndim > 1:
        whole = len(images) // chunk * chunk
        X, Y = (array[:whole].reshape(-1, chunk, array.shape[1]) for array in (images, labels))
        return X, Y
    fill = -len(images) % chunk
    X = np.pad(np.asarray(images, jnp.dtype(dtype)), ((0, fill), (0, 0), (0, 0)))
    Y = np.pad(_one_hot(labels, K, dtype), ((0, fill), (0, 0)))
    return X.reshape(-1, chunk, *X.shape[1:]), Y.reshape(-1, chunk, K)


def _one_hot(labels: np.ndarray, K: int, dtype: Any) -> np.ndarray:
    return np.asarray(one_hot(jnp.asarray(labels), K, dtype))


def full_batch_gradient(
    gradient: Callable[[Params, Any, Any], tuple[Any, Params]], params: Params, Xs: Any, Ys: Any, N: int
) -> tuple[Any, Params]:
    """Loss and gradient over N samples at once, in the memory of one chunk. [D-07]

    The mean over all samples is the sum of the chunks' means, each times its share c/N. Sums are at least in
    float32.

    Args:
        gradient: ``(params, X, Y) -> (loss, dparams)``, means over a chunk.
        params: the parameters.
        Xs, Ys: from :func:`chunked`, (n, c, …).
        N: the number of samples, not counting those that pad the last chunk.
    Returns:
        ``(loss, dparams)``.
    """

    def sweep(total: Any, part: tuple[Any, Any]) -> tuple[Any, None]:
        share = Xs.shape[1] / N
        found = gradient(params, *part)
        return jax.tree.map(lambda t, f: t + share * f.astype(t.dtype), total, found), None

    like = jax.eval_shape(gradient, params, Xs[0], Ys[0])
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.promote_types(a.dtype, jnp.float32)), like)
    total, _ = lax.scan(sweep, zeros, (Xs, Ys))
    return jax.tree.map(lambda t, a: t.astype(a.dtype), total, like)


def _gaps(sides: dict[str, tuple[Params, Any]], losses: dict[str, Any]) -> Any:
    """The relative difference of manual from autodiff: the loss, then each array by its largest entry."""
    manual = [losses["manual"], *jax.tree.leaves(sides["manual"][0])]
    autodiff = [losses["autodiff"], *jax.tree.leaves(sides["autodiff"][0])]

    def gap(a: Any, b: Any) -> Any:
        apart, size = jnp.abs(a - b).max(), jnp.abs(b).max()
        return jnp.where(apart == 0, 0, apart / size)

    return jnp.stack([gap(a, b) for a, b in zip(manual, autodiff, strict=True)])


# ---------------------------------------------------------------- the program


def build(settings: Settings, data: Data, mesh: Mesh | None = None) -> Program:
    """Compile a run; with a mesh, each batch is split over its axis and parameters are replicated.

    Raises:
        InputError: the settings do not fit the data or the devices.
        MissingExtra: the optimizer needs Optax, which is not installed.
    """
    require_settings(settings, data, mesh.size if mesh else 1)
    network, s = NETWORKS[settings.net], settings
    put = partial(_put, mesh, PartitionSpec())
    N, K = len(data.train_images), _classes(data)
    chunk = _chunk(network, mesh.size if mesh else 1)
    chunk = min(chunk, len(data.test_images)) if is_text(data) else chunk
    split = partial(_put, mesh, PartitionSpec(None, "batch"))
    if s.full_batch:
        train = split(chunked(data.train_images, data.train_labels, K, chunk, s.dtype))
    elif is_text(data):
        train = put((data.train_images, data.train_labels))
    else:
        train = put(
            (np.asarray(data.train_images, jnp.dtype(s.dtype)), _one_hot(data.train_labels, K, s.dtype))
        )
    test = split(chunked(data.test_images, data.test_labels, K, chunk, s.dtype))
    everywhere = NamedSharding(mesh, PartitionSpec()) if mesh else None
    run = jax.jit(partial(_run, s, network, N, mesh), out_shardings=everywhere)
    totals = {
        side: jax.jit(partial(_total, network.points[side]), out_shardings=everywhere) for side in s.sides
    }
    tests = min(len(data.test_images), test[0].shape[0] * test[0].shape[1])
    first = initial_state(settings, data)
    state = put((first.sides, first.losses, first.gaps, order_of_epoch(s, N, 0), np.int32(0), np.int32(0)))
    advance = run.lower(train, *state).compile()
    return Program(
        settings=s,
        steps=len(next(iter(first.losses.values()))),
        samples=N,
        names=parameter_names(first.sides[s.sides[0]][0]),
        advance=lambda *arguments: advance(train, *arguments),
        measured=lambda side, params: totals[side](params, *test).item() / tests,
        put=put,
        temporaries=getattr(advance.memory_analysis(), "temp_size_in_bytes", 0),
    )


def _put(mesh: Mesh | None, spec: PartitionSpec, tree: Any) -> Any:
    """Put the host's arrays on the devices; every process has the whole and gives its devices their share."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    sharding = NamedSharding(mesh, spec)

    def place(array: Any) -> Any:
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree)


def _classes(data: Data) -> int:
    places = [data.train_labels, data.test_labels]
    places += [data.train_images, data.test_images] if is_text(data) else []
    return int(max(array.max() for array in places)) + 1


def is_text(data: Data) -> bool:
    """Whether each position of a sample has a label of its own."""
    return data.train_labels.ndim > 1


def _chunk(network: Network, devices: int) -> int:
    """The network's chunk size, rounded to a multiple of the number of devices."""
    return -(-network.chunk // devices) * devices


def _run(
    s: Settings,
    network: Network,
    N: int,
    mesh: Mesh | None,
    train: tuple[Any, Any],
    sides: dict[str, tuple[Params, Any]],
    losses: dict[str, Any],
    gaps: Any,
    order: Any,
    start: Any,
    stop: Any,
) -> tuple[Any, Any, Any]:
    """The steps from ``start`` to ``stop`` of an epoch whose batches are the rows of ``order``."""
    _, update = optimizer(s.optimizer, s.learning_rate, network.eps)

    def gradient(side: str, params: Params, i: Any) -> tuple[Any, Params]:
        if s.full_batch:
            return full_batch_gradient(network.gradients[side], params, *train, N)
        X, Y = (array.at[order[i]].get(mode="promise_in_bounds") for array in train)
        if mesh:
            X, Y = lax.with_sharding_constraint((X, Y), NamedSharding(mesh, PartitionSpec("batch")))
        return network.gradients[side](params, X, Y)

    def step(i: Any, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        sides, losses, gaps = carry
        now, after = {}, {}
        for side, (params, state) in sides.items():
            now[side], dparams = gradient(side, params, i)
            after[side] = update(params, dparams, state)
        losses = {side: losses[side].at[i].set(now[side].astype(losses[side].dtype)) for side in sides}
        if len(sides) == 2:
            gaps = gaps.at[i].set(_gaps(after, now))
        return after, losses, gaps

    return lax.fori_loop(start, stop, step, (sides, losses, gaps))


def _total(points: Callable, params: Params, Xs: Any, Ys: Any) -> Any:
    """The sum over all samples, in float32 or wider: of those classified correctly, or of their losses."""

    def sweep(total: Any, part: tuple[Any, Any]) -> tuple[Any, None]:
        found = points(params, *part)
        return total + found.sum(dtype=total.dtype), None

    kind = jax.eval_shape(points, params, Xs[0], Ys[0]).dtype
    wide = jnp.int32 if kind == jnp.dtype("bool") else jnp.promote_types(kind, jnp.float32)
    return lax.scan(sweep, jnp.zeros((), wide), (Xs, Ys))[0]


# ---------------------------------------------------------------- the run


def initial_state(settings: Settings, data: Data) -> State:
    """The start of a run: random parameters, no steps. Both sides of ``both`` start from these."""
    network = NETWORKS[settings.net]
    params = network.initial(data.train_images.shape[1:], _classes(data), settings.seed, settings.dtype)
    init, _ = optimizer(settings.optimizer, settings.learning_rate, network.eps)
    steps = 1 if settings.full_batch else len(data.train_images) // settings.batch_size
    return _fresh_epoch(
        State({side: (params, init(params)) for side in settings.sides}, 0, 0, {}, None), settings, steps
    )


def _fresh_epoch(state: State, settings: Settings, steps: int) -> State:
    wide = jnp.promote_types(settings.dtype, jnp.float32)
    arrays = len(jax.tree.leaves(next(iter(state.sides.values()))[0]))
    losses = {side: np.zeros(steps, wide) for side in settings.sides}
    return replace(state, step=0, losses=losses, gaps=np.zeros((steps, 1 + arrays), wide), seconds=0.0)


def order_of_epoch(settings: Settings, N: int, epoch: int) -> np.ndarray:
    """The samples of each batch, (steps, batch_size); they depend only on seed and epoch.

    Samples that do not fill a batch are left for another epoch.
    """
    if settings.full_batch:
        return np.zeros((1, 1), np.int32)
    drawn = np.random.default_rng([settings.seed, 1, epoch]).permutation(N)
    steps = N // settings.batch_size
    return drawn[: steps * settings.batch_size].reshape(steps, -1).astype(np.int32)


def train(
    program: Program,
    state: State,
    *,
    on_step: Callable[[State], None] = lambda state: None,
    on_epoch: Callable[[State], None] = lambda state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run a program from a state to its last epoch.

    Args:
        program: from :func:`build`.
        state: from :func:`initial_state`, or where an earlier run stopped.
        on_step: called with the state after each piece of an epoch.
        on_epoch: called with the state after each epoch.
        should_stop: asked between pieces, a fraction of a second apart.
    Returns:
        How it ended. If a loss was not finite, the state is the last one whose loss was.
    """
    state, reached = _on_devices(program, state), [state]

    def remember(state: State) -> None:
        reached[0] = state
        on_step(state)

    try:
        return _train(program, state, remember, on_epoch, should_stop)
    except (RuntimeError, ValueError) as error:  # JAX raises both where a process is lost
        if jax.process_count() == 1 or isinstance(error, InputError):
            raise
        return Outcome(_on_host(reached[0]), "deserted", reason=_reason(error))


def _reason(error: Exception) -> str:
    """The first line of what JAX says, without the places in its source."""
    line = re.sub(r"\[?external/\S+\]? ?", "", str(error).partition("\n")[0])
    return line if len(line) < 100 else f"{line[:100]}…"


def _train(
    program: Program,
    state: State,
    on_step: Callable[[State], None],
    on_epoch: Callable[[State], None],
    should_stop: Callable[[], bool],
) -> Outcome:
    before, pace = None, 1
    while state.epoch < program.settings.epochs:
        order = program.put(order_of_epoch(program.settings, program.samples, state.epoch))
        while state.step < program.steps:
            if should_stop():
                return Outcome(_on_host(state), "interrupted")
            started = time.perf_counter()
            stop = min(state.step + pace, program.steps)
            ahead = _advance(program, state, order, stop)
            bad = _first_bad(ahead, state.step)
            if bad is not None:
                at = state.epoch * program.steps + bad
                return Outcome(_on_host(_last_good(program, before or state, state, at)), "diverged", at + 1)
            seconds = time.perf_counter() - started
            before, state = state, replace(ahead, seconds=state.seconds + seconds)
            pace = _next_pace(stop - before.step, seconds)
            on_step(state)
        state = _close_epoch(program, state)
        on_epoch(state)
    return Outcome(_on_host(state), "finished")


def _advance(program: Program, state: State, order: Any, stop: int) -> State:
    """The state at step ``stop`` of the same epoch."""
    bounds = program.put((np.int32(state.step), np.int32(stop)))
    sides, losses, gaps = program.advance(state.sides, state.losses, state.gaps, order, *bounds)
    ahead = replace(state, sides=sides, losses=losses, gaps=gaps, step=stop)
    return replace(ahead, parted=state.parted or _parting(program, ahead, state.step))


def _next_pace(steps: int, seconds: float) -> int:
    """The number of steps to take before the next check, which is the same on all processes."""
    if jax.process_count() > 1:
        return PIECE_STEPS
    return max(1, min(4 * steps, round(PIECE * steps / max(seconds, 1e-9))))


def _first_bad(state: State, since: int) -> int | None:
    """The first step of the epoch, from ``since``, at which a loss is not finite."""
    finite = np.all([np.isfinite(np.asarray(losses)) for losses in state.losses.values()], axis=0)
    bad = np.flatnonzero(~finite[since : state.step])
    return since + int(bad[0]) if len(bad) else None


def _last_good(program: Program, before: State, state: State, bad: int) -> State:
    """The state whose parameters gave the loss before the bad one: ``bad`` − 1 steps after the start."""
    wanted = max(bad - 1, 0)
    start = state if state.epoch * program.steps + state.step <= wanted else before
    order = program.put(order_of_epoch(program.settings, program.samples, start.epoch))
    return _advance(program, start, order, max(wanted - start.epoch * program.steps, start.step))


def _parting(program: Program, state: State, since: int) -> dict[str, Any] | None:
    """The first step, from ``since``, after which the two sides are further apart than the tolerance."""
    if len(state.sides) < 2:
        return None
    apart = ~(np.asarray(state.gaps) <= TOLERANCE[program.settings.dtype])  # NaN is apart
    steps = np.flatnonzero(apart[since : state.step].any(axis=1))
    if not len(steps):
        return None
    step = since + int(steps[0])
    gaps = dict(zip(["loss", *program.names], np.asarray(state.gaps)[step].tolist(), strict=True))
    where = {name: gap for (name, gap), far in zip(gaps.items(), apart[step], strict=True) if far}
    return {"epoch": state.epoch + 1, "step": state.epoch * program.steps + step + 1, "gaps": where}


def _close_epoch(program: Program, state: State) -> State:
    """Evaluate the test samples, record the epoch, and move to the start of the next one."""
    found = {
        side: {
            "train_loss": float(np.mean(np.asarray(state.losses[side], np.float64))),
            NETWORKS[program.settings.net].measure: program.measured(side, state.sides[side][0]),
        }
        for side in program.settings.sides
    }
    first, *others = found
    record: dict[str, Any] = {"epoch": state.epoch + 1, **found[first], "seconds": round(state.seconds, 4)}
    for side in others:
        largest = np.asarray(state.gaps).max(axis=0)
        record |= {
            side: found[side],
            "loss_gap": float(largest[0]),
            "parameter_gap": float(largest[1:].max()),
        }
    ended = replace(state, epoch=state.epoch + 1, records=(*state.records, record))
    return _on_devices(program, _fresh_epoch(ended, program.settings, program.steps))


def _on_devices(program: Program, state: State) -> State:
    return replace(
        state,
        sides=program.put(state.sides),
        losses=program.put(state.losses),
        gaps=program.put(state.gaps),
    )


def _on_host(state: State) -> State:
    return replace(
        state,
        sides=jax.tree.map(np.asarray, state.sides),
        losses=jax.tree.map(np.asarray, state.losses),
        gaps=np.asarray(state.gaps),
    )
