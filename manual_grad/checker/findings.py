"""The result of a check: a finding for each array of the gradient, and the report that holds them."""

import math
from dataclasses import dataclass

SHOWN = 8  # arrays and notes that a report prints, so that it fits on a screen; the others are counted


@dataclass(frozen=True)
class Finding:
    """The result for one leaf of one argument.

    Attributes:
        argument: the argument's position.
        name: the parameter's name and the path of the leaf in it, such as ``params[0]['W']``.
        ok: whether its gradient is right at every point.
        diagnosis: why it is wrong, in a phrase; empty if it is right.
        max_error: the largest relative error, max |got − expected| / max |expected|; infinite if the shape
            is wrong or nothing was returned, NaN if there was nothing to compare it with.
        edit: a change of the user's code that makes it right; empty if none was found.
        where: index, got and expected at the worst error; None if the leaf is right or its shape wrong.
    """

    argument: int
    name: str
    ok: bool
    diagnosis: str = ""
    max_error: float = 0.0
    where: tuple[tuple[int, ...], float, float] | None = None
    edit: str = ""

    @property
    def told(self) -> bool:
        """Whether there was anything to compare it with."""
        return not math.isnan(self.max_error)

    @property
    def said(self) -> str:
        """The diagnosis, and on a line of its own the edit, if it is not a part of that."""
        apart = self.edit and self.edit not in self.diagnosis
        return f"{self.diagnosis}\n{self.edit}" if apart else self.diagnosis

    def __str__(self) -> str:
        if self.ok:
            return f"{self.name}: right, relative error {self.max_error:.1e}"
        line = f"{self.name}: {'WRONG' if self.told else 'NOT CHECKED'}, {self.said}".replace("\n", "\n    ")
        if self.where is None:
            return line
        index, got, expected = self.where
        at = f"at [{','.join(map(str, index))}] " if index else ""
        return f"{line}\n    relative error {self.max_error:.2g}: {at}got {got:.6g}, expected {expected:.6g}"


@dataclass(frozen=True)
class Report:
    """The result of a check; true if every gradient is right.

    Attributes:
        findings: one for each floating-point leaf of each differentiable argument.
        notes: caveats: kinks, sizes that make two mistakes indistinguishable, arguments that a call has
            modified.
        points: the number of different points.
        seed: the seed they were drawn with.
        truth: what the gradients were compared with.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    points: int = 1
    seed: int = 0
    truth: str = "jax.vjp"

    @property
    def ok(self) -> bool:
        """Whether every leaf is right."""
        return all(finding.ok for finding in self.findings)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        wrong = sum(not finding.ok and finding.told for finding in self.findings)
        unknown = sum(not finding.told for finding in self.findings)
        n = len(self.findings)
        said = [f"{wrong} of {n} wrong"] * bool(wrong) + [f"{unknown} of {n} not checked"] * bool(unknown)
        verdict = ", ".join(said) or f"all {n} right"
        at = f"{self.points} point{'s' if self.points > 1 else ''}"
        head = f"gradients compared with {self.truth} in float64: {verdict} ({at}, seed {self.seed})"
        worst = sorted(self.findings, key=lambda finding: finding.ok)  # the wrong ones are shown first
        shown = {id(finding) for finding in (self.findings if n <= SHOWN else worst[:SHOWN])}
        lines = [f"  {finding}" for finding in self.findings if id(finding) in shown]
        hidden = [finding for finding in self.findings if id(finding) not in shown]
        for what, more in (
            ("right", [f for f in hidden if f.ok]),
            ("not right", [f for f in hidden if not f.ok]),
        ):
            lines += [f"  … and {len(more)} more that are {what}"] * bool(more)
        lines += [f"  note: {note}" for note in self.notes[:SHOWN]]
        lines += [f"  … and {len(self.notes) - SHOWN} more notes"] * (len(self.notes) > SHOWN)
        return "\n".join([head, *lines])
