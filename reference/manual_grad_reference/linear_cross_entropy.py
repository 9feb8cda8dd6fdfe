"""A linear layer and its softmax cross-entropy over a large vocabulary, with all N × V logits in memory."""

from jaxtyping import Array, Float, Int

from manual_grad_reference.softmax import softmax_cross_entropy_with_integer_labels


def linear_cross_entropy(
    hidden: Float[Array, "N D"],
    W: Float[Array, "D V"],
    labels: Int[Array, " N"],
    ignore_index: int | None = None,
) -> Float[Array, ""]:
    """[B-09] [B-13] [E-27] J = −(1/N) Σ_i log softmax(h_i W)_{y_i} over labels not ignored: scalar."""
    return softmax_cross_entropy_with_integer_labels(hidden @ W, labels, ignore_index)  # [B-09] [B-13] [E-27]
