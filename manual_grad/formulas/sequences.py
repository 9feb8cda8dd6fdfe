"""Sequences of tokens: embeddings, rotary positions, dropout, and low-rank adaptation of a layer."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from manual_grad.border import checked, require_labels_in_range, require_shape


def _rows(ids: Integer[Array, "*N"], V: int) -> Integer[Array, "*N"]:
    """The ids, and V, a row that is not there, for those out of range: −1 would be the last row."""
    ids = ids.astype(jnp.promote_types(ids.dtype, jnp.int32))
    return jnp.where((ids >= 0) & (ids < V), ids, V)


@checked
def embedding_fwd(
    ids: Integer[Array, "*N"], table: Float[Array, "V D"]
) -> tuple[Float[Array, "*N D"], tuple[Integer[Array, "*N"], Float[Array, "V D"]]]:
    """out_n = table[ids_n], a row of the table for each id. [E-09]

    Args:
        ids: (…), integers from 0 to V − 1.
        table: (V, D).
    Returns:
        ``(out, res)``: out (…, D); under ``jit`` a row of NaN for an id out of range.
    Raises:
        InputError: an id is out of range, a negative one too (eagerly), or a shape or dtype does not fit.
    Source: Bengio et al., "A Neural Probabilistic Language Model", 2003, section 2: the mapping C.

    >>> embedding_fwd(jnp.array([1, 1]), jnp.array([[1.0, 2.0], [3.0, 4.0]]))[0].tolist()
    [[3.0, 4.0], [3.0, 4.0]]
    """
    V = len(table)
    require_labels_in_range("embedding_fwd", ids, V, "ids")
    out = table.at[_rows(ids, V)].get(mode="fill", fill_value=jnp.nan)  # [E-09]
    return out, (ids, table)


@checked
def embedding_bwd(
    res: tuple[Integer[Array, "*N"], Float[Array, "V D"]], dout: Float[Array, "*N D"]
) -> tuple[Float[Array, "V D"]]:
    """Pull ``dout`` back to the table. [E-09]

        dtable_v = Σ_{n: ids_n = v} dout_n

    A row that is looked up twice gets both cotangents, one that is not looked up gets 0. The sums are in
    float32 at least: 4096 times 1 in bfloat16 would stay at 256.

    Args:
        res: from the forward pass.
        dout: cotangent of out, (…, D).
    Returns:
        ``(dtable,)``, (V, D); the ids have none. What stands at an id out of range is added nowhere.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has another shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> _, res = embedding_fwd(jnp.array([1, 1]), jnp.zeros((3, 1)))
    >>> embedding_bwd(res, jnp.array([[2.0], [5.0]]))[0].tolist()
    [[0.0], [7.0], [0.0]]
    """
    ids, table = res
    require_shape("embedding_bwd", "dout", dout, (*ids.shape, table.shape[1]))
    wide = jnp.promote_types(table.dtype, jnp.float32)
    at = _rows(ids, len(table))
    dtable = jnp.zeros_like(table, wide).at[at].add(dout.astype(wide), mode="drop")  # [E-09]
    return (dtable.astype(table.dtype),)
