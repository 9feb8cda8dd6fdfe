"""Mistakes in probabilities: classes in chunks, a router's gates, and sequences with padded steps."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.checker.causes import by, named_first, right, softmax

RNG = np.random.default_rng(29)
H, W, LABELS = RNG.standard_normal((5, 3)), 1.5 * RNG.standard_normal((3, 10)), np.array([9, 3, 7, 0, 5])
CHUNKS = [slice(k, k + 4) for k in range(0, 10, 4)]
Z, OUT = RNG.standard_normal((7, 4)), RNG.standard_normal((7, 4))
CHOSEN = np.array([[0, 2], [1, 3], [2, 3], [0, 1], [2, 0], [3, 2], [2, 1]])
MASK = np.arange(5) < np.array([5, 3, 4])[:, None]
EMISSIONS, TRANSITIONS = RNG.standard_normal((3, 5, 4)), RNG.standard_normal((4, 4))
TAGS = np.array([[0, 1, 2, 1, 0], [2, 0, 1, 3, 0], [1, 1, 3, 2, 3]])


# --- classes in chunks ------------------------------------------------------------------------------------


def entropy(h, W, y):
    z = h @ W
    return jnp.mean(jax.nn.logsumexp(z, -1) - jnp.take_along_axis(z, y[:, None], 1)[:, 0])


def in_chunks(h, W, y):
    """The same with a running maximum and sum."""
    z, most, total = h @ W, jnp.full(5, -jnp.inf), jnp.zeros(5)
    for c in CHUNKS:
        new = jnp.maximum(most, z[:, c].max(-1))
        total = total * jnp.exp(most - new) + jnp.exp(z[:, c] - new[:, None]).sum(-1)
        most = new
    return jnp.mean(jnp.log(total) + most - z[jnp.arange(5), y])


def largest(z):
    return z.max(-1, keepdims=True)


def entropy_bwd(p_of=softmax, labels=lambda y: y):
    def bwd(d, h, W, y):
        g = d * (p_of(h @ W) - labels(np.eye(10)[y])) / len(h)
        return g @ W.T, h.T @ g, None

    return bwd


def by_chunks(exponentials, total):
    """Exponentials over a sum, both of (logits, chunk)."""

    def p_of(z):
        e = np.concatenate([exponentials(z, c) for c in CHUNKS], -1)
        return e / total(z)

    return p_of


def common_sum(z):
    return np.exp(z - largest(z)).sum(-1, keepdims=True)


def own(z, c):
    return np.exp(z[:, c] - largest(z[:, c]))


def common(z, c):
    return np.exp(z[:, c] - largest(z))


def added(z):
    return sum(own(z, c).sum(-1, keepdims=True) for c in CHUNKS)


def running(z):
    return sum(np.exp(z[:, c] - largest(z[:, : c.stop])).sum(-1, keepdims=True) for c in CHUNKS)


def inside(y):
    moved = np.zeros_like(y)
    moved[np.arange(5), y.argmax(1) % 4] = 1
    return moved


P_OF = {
    "the maximum of each chunk": (
        "the exponentials of chunks of 4 classes are those of each chunk's own maximum",
        entropy_bwd(by_chunks(own, common_sum)),
    ),
    "sums of each maximum": (
        "the sums of chunks of 4 classes are added up not rescaled to the common maximum",
        entropy_bwd(by_chunks(common, added)),
    ),
    "sums of the maximum so far": (
        "the sums of chunks of",
        entropy_bwd(by_chunks(common, running)),
    ),
    "the sum of each chunk": (
        "each of the chunks of 4 classes is normalised by its own sum",
        entropy_bwd(lambda z: np.concatenate([softmax(z[:, c]) for c in CHUNKS], -1)),
    ),
    "the sum so far": (
        "the log-sum-exp of the chunks of 4 classes so far is used",
        entropy_bwd(lambda z: np.concatenate([softmax(z[:, : c.stop])[:, c] for c in CHUNKS], -1)),
    ),
    "the last chunk's sum": (
        "the sum of the last chunk (the last 2 classes) is used",
        entropy_bwd(by_chunks(common, lambda z: common(z, CHUNKS[-1]).sum(-1, keepdims=True))),
    ),
    "labels inside a chunk": ("the label is the index inside the chunks of 4", entropy_bwd(labels=inside)),
    "labels of the last chunk": (
        "the labels outside the last chunk (the last 2 classes) are lost",
        entropy_bwd(labels=lambda y: y * (np.arange(10) >= 8)),
    ),
}


# --- a router ---------------------------------------------------------------------------------------------


def routed(z, x, chosen):
    """Renormalised gates, a loss for the balance of the load and one for the log-sum-exp."""
    p = jax.nn.softmax(z)
    kept = p * jax.nn.one_hot(chosen, 4).sum(1)
    gate = kept / kept.sum(-1, keepdims=True)
    load = 4 * jnp.sum(jax.nn.one_hot(chosen, 4).sum(1).mean(0) * p.mean(0))
    return jnp.sum(gate * x) + 0.4 * load + 0.2 * jnp.mean(jax.nn.logsumexp(z, -1) ** 2)


def jacobian(p, d):
    return p * (d - (p * d).sum(-1, keepdims=True))


def routed_bwd(of_load="p", of_gates="p", of_sum="p", renormalised=True):
    def bwd(d, z, x, chosen):
        p, kept = softmax(z), np.eye(4)[chosen].sum(1)
        total = (p * kept).sum(-1, keepdims=True)
        with_name = {"p": p, "gate": p * kept / total}
        gate = with_name["gate"]
        of_gate = kept * ((x - (x * gate).sum(-1, keepdims=True)) / total if renormalised else x)
        load = np.tile(0.4 * 4 * kept.mean(0) / 7, (7, 1))
        over = np.log(np.exp(z).sum(-1, keepdims=True))
        dz = jacobian(with_name[of_gates], of_gate) + jacobian(with_name[of_load], load)
        return d * (dz + 0.4 / 7 * over * with_name[of_sum]), d * gate, None

    return bwd


# --- padded steps -----------------------------------------------------------------------------------------


def field(emissions, transitions, tags, mask):
    """A conditional random field."""
    alpha = emissions[:, 0]
    for t in range(1, 5):
        new = jax.nn.logsumexp(alpha[:, :, None] + transitions, axis=1) + emissions[:, t]
        alpha = jnp.where(mask[:, t, None], new, alpha)
    one_hot = jax.nn.one_hot(tags, 4) * mask[..., None]
    score = jnp.sum(emissions * one_hot, (1, 2))
    score += jnp.einsum("bti,ij,btj->b", one_hot[:, :-1], transitions, one_hot[:, 1:])
    return jnp.mean(jax.nn.logsumexp(alpha, axis=1) - score)


def scanned_field(emissions, transitions, tags, mask):
    def step(alpha, inputs):
        new = jax.nn.logsumexp(alpha[:, :, None] + transitions + inputs[0][:, None], axis=1)
        return jnp.where(inputs[1][:, None], new, alpha), None

    alpha, _ = lax.scan(step, emissions[:, 0], (jnp.moveaxis(emissions, 1, 0)[1:], mask.T[1:]))
    one_hot = jax.nn.one_hot(tags, 4) * mask[..., None]
    score = jnp.sum(emissions * one_hot, (1, 2))
    score += jnp.einsum("bti,ij,btj->b", one_hot[:, :-1], transitions, one_hot[:, 1:])
    return jnp.mean(jax.nn.logsumexp(alpha, axis=1) - score)


def log_sum(z, axis):
    return np.log(np.exp(z).sum(axis))


def field_bwd(of_sum=True, of_transitions=True):
    """Where sequences end in the normaliser and in the transitions' score."""

    def bwd(d, emissions, transitions, tags, mask):
        de, dt = np.zeros_like(emissions), np.zeros_like(transitions)
        for b, x in enumerate(emissions):
            n = int(mask[b].sum())
            end = n if of_sum else 5
            ahead, back = [x[0]], [np.zeros(4)]
            for t in range(1, end):
                ahead.append(log_sum(ahead[-1][:, None] + transitions, 0) + x[t])
                back.insert(0, log_sum(transitions + x[end - t] + back[0], 1))
            total = log_sum(ahead[-1], 0)
            de[b, :end] = np.exp(np.array(ahead) + back - total)
            de[b, np.arange(n), tags[b, :n]] -= 1
            for t in range(1, end):
                dt += np.exp(ahead[t - 1][:, None] + transitions + x[t] + back[t] - total)
            for t in range(1, n if of_transitions else 5):
                dt[tags[b, t - 1], tags[b, t]] -= 1
        return d * de / 3, d * dt / 3, None, None

    return bwd


