"""The chain rule: Jacobians, and what it means to multiply them. Lectures A, B and C.

A Jacobian of f at x has the shape ``out.shape + in.shape``. Flattened to a matrix (outputs × inputs) it
multiplies like one; :func:`chain` does that without flattening. Elementwise functions have a diagonal
Jacobian, which :func:`diagonal` writes out.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from manual_grad.border import InputError, Scalar, checked, describe, require


@checked
def chain(
    outer: Float[Array, "..."], inner: Float[Array, "..."], mid: tuple[int, ...]
) -> Float[Array, "..."]:
    r"""Multiply two Jacobians, ∂f/∂g of shape (out, mid) by ∂g/∂x of shape (mid, in).

        [B-01]  ∂J/∂θ_i = Σ_j ∂J/∂g_j ∂g_j/∂θ_i

    Args:
        outer: ∂f/∂g, shape ``out + mid``.
        inner: ∂g/∂x, shape ``mid + in``.
        mid: the shape of g.
    Returns:
        ∂f/∂x, shape ``out + in``.
    Raises:
        InputError: ``outer`` does not end, or ``inner`` does not begin, with the shape ``mid``.
    Source: Lecture B, page 1.

    >>> chain(jnp.array([1.0, 10.0]), jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), mid=(2,)).tolist()
    [41.0, 52.0, 63.0]
    """
    n = len(mid)
    require(
        outer.shape[outer.ndim - n :] == mid,
        f"chain: outer is {describe(outer)}, expected a shape that ends with {mid}",
    )
    require(
        inner.shape[:n] == mid, f"chain: inner is {describe(inner)}, expected a shape that begins with {mid}"
    )
    return jnp.tensordot(outer, inner, axes=n)  # [B-01]


@checked
def diagonal(d: Float[Array, "..."]) -> Float[Array, "..."]:
    """The Jacobian of an elementwise function whose derivative is ``d``, shape ``d.shape + d.shape``.

    Args:
        d: the derivative of each element, any shape.
    Returns:
        The Jacobian; as a matrix it is diag(vec d).
    Raises:
        InputError: ``d`` is not a floating-point array or is empty.
    Source: Lecture A, "The MOST important thing": ∂J⃗0/∂ŷ is the first of its kind.

    >>> diagonal(jnp.array([1.0, 2.0])).tolist()
    [[1.0, 0.0], [0.0, 2.0]]
    """
    return jnp.diag(d.ravel()).reshape(d.shape * 2)


@checked
def block_diagonal(blocks: Float[Array, "*N D E"]) -> Float[Array, "..."]:
    """The Jacobian of a function that acts on each sample separately, from the samples' own Jacobians.

    Args:
        blocks: (…, D, E).
    Returns:
        (…, D, …, E).
    Raises:
        InputError: ``blocks`` is not a floating-point array with at least two axes, or is empty.
    Source: Lecture A, "The MOST important thing": ∂ŷ/∂l of a batch is the first of its kind.

    >>> block_diagonal(jnp.array([[[1.0]], [[2.0]]])).reshape(2, 2).tolist()
    [[1.0, 0.0], [0.0, 2.0]]
    """
    *samples, D, E = blocks.shape
    blocks = blocks.reshape(-1, D, 1, E)
    same = jnp.eye(len(blocks), dtype=bool)[:, None, :, None]
    return jnp.where(same, blocks, 0).reshape(*samples, D, *samples, E)


@checked
def jac_square_x(x: Scalar) -> Float[Array, ""]:
    """∂f/∂x of the scalar f(x) = x² with respect to a scalar x: 1×1, of shape (). [A-01]

    Args:
        x: scalar.
    Returns:
        2x, scalar.
    Raises:
        InputError: ``x`` is not a scalar.
    Source: Lecture A, "Jacobian Matrices", top left.

    >>> float(jac_square_x(3.0))
    6.0
    """
    return jnp.asarray(2.0 * x)


@checked
def jac_sum_of_squares_x(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """∂f/∂x⃗ of the scalar f(x⃗) = Σ x_i² with respect to a vector: 1×n, of shape (n,). [A-01]

    Args:
        x: (n,).
    Returns:
        2x⃗ᵀ, (n,).
    Raises:
        InputError: ``x`` is not a floating-point vector.
    Source: Lecture A, "Jacobian Matrices", top right.

    >>> jac_sum_of_squares_x(jnp.array([1.0, 2.0])).tolist()
    [2.0, 4.0]
    """
    return 2 * x


@checked
def jac_powers_x(x: Scalar, m: int) -> Float[Array, " m"]:
    """∂f⃗/∂x of the vector f⃗(x) = (x, x², …, x^m) with respect to a scalar: m×1, shape (m,). [A-01]

    Args:
        x: scalar.
        m: the number of powers.
    Returns:
        (1, 2x, …, m x^{m−1}), (m,).
    Raises:
        InputError: ``x`` is not a scalar, or ``m`` is less than 1.
    Source: Lecture A, "Jacobian Matrices", bottom left.

    >>> jac_powers_x(2.0, 4).tolist()
    [1.0, 4.0, 12.0, 32.0]
    """
    require(m >= 1, f"jac_powers_x: m is {describe(m)}, expected at least 1")
    require(m <= 10_000, f"jac_powers_x: m is {describe(m)}, expected at most 10000")
    x = jnp.asarray(1.0 * x)  # an int becomes a float
    return jnp.stack([k * x ** (k - 1) for k in range(1, m + 1)])


@checked
def jac_linear_map_x(M: Float[Array, "m n"], x: Float[Array, " n"]) -> Float[Array, "m n"]:
    """∂f⃗/∂x⃗ of the vector f⃗(x⃗) = M x⃗ with respect to a vector: m×n. [A-01]

    Args:
        M: (m, n).
        x: (n,), on which the Jacobian does not depend.
    Returns:
        M, (m, n).
    Raises:
        InputError: the shapes do not match.
    Source: Lecture A, "Jacobian Matrices", bottom right.

    >>> jac_linear_map_x(jnp.array([[1.0, 2.0, 3.0]]), jnp.ones(3)).tolist()
    [[1.0, 2.0, 3.0]]
    """
    return M


@checked
def jac_quadratic_map_theta(
    A: Float[Array, "k p"], B: Float[Array, "k p p"], theta: Float[Array, " p"]
) -> Float[Array, "k p"]:
    """∂g/∂θ of g_j(θ) = Σ_i A_ji θ_i + Σ_il B_jil θ_i θ_l, any map up to second order. [B-01]

    Args:
        A: linear part, (k, p).
        B: quadratic part, (k, p, p), not assumed symmetric.
        theta: (p,).
    Returns:
        A + (B + Bᵀ)θ, (k, p).
    Raises:
        InputError: the shapes do not match.
    Source: Lecture B, page 1, where J and g are any functions.

    >>> jac_quadratic_map_theta(jnp.zeros((1, 1)), jnp.ones((1, 1, 1)), jnp.array([3.0])).tolist()
    [[6.0]]
    """
    return A + (B + B.swapaxes(1, 2)) @ theta  # [B-01]


@checked
def jac_chain_theta(
    C: Float[Array, "1 k"],
    D: Float[Array, "1 k k"],
    A: Float[Array, "k p"],
    B: Float[Array, "k p p"],
    theta: Float[Array, " p"],
) -> Float[Array, "1 p"]:
    """∂J/∂θ of J(g(θ)) with J and g quadratic maps, as the product of their two Jacobians. [B-01]

    Args:
        C, D: J's linear and quadratic parts, (1, k) and (1, k, k).
        A, B: g's linear and quadratic parts, (k, p) and (k, p, p).
        theta: (p,).
    Returns:
        (1, p).
    Raises:
        InputError: the shapes do not match.
    Source: Lecture B, page 1.

    >>> one = jnp.ones((1, 1))
    >>> jac_chain_theta(one, 0 * one[None], 2 * one, 0 * one[None], jnp.ones(1)).tolist()
    [[2.0]]
    """
    g = A @ theta + (B @ theta) @ theta
    dJ_dg = jac_quadratic_map_theta(C, D, g)
    dg_dtheta = jac_quadratic_map_theta(A, B, theta)
    return chain(dJ_dg, dg_dtheta, mid=g.shape)  # [B-01]


@checked
def product_of_sum_fwd(x: Scalar, y: Scalar, z: Scalar) -> tuple[Float[Array, ""], tuple[Scalar, Scalar]]:
    """f = (x + y) z, with q = x + y. [C-01]

    Args:
        x, y, z: scalars; the lecture takes (−2, 5, −4).
    Returns:
        ``(f, res)``: f scalar.
    Raises:
        InputError: one of them is not a scalar.
    Source: Lecture C, "Chain Rule".

    >>> float(product_of_sum_fwd(-2.0, 5.0, -4.0)[0])
    -12.0
    """
    x, y, z = (jnp.asarray(1.0 * v) for v in (x, y, z))  # an int becomes a float
    q = x + y
    f = q * z  # [C-01]
    return f, (q, z)


@checked
def product_of_sum_bwd(res: tuple[Scalar, Scalar], df: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """Pull ``df`` back through f = (x + y) z. [C-01]

        ∂f/∂q = z, ∂f/∂z = q, ∂q/∂x = ∂q/∂y = 1

    Args:
        res: ``(q, z)`` from the forward pass.
        df: cotangent of f.
    Returns:
        ``(dx, dy, dz)``, scalars.
    Raises:
        InputError: one of them is not a scalar.
    Source: Lecture C, "Chain Rule".

    >>> [float(d) for d in product_of_sum_bwd(product_of_sum_fwd(-2.0, 5.0, -4.0)[1], 1.0)]
    [-4.0, -4.0, 3.0]
    """
    q, z = res
    dq = df * z  # [C-01]
    dz = df * q  # [C-01]
    return dq, dq, dz


@checked
def multiply_out(
    jacobians: Sequence[Float[Array, "..."]], mids: Sequence[tuple[int, ...]]
) -> Float[Array, "..."]:
    """Multiply a chain of Jacobians, outermost first: ∂f/∂g₁ · ∂g₁/∂g₂ · … · ∂g_k/∂x.

    Args:
        jacobians: at least one; each shares a shape with the next.
        mids: the shapes of g₁ … g_k, one fewer than ``jacobians``.
    Returns:
        ∂f/∂x.
    Raises:
        InputError: there is not one shape fewer than there are Jacobians, neighbours do not match, or a
            dtype is wrong.
    Source: Lecture A, "The MOST important thing": every gradient there is such a product.

    >>> J = multiply_out([jnp.ones(2), jnp.eye(2), jnp.array([[3.0], [4.0]])], [(2,), (2,)])
    >>> J.tolist()
    [7.0]
    """
    if not jacobians or len(mids) != len(jacobians) - 1:
        raise InputError(
            f"multiply_out: {len(jacobians)} jacobians and {len(mids)} mids, expected one fewer mid"
        )
    product = jacobians[0]
    for jacobian, mid in zip(jacobians[1:], mids, strict=True):
        product = chain(product, jacobian, mid)
    return product


@checked
def as_matrix(jacobian: Float[Array, "..."], out_ndim: int) -> Float[Array, "outputs inputs"]:
    """A Jacobian of shape ``out + in`` as the matrix (outputs × inputs), entries row by row.

    Args:
        jacobian: shape ``out + in``.
        out_ndim: the rank of ``out``.
    Returns:
        (out.size, in.size).
    Raises:
        InputError: ``out_ndim`` is larger than the Jacobian's rank, or that is not a floating-point array.
    Source: the layout of ∂f⃗/∂x⃗ in Lecture A, "Jacobian Matrices".

    >>> as_matrix(jnp.ones((2, 3, 4, 5)), 2).shape
    (6, 20)
    """
    require(
        0 <= out_ndim <= jacobian.ndim, f"as_matrix: out_ndim is {out_ndim}, expected 0 to {jacobian.ndim}"
    )
    return jacobian.reshape(math.prod(jacobian.shape[:out_ndim]), -1)
