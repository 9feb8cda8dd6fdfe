"""What devices send each other: collectives counted in compiled programs, by hand and by autodiff.

An axis is sharded in every array whose shape in the signature names it; Lq and Lk are one axis, as are H, Hkv
and gH. A gradient is sharded like its primal, a cotangent like the output. Programs are compiled for several
devices and not run. Bytes are those that one device sends in a ring, where an all-reduce is a reduce-scatter
followed by an all-gather; what a loop sends is multiplied by its number of steps.
"""

import inspect
import itertools
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import AbstractArray
from rich.table import Table

from manual_grad.catalogue import FORMULAS, NO_BATCH
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import Formula
from manual_grad_benchmarks.cases import Case
from manual_grad_benchmarks.table import size

# Bytes that each of n devices sends per byte of the whole array; of a permutation, per byte of its part.
RING: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n**2,
    "collective-permute": lambda n: 1,
}
LEAST = ("collectives", "on paper", "size")
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # it is not run
SEQUENCES, IMAGES = {"L", "T"}, {"H", "W", "h", "w"}
_HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply|\w+_computations?)=(\{.*?\}|%[\w.\-]+)")
_ARRAY = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\]")


# --------------------------------------------------------------------------------------- counting


class Unknown(Exception):
    """A program does not say how often it sends."""


def sent(hlo: str, devices: int) -> dict[str, dict[str, float]]:
    """For each kind of collective of a compiled program, how many run and the bytes that a device sends.

    Raises:
        Unknown: a collective is in a loop whose number of steps is not known.
    """
    computations: dict[str, list[tuple[str, ...]]] = {}
    entry = name = ""
    for line in hlo.splitlines():
        if header := _HEADER.match(line):
            name, computations[header[2]] = header[2], []
            entry = name if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            computations[name].append(instruction.groups())
    found: dict[str, dict[str, float]] = {}
    for kind, times, sends in _within(computations, entry, 1, devices):
        total = found.setdefault(kind, {"count": 0, "bytes": 0})
        total["count"] += times
        total["bytes"] += times * sends
    return found


def _within(computations: Mapping[str, Any], name: str, times: int, devices: int) -> Iterator[tuple]:
    """Each collective of a computation that runs this many times, and of those that it calls."""
    shapes = {result: shape for result, shape, *_ in computations[name]}
    for _, _, op, operands, rest in computations[name]:
        if (kind := _kind(op)) in RING:
            n = _group(rest, devices)
            parts = n if kind in ("all-gather", "all-to-all") else 1
            whole = parts * sum(_bytes(shapes[operand]) for operand in _NAME.findall(operands))
            yield kind, times, whole * RING[kind](n)
            continue
        steps = _steps(op, rest)
        for called in _NAME.findall(" ".join(_CALLED.findall(rest))):
            for found in _within(computations, called, times * (steps or 1), devices):
                if steps is None:
                    raise Unknown(f"{found[0]} runs an unknown number of times")
                yield found


def _steps(op: str, rest: str) -> int | None:
    """How often an instruction runs what it calls; None for a loop that does not say."""
    if op != "while":
        return 1
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
    return int(trips[1]) if trips else None


def _kind(op: str) -> str:
    """The collective that an instruction is or starts; an instruction that ends one counts as none."""
    return op.removesuffix("-start")


