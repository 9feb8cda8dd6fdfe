"""The formulas with golden vectors: every entry of the catalogue, pairs first."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax

from manual_grad import catalogue, public
from manual_grad.border import InputError
from manual_grad.catalogue.draw import Draw

Kind = Literal["pair", "jacobian", "value"]
CASES = ("random", "ties", "extreme")
KINDS: tuple[Kind, ...] = ("pair", "jacobian", "value")


@dataclass(frozen=True)
class Exported:
    """A catalogue entry, as seen by golden vectors.

    Attributes:
        entry: the entry.
    """

    entry: catalogue.Formula | catalogue.Function

    @property
    def name(self) -> str:
        """Its name for users: for a pair, without ``_fwd`` and ``_bwd``."""
        return self.entry.name

    @property
    def kind(self) -> Kind:
        """The kind of truth.

        For a ``pair``, out and the cotangent of each floating-point input; for a ``jacobian``, the forward
        function's Jacobian with respect to each of ``wrt``; for a ``value``, only the function's result.
        """
        if isinstance(self.entry, catalogue.Formula):
            return "pair"
        return "jacobian" if self.wrt else "value"

    @property
    def wrt(self) -> tuple[str, ...]:
        """The inputs with respect to which a Jacobian is taken."""
        if isinstance(self.entry, catalogue.Formula) or self.entry.part:
            return ()
        return self.entry.wrt

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        """Name → sizes and settings, except variants that affect only the computation and not the truth."""
        known = inspect.signature(self._reference(False)).parameters
        own = inspect.signature(self.functions[0]).parameters
        among = self.entry.golden.variants
        return {
            name: dict(variant)
            for name, variant in (self.entry.variants or {"": {}}).items()
            if (name in among or not among) and all(key in known for key in variant if key in own)
        }

    @property
    def cases(self) -> list[str]:
        """The available cases."""
        return [case for case in CASES if getattr(self.entry.golden, case)]

    def cases_of(self, variant: str) -> list[str]:
        """The cases of a variant: only variants with ReLU have ties at 0."""
        kink = self.variants[variant].get("activation", "relu") == "relu"
        return [case for case in self.cases if kink or case != "ties"]

    def inputs(self, draw: Draw, case: str, variant: str) -> dict[str, Any]:
        """Inputs and settings by name."""
        random = self.entry.inputs(draw, variant)
        return random if case == "random" else getattr(self.entry.golden, case).inputs(draw, random)

    def forward_in(self, case: str) -> Callable[..., Any]:
        """The function to differentiate in a case or, for a value, to evaluate."""
        plain = self._reference(case == "extreme")
        if isinstance(self.entry, catalogue.Formula) or not self.entry.part:
            return plain
        (wrt,), part = self.entry.wrt, self.entry.part

        def compact(**inputs: Any) -> Any:
            return part(jax.jacrev(lambda at: plain(**{**inputs, wrt: at}))(inputs[wrt]))

        return compact

    def _reference(self, extreme: bool) -> Callable[..., Any]:
        plain = (self.entry.stable if extreme else None) or self.entry.reference
        assert plain is not None
        return plain

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The public functions."""
        if isinstance(self.entry, catalogue.Formula):
            return self.entry.fwd, self.entry.bwd
        return (self.entry.fn,)

    @property
    def explained(self) -> str:
        """The docstrings of the public functions: the equation, shapes, layout."""
        return "\n\n".join(f"{f.__name__}\n\n{_without_examples(f)}" for f in self.functions)

    def inputs_said(self, case: str) -> str:
        """How the inputs were drawn."""
        return self.entry.golden.says(case)

    def origin(self, case: str) -> str:
        """The module of the plain forward function."""
        return self.forward_in(case).__module__

    @property
    def tags(self) -> list[str]:
        """The equations of the lectures that it computes."""
        found = re.findall(r"\[([A-Z])-(\d\d)\](?: … \[[A-Z]-(\d\d)\])?", self.explained)
        spans = [(letter, range(int(first), int(last or first) + 1)) for letter, first, last in found]
        return sorted({f"{letter}-{n:02}" for letter, numbers in spans for n in numbers})


@dataclass(frozen=True)
class Own:
    """A user's own function, exported like a pair of the catalogue.

    Attributes:
        name: the user's name for it, such as ``mine.py:loss``.
        fn: the function; None if it is not available and so cannot be evaluated.
        wrt: the inputs to differentiate with respect to; if empty, all floating-point ones.
        drawn: how the inputs were drawn, in the user's terms.
    """

    name: str
    fn: Callable[..., Any] | None
    wrt: tuple[str, ...] = ()
    drawn: str = ""
    kind: Kind = "pair"

    @property
    def tags(self) -> list[str]:
        """No equations of the lectures."""
        return []

    def inputs_said(self, case: str) -> str:
        """How the inputs were drawn."""
        return self.drawn

    def origin(self, case: str) -> str:
        """The file or module of the function."""
        return self.name

    def forward_in(self, case: str) -> Callable[..., Any]:
        """The function, given its arguments by name."""

        def forward(**inputs: Any) -> Any:
            if self.fn is None:
                raise InputError(f"{self.name} is not available")
            return self.fn(*inputs.values())

        return forward

    @property
    def explained(self) -> str:
        """Its source."""
        try:
            return inspect.getsource(self.fn).rstrip() if self.fn else self.name
        except (OSError, TypeError):
            return inspect.getdoc(self.fn) or self.name


def _without_examples(fn: Callable[..., Any]) -> str:
    """A docstring as plain text, without the doctest and the exceptions."""
    text = (inspect.getdoc(fn) or "").partition(">>>")[0]
    if "Args:" not in text:  # a kernel, which names its page
        pages = [
            getattr(public, name) for name in re.findall(r":func:`(\w+)`", text) if hasattr(public, name)
        ]
        text += "".join(
            f"\n{page.__name__}\n\n{_without_examples(page)}\n" for page in pages if _explains(page)
        )
    text = re.sub(r"^Raises:\n(?:    .*\n)+", "", text, flags=re.MULTILINE)
    return re.sub(r":\w+:`(.*?)`", r"\1", text).replace("``", "").strip()


def _explains(fn: Callable[..., Any]) -> bool:
    return "Args:" in (inspect.getdoc(fn) or "")


ENTRIES = [
    Exported(entry) for entries in (catalogue.FORMULAS, catalogue.FUNCTIONS) for entry in entries.values()
]
FORMULAS = {e.name: e for e in sorted(ENTRIES, key=lambda e: KINDS.index(e.kind))}