def smoothed(z, y, mask):
    """A cross-entropy of valid steps, and the mean difference of those that follow each other."""
    entropies = -jnp.sum(jax.nn.log_softmax(z) * y, -1)
    steps = jnp.sum((z[:, 1:] - z[:, :-1]) ** 2, -1)
    both = mask[:, 1:]
    return jnp.sum(entropies * mask) / jnp.sum(mask) + 0.3 * jnp.sum(steps * both) / jnp.sum(both)


def smoothed_bwd(count=9):
    def bwd(d, z, y, mask):
        g = (softmax(z) - y) * mask[..., None] / mask.sum()
        step = 0.6 * (z[:, 1:] - z[:, :-1]) * mask[:, 1:, None] / count
        g[:, 1:] += step
        g[:, :-1] -= step
        return d * g, None, None

    return bwd


def with_two_losses(z, t, y):
    """A cross-entropy, a divergence at another temperature, and a penalty of the log-sum-exp."""
    over = jax.nn.logsumexp(z, -1)
    entropy = over - jnp.sum(z * y, -1)
    known = jax.nn.softmax(t / 2.5)
    told = jnp.sum(known * jax.nn.log_softmax(z / 2.5), -1)
    return jnp.mean(0.3 * entropy - told + 0.05 * over**2)


