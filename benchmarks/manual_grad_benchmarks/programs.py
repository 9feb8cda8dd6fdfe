"""The compiled program of a function: its compile time and memory, and whether two programs are the same.

Two functions may compile to the same program: then any difference in their times is noise, and the table says
so. :func:`fingerprint` identifies a program by what it computes, regardless of the names and the order of its
instructions.
"""

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

COMMUTING = {"add", "multiply", "maximum", "minimum", "and", "or", "xor"}
_REFERENCE = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%([\w.\-]+) = (.*)$")
_HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) .*\{$")
_METADATA = re.compile(r", metadata=\{[^{}]*\}")
_PARAMETER = re.compile(r" parameter\((\d+)\)")
_FUSION = re.compile(r"^(\S+) fusion\((.*?)\), (.*)calls=%([\w.\-]+)(.*)$")
_COMMUTING = re.compile(rf"^(\S+ (?:{'|'.join(sorted(COMMUTING))}))\((.*?)\)(.*)$")


@dataclass(frozen=True)
class Program:
    """A compiled function.

    Attributes:
        call: the jitted function, compiled.
        trace_seconds, compile_seconds: the times taken by :func:`compiled`.
        temporaries: bytes besides arguments and results; None if the backend does not say.
        moved: bytes of arguments and results, which any program has to read and write.
        flops, bytes_accessed: as XLA counts them in the optimised program, a loop's body once.
        work: flops of the program as traced, before XLA optimised it; a loop's body once.
        same_as: its fingerprint.
        loops: whether it has a loop, whose flops XLA counts once.
    """

    call: Callable[..., Any]
    trace_seconds: float
    compile_seconds: float
    temporaries: int | None
    moved: int
    flops: float
    bytes_accessed: float
    work: float
    same_as: str
    loops: bool


def compiled(fn: Callable[..., Any], args: tuple, options: dict[str, Any] | None = None) -> Program:
    """Trace and compile ``fn`` from scratch."""
    call = jax.jit(lambda *args: fn(*args), compiler_options=options)
    started = time.perf_counter()
    lowered = call.lower(*args)
    traced = time.perf_counter()
    executable = lowered.compile()
    done = time.perf_counter()
    memory, cost, work = executable.memory_analysis(), _cost(executable), _cost(lowered)
    text = executable.as_text() or ""
    return Program(
        call,
        traced - started,
        done - traced,
        None if memory is None else int(memory.temp_size_in_bytes),
        0 if memory is None else int(memory.argument_size_in_bytes + memory.output_size_in_bytes),
        float(cost.get("flops", 0)),
        float(cost.get("bytes accessed", 0)),
        float(work.get("flops", 0)),
        fingerprint(text),
        " while(" in text,
    )


def _cost(stage: Any) -> dict[str, float]:
    """``cost_analysis`` as one dict; empty if the backend has none."""
    try:
        found = stage.cost_analysis()
    except Exception:  # a backend without one; the exception depends on it
        return {}
    return (found[0] if isinstance(found, list) else found) or {}


def fingerprint(hlo: str) -> str:
    """A digest of an optimised HLO module that does not depend on names, order of listing or source lines.

    An instruction's digest is computed from its text, with each name replaced by the digest of what it names;
    the operands of a commuting operation are sorted. The module's digest is that of the entry's result.

    >>> one = "ENTRY %a (p: f32[]) -> f32[] {\\n  %p = f32[] parameter(0)\\n  ROOT %x = f32[] add(%p, %p)\\n}"
    >>> fingerprint(one) == fingerprint(one.replace("%x", "%y")), fingerprint(one) == fingerprint(
    ...     one.replace("add", "multiply"))
    (True, False)
    """
    computations: dict[str, dict[str, str]] = {}
    roots: dict[str, str] = {}
    current: dict[str, str] = {}
    entry = name = ""
    for line in hlo.splitlines():
        if header := _HEADER.match(line):
            name, current = header[2], {}
            computations[name] = current
            entry = name if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            current[instruction[2]] = _METADATA.sub("", instruction[3])
            if instruction[1]:
                roots[name] = instruction[2]
    return _digest_of(entry, computations, roots) if entry else ""


def _digest_of(name: str, computations: dict, roots: dict, given: Sequence[str] = ()) -> str:
    """The digest of a computation, which is that of its result, from the instructions listed before it.

    ``given`` holds the digests of the values that a fusion passes to its computation, in arbitrary order.
    """
    here: dict[str, str] = {}

    def digest(reference: re.Match) -> str:
        if reference[1] in here:
            return here[reference[1]]
        return _digest_of(reference[1], computations, roots) if reference[1] in computations else "?"

    for instruction, text in computations[name].items():
        if given and (parameter := _PARAMETER.search(text)):
            here[instruction] = given[int(parameter[1])]
            continue
        if fusion := _FUSION.match(text):
            operands = [here.get(operand, "?") for operand in _REFERENCE.findall(fusion[2])]
            inside = _digest_of(fusion[4], computations, roots, operands)
            told = f"{fusion[1]} fusion {fusion[3]} {inside} {fusion[5]}"
        else:
            told = _REFERENCE.sub(digest, text)
        if found := _COMMUTING.match(told):
            told = f"{found[1]}({', '.join(sorted(found[2].split(', ')))}){found[3]}"
        here[instruction] = hashlib.sha256(told.encode()).hexdigest()[:16]
    return here.get(roots.get(name, ""), "?")
