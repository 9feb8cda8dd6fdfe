"""Hand-derived backpropagation: every formula of four lectures as a pure function, verified against JAX.

Each ``f_fwd(*primals)`` returns ``(out, res)`` and each ``f_bwd(res, dout)`` one cotangent for each
floating-point primal; ``jac_f_x`` is an explicit Jacobian. The names are in :mod:`manual_grad.public`,
which is imported, together with JAX, when the first of them is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manual_grad.public import *  # noqa: F403
    from manual_grad.public import __all__ as __all__


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    public = importlib.import_module("manual_grad.public")
    found = {each: getattr(public, each) for each in public.__all__}
    globals().update(found, __all__=public.__all__)
    try:
        return globals()[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