def with_two_losses_bwd(penalty=lambda p, y: p, entropy=lambda z: softmax(z)):
    def bwd(d, z, t, y):
        p, known, over = softmax(z), softmax(t / 2.5), np.log(np.exp(z).sum(-1, keepdims=True))
        g = 0.3 * (entropy(z) - y) + (softmax(z / 2.5) - known) / 2.5 + 0.1 * over * penalty(p, y)
        logs = np.log(softmax(z / 2.5))
        return d * g / 7, -d * jacobian(known, logs) / 2.5 / 7, None

    return bwd


FIELD, ROUTED = (EMISSIONS, TRANSITIONS, TAGS, MASK), (Z, OUT, CHOSEN)
RIGHT = {
    "entropy": (entropy, entropy_bwd(), (H, W, LABELS)),
    "in chunks": (in_chunks, entropy_bwd(), (H, W, LABELS)),
    "routed": (routed, routed_bwd(), ROUTED),
    "two losses": (with_two_losses, with_two_losses_bwd(), (Z, OUT, np.eye(4, dtype=int)[CHOSEN[:, 0]])),
    "field": (field, field_bwd(), FIELD),
    "scanned field": (scanned_field, field_bwd(), FIELD),
    "smoothed": (smoothed, smoothed_bwd(), (EMISSIONS, np.eye(4, dtype=int)[TAGS], MASK)),
}


def mistaken(case, bwd):
    fn, _, args = RIGHT[case]
    return by(fn, bwd, *args)


IN_PLACE = "gate in place of the probabilities in the"
CASES = {f"{name}, {case}": (said, mistaken(case, bwd)) for name, (said, bwd) in P_OF.items()
         for case in ("entropy", "in chunks")}  # fmt: skip
CASES |= {
    "gates in the load": (
        f"{IN_PLACE} gradient of the softmax of z, in what it gets through the sum",
        mistaken("routed", routed_bwd(of_load="gate")),
    ),
    "gates in all": (
        f"{IN_PLACE} gradient of the softmax of z",
        mistaken("routed", routed_bwd(of_load="gate", of_gates="gate")),
    ),
    "gates in the log-sum-exp": (
        f"{IN_PLACE} derivative of the log-sum-exp",
        mistaken("routed", routed_bwd(of_sum="gate")),
    ),
    "not renormalised": (
        "the derivative of kept over its sum is left out",
        mistaken("routed", routed_bwd(renormalised=False)),
    ),
}
OF_SUM = "in the derivative of the log-sum-exp of z, in what it gets through"
CASES |= {
    "a penalty without p": (
        f"the probabilities are missing {OF_SUM}",
        mistaken("two losses", with_two_losses_bwd(lambda p, y: 1)),
    ),
    "a penalty with p − y": (
        f"p − y in place of p {OF_SUM}",
        mistaken("two losses", with_two_losses_bwd(lambda p, y: p - y)),
    ),
    "another temperature in one term": (
        f"exp of `jax.nn.log_softmax(z / 2.5)` in place of the probabilities {OF_SUM}",
        mistaken("two losses", with_two_losses_bwd(entropy=lambda z: softmax(z / 2.5))),
    ),
}
for case in ("field", "scanned field"):
    CASES |= {
        f"padded steps in the normaliser, {case}": (
            "the mask is left out in all 4 steps where new is recomputed",
            mistaken(case, field_bwd(of_sum=False)),
        ),
        f"padded steps in the score, {case}": (
            "the mask of the one-hot labels is left out in the backward pass",
            mistaken(case, field_bwd(of_transitions=False)),
        ),
    }
CASES["the number of all steps"] = (
    "divided by 12, the number of all entries of mask, instead of the sum of mask (9)",
    mistaken("smoothed", smoothed_bwd(12)),
)
test_the_true_cause_is_named_first = named_first(CASES)


test_the_right_gradients_pass = right(RIGHT)