def _bytes(shape: str) -> int:
    arrays = _ARRAY.findall(shape)
    return sum(math.prod(map(int, filter(None, n.split(","))), start=int(b or 8) // 8) for _, b, n in arrays)


def _group(rest: str, devices: int) -> int:
    """The number of devices that take part, in any of the three ways to write it."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return listed[1].count(",") + 1
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(counted[1])
    if named := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", rest):
        lengths = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(lengths[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    return devices


# --------------------------------------------------------------------------------------- sharding


def counted(case: Case, dtype: str, devices: int) -> list[dict[str, Any]]:
    """What is sent for each axis of a case that can be sharded: by hand, by autodiff and on paper."""
    formula, mesh = FORMULAS[case.name], Mesh(np.array(jax.devices()[:devices]), ("devices",))
    dout, *drawn = case.inputs(Draw(np.random.default_rng(0), jnp.dtype(dtype)))
    primals = dict(zip(formula.primals, drawn, strict=True))
    value = jax.eval_shape(case.sides["manual"].fn, dout, *drawn)[0]
    signature = inspect.signature(formula.fwd)
    hints = {name: signature.parameters[name].annotation for name in primals}
    (out_hint, _) = typing.get_args(signature.return_annotation)
    out_hints = typing.get_args(out_hint) if isinstance(value, tuple) else out_hint
    wrt = case.wrt or formula.floating
    rows = []
    for axis, kind in _kinds(formula, hints, primals).items():
        place = partial(_placed, mesh, axis)
        given = {name: jax.tree.map(partial(place, hints[name]), primals[name]) for name in primals}
        out = jax.tree.map(place, out_hints, value)
        if not all(_fits(leaf) for leaf in jax.tree.leaves((given, out))):
            continue
        sides = {}
        for side, way in case.sides.items():
            places = jax.tree.map(lambda leaf: leaf.sharding, (out, tuple(given[name] for name in wrt)))
            call = jax.jit(lambda *args, fn=way.fn: fn(*args), out_shardings=places, compiler_options=FAST)
            program = call.lower(None if dout is None else out, *given.values()).compile()
            try:
                sides[side] = sent(program.as_text() or "", devices)
            except Unknown as error:
                raise Unknown(f"{case.label}, {axis} sharded: {side}: {error}") from None
        shared = [f"d{name}" for name in wrt if axis not in _names(hints[name], primals[name])]
        shared += ["1"] if dout is None else []
        default = {"all-reduce": " + ".join(shared)} if shared else {}
        paper = formula.sends.get(axis, default if kind == "batch" else None)
        lengths = {**case.lengths, **{f"d{name}": _entries(primals[name]) for name in wrt}}
        rows.append(
            {
                "case": case.name,
                "size": case.size,
                "axis": axis,
                "sharded": kind,
                "devices": devices,
                "sides": sides,
                "on_paper": paper,
                "paper": None
                if paper is None
                else jnp.dtype(dtype).itemsize * on_paper(paper, lengths, devices),
            }
        )
    return rows


def on_paper(paper: Mapping[str, str], lengths: Mapping[str, Any], devices: int) -> float:
    """The array entries that each device sends.

    >>> on_paper({"all-reduce": "2 N + 1"}, {"*N": (3, 4)}, 2)
    25.0
    """
    known = {
        name.lstrip("*"): math.prod(n) if isinstance(n, tuple) else n
        for names, n in lengths.items()
        for name in names.split()
    }
    sums = {
        kind: sum(math.prod(int(known.get(f, f)) for f in term.split()) for term in terms.split("+"))
        for kind, terms in paper.items()
    }
    return float(sum(entries * RING[kind](devices) for kind, entries in sums.items()))


def _kinds(formula: Formula, hints: Mapping[str, Any], primals: Mapping[str, Any]) -> dict[str, str]:
    """Each axis that may be sharded, and what it is; with parameters in a pytree, no features."""
    names = {name: _names(hints[name], primals[name]) for name in primals}
    axes = dict.fromkeys(axis for some in names.values() for axis in some if axis)
    of_samples = (formula.batch or NO_BATCH).axes.items()
    samples = [names[name][axis] for name, axis in of_samples if names.get(name)]
    kinds = dict.fromkeys(axes, "features") | dict.fromkeys(SEQUENCES & set(axes), "sequence")
    kinds |= dict.fromkeys(["N"] if "N" in axes else samples[:1], "batch")
    left_out = IMAGES if {"W", "w"} & set(axes) else set()
    nested = any(isinstance(primal, list | dict) for primal in primals.values())
    left_out = left_out | ({axis for axis in axes if kinds[axis] == "features"} if nested else set())
    return {axis: kinds[axis] for axis in axes if axis not in left_out}


def _names(hint: Any, array: Any) -> tuple[str, ...]:
    """The name of each axis in a signature, of a union's first array; Lk is an axis L, gH and Hkv are H.

    >>> from jaxtyping import Array, Float
    >>> _names(Float[Array, "*N Lk Hkv D"], jnp.ones((2, 3, 4, 5, 6)))
    ('N', '', 'L', 'H', 'D')
    """
    for way in (hint, *typing.get_args(hint)):
        if isinstance(way, type) and issubclass(way, AbstractArray) and hasattr(array, "ndim"):
            axes = way.dim_str.split()
            names = [[re.sub("[^A-Z]", "", axis) or axis.lstrip("*")] for axis in axes]
            for axis, name in zip(axes, names, strict=True):
                if axis.startswith(("*", "...")):
                    name[:] = [*name, *[""] * array.ndim][: array.ndim + 1 - len(axes)]
            return tuple(itertools.chain(*names))
    return ()


def _placed(mesh: Mesh, axis: str, hint: Any, array: Any) -> Any:
    """The array's shape, with its first axis of this name sharded."""
    names = _names(hint, array)
    where = [None] * names.index(axis) + ["devices"] if axis in names else []
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=NamedSharding(mesh, PartitionSpec(*where)))


def _fits(array: Any) -> bool:
    """Whether the number of devices divides the sharded axis."""
    return all(
        n % array.sharding.mesh.size == 0
        for n, name in zip(array.shape, array.sharding.spec, strict=False)
        if name
    )


def _entries(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def total(side: Mapping[str, Mapping[str, float]]) -> float:
    """The bytes that each device sends."""
    return sum(found["bytes"] for found in side.values())


# --------------------------------------------------------------------------------------- the table


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """One line per case and sharded axis."""
    out = Table(title=f"What each of {rows[0]['devices']} devices sends", title_justify="left")
    for name in ("case", "size", "sharded"):
        out.add_column(name, overflow="fold")
    for name in ("by hand", "autodiff", "on paper"):
        out.add_column(name, justify="right", no_wrap=True)
    out.add_column("collectives, on paper", overflow="fold")
    out.add_column("collectives", overflow="fold")
    for row in rows:
        hand, auto = row["sides"].values()
        more = "[red]" if total(hand) > 1.01 * total(auto) + 64 else ""
        out.add_row(
            row["case"],
            row["size"],
            f"{row['sharded']}, {row['axis']}",
            f"{more}{size(round(total(hand)))}",
            size(round(total(auto))),
            "" if row["paper"] is None else size(round(row["paper"])),
            "; ".join(f"{kind} {terms}" for kind, terms in (row["on_paper"] or {}).items()),
            f"{_collectives(hand)} / {_collectives(auto)}",
        )
    return out


def _collectives(side: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(f"{found['count']} {kind}" for kind, found in side.items()) or "none"
