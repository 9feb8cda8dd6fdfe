"""Mistakes in the gradient of attention: other rows, heads or blocks, the wrong order, a step left out."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.checker.causes import by, named_first, right, softmax

RNG = np.random.default_rng(17)
CAP, SCALE, INFINITE = 2.0, 0.6, -1e30
Q, K, V = RNG.standard_normal((7, 3)), RNG.standard_normal((9, 3)), RNG.standard_normal((9, 2))
HEADS = RNG.standard_normal((2, 6, 5, 3)), *(RNG.standard_normal((2, 2, 5, n)) for n in (3, 4))
LONG = tuple(RNG.standard_normal((8, n)) for n in (3, 3, 2))


def band(w=4, offset=2):
    i, j = np.arange(7)[:, None] + offset, np.arange(9)[None]
    return (j <= i) & (i - j < w)


def capped(q, k, v):
    """Capped scores in a causal window that ends at the last key."""
    s = CAP * jnp.tanh(q @ k.T * SCALE / CAP)
    i, j = jnp.arange(7)[:, None] + 2, jnp.arange(9)[None]
    return jax.nn.softmax(jnp.where((j <= i) & (i - j < 4), s, INFINITE)) @ v


def capped_bwd(
    mask=None, cap=lambda s: CAP * np.tanh(s / CAP), scale=SCALE, delta=None, over=None, order=None,
    of_keys=None, queries=7, keys=9, slope_scale=SCALE,
):  # fmt: skip
    """With the output and the log-sum-exp saved."""

    def bwd(d, q, k, v):
        t = np.tanh(q @ k.T * SCALE / CAP)
        x = np.where(band(), CAP * t, INFINITE)
        lse = np.log(np.exp(x).sum(-1, keepdims=True))
        p = np.where(band() if mask is None else mask, np.exp(cap(q @ k.T * scale) - (over or same)(lse)), 0)
        dp, slope = d @ v.T, 1 - np.tanh(q @ k.T * slope_scale / CAP) ** 2
        rows = (delta or same)((d * (softmax(x) @ v)).sum(-1, keepdims=True))
        ds = (p * (dp - rows) * slope if order is None else order(p, dp, rows, slope)) * SCALE
        seen = np.ones_like(p) if of_keys is None else of_keys
        n, m = slice(queries), slice(keys)
        return ds[:, m] @ k[m], (ds * seen)[n].T @ q[n], (p * seen)[n].T @ d[n]

    return bwd


def same(x):
    return x


def of_blocks(x):
    return x[np.arange(7) % 4]


def before(p, dp, rows, slope):
    return p * (dp * slope - (p * dp * slope).sum(-1, keepdims=True))


def grouped(q, k, v):
    """Two key heads for six query heads, repeated."""
    k, v = (jnp.repeat(x, 3, axis=1) for x in (k, v))
    s = jnp.where(jnp.tri(5, dtype=bool), jnp.einsum("bhid,bhjd->bhij", q, k) * SCALE, INFINITE)
    return jnp.einsum("bhij,bhjd->bhid", jax.nn.softmax(s), v)


def grouped_by_axis(q, k, v):
    """The same with an axis for the groups, and a softmax step by step."""
    s = jnp.einsum("bghid,bgjd->bghij", q.reshape(2, 2, 3, 5, 3), k) * SCALE
    s = jnp.where(jnp.tri(5, dtype=bool), s, INFINITE)
    e = jnp.exp(s - s.max(-1, keepdims=True))
    return jnp.einsum("bghij,bgjd->bghid", e / e.sum(-1, keepdims=True), v).reshape(2, 6, 5, 4)


def of_all(x):
    return x.sum(2)


def grouped_bwd(delta=same, over=same, heads=of_all):
    def bwd(d, q, k, v):
        kk, vv = np.repeat(k, 3, 1), np.repeat(v, 3, 1)
        x = np.where(np.tri(5, dtype=bool), np.einsum("bhid,bhjd->bhij", q, kk) * SCALE, INFINITE)
        p = np.exp(x - over(np.log(np.exp(x).sum(-1, keepdims=True))))
        o = np.einsum("bhij,bhjd->bhid", softmax(x), vv)
        ds = p * (np.einsum("bhid,bhjd->bhij", d, vv) - delta((d * o).sum(-1, keepdims=True))) * SCALE
        dk, dv = np.einsum("bhij,bhid->bhjd", ds, q), np.einsum("bhij,bhid->bhjd", p, d)
        dq = np.einsum("bhij,bhjd->bhid", ds, kk)
        return dq, heads(dk.reshape(2, 2, 3, 5, 3)), heads(dv.reshape(2, 2, 3, 5, 4))

    return bwd


I8 = np.arange(8)
NEAR, FIRST = abs(I8[:, None] - I8) <= 2, np.tile(I8 < 2, (8, 1))


def with_global(q, k, v):
    """A window and two global keys."""
    i = jnp.arange(8)
    mask = (jnp.abs(i[:, None] - i) <= 2) | (i < 2)[None]
    return jax.nn.softmax(jnp.where(mask, q @ k.T * SCALE, INFINITE)) @ v


def with_fixed_mask(q, k, v):
    return jax.nn.softmax(jnp.where(NEAR | FIRST, q @ k.T * SCALE, INFINITE)) @ v


def with_global_bwd(weight=None, in_sum=None):
    def bwd(d, q, k, v):
        x = np.where(NEAR | FIRST, q @ k.T * SCALE, INFINITE)
        p = softmax(x)
        rows = (d * (p @ v)).sum(-1, keepdims=True)
        p = p / (p * (1 if in_sum is None else in_sum)).sum(-1, keepdims=True)
        w = NEAR | FIRST if weight is None else weight
        ds = p * (d @ v.T - rows) * SCALE * w
        return ds @ k, ds.T @ q, (p * w).T @ d

    return bwd


# --- rotary positions after a cached prefix -----------------------------------------------------------------


ROTATED = tuple(RNG.standard_normal((2, 5, n)) for n in (4, 4, 3))
FREQUENCIES, TABLE = np.array([1.0, 0.3]), np.arange(12)[:, None] * np.array([1.0, 0.3])
COS, SIN, PLACES = np.cos(TABLE), np.sin(TABLE), np.array([[3, 4, 5, 6, 7], [5, 6, 7, 8, 9]])
COUNTED = {
    "an offset added": lambda pos: (jnp.arange(5) + 3)[:, None] * FREQUENCIES,
    "added to an offset": lambda pos: (3 + jnp.arange(5)[None, :])[..., None] * FREQUENCIES,
    "as an argument": lambda pos: pos[..., None].astype(float) * FREQUENCIES,
}
READ = {
    "cut from a table": lambda pos: (jnp.asarray(COS)[3:8], jnp.asarray(SIN)[3:8]),
    "read from a table": lambda pos: (jnp.asarray(COS)[pos], jnp.asarray(SIN)[pos]),
}


def turned(x, c, s, xp=np):
    a, b = x[..., :2], x[..., 2:]
    return xp.concatenate([a * c - b * s, a * s + b * c], -1)


def rotary(positions):
    def rotary(q, k, v, pos):
        found = READ[positions](pos) if positions in READ else None
        c, s = found or (jnp.cos(COUNTED[positions](pos)), jnp.sin(COUNTED[positions](pos)))
        q, k = turned(q, c, s, jnp), turned(k, c, s, jnp)
        return jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) / 2) @ v

    return rotary


def rotary_bwd(positions, of_q=0, of_k=0):
    """Positions that are less than they should be by these numbers."""

    def bwd(d, q, k, v, pos):
        own = pos if "argument" in positions or "read" in positions else np.tile(np.arange(3, 8), (2, 1))
        angles = own[..., None] * FREQUENCIES
        c, s = np.cos(angles), np.sin(angles)
        rq, rk = turned(q, c, s), turned(k, c, s)
        p = softmax(rq @ rk.swapaxes(1, 2) / 2)
        dp = d @ v.swapaxes(1, 2)
        ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / 2
        back = []
        for dx, less in ((ds @ rk, of_q), (ds.swapaxes(1, 2) @ rq, of_k)):
            there = (own - less * own[:, :1])[..., None] * FREQUENCIES
            back.append(turned(dx, np.cos(there), -np.sin(there)))
        return *back, p.swapaxes(1, 2) @ d, None

    return bwd


# --- sequences packed into one ------------------------------------------------------------------------------


SEGMENTS = np.array([0, 0, 0, 1, 1, 2, 2, 2])
INSIDE = np.array([0, 1, 2, 0, 1, 0, 1, 2])


def packed(q, k, v, segment):
    i = jnp.arange(8)
    mask = (segment[:, None] == segment) & (i[:, None] >= i)
    s = jnp.where(mask, q @ k.T * SCALE, INFINITE)
    return jnp.exp(s - jax.nn.logsumexp(s, -1, keepdims=True)) @ v


def packed_bwd(delta=same, over=same):
    def bwd(d, q, k, v, segment):
        mask = (segment[:, None] == segment) & np.tri(8, dtype=bool)
        x = np.where(mask, q @ k.T * SCALE, INFINITE)
        p = np.exp(x - over(np.log(np.exp(x).sum(-1, keepdims=True))))
        ds = p * (d @ v.T - delta((d * (softmax(x) @ v)).sum(-1, keepdims=True))) * SCALE
        return ds @ k, ds.T @ q, p.T @ d, None

    return bwd


TWICE, BUT_BOTH = NEAR + 1.0 * FIRST, 1.0 * (NEAR ^ FIRST)
DELTA = "the sum over a row in the gradient of a softmax, δ = Σ p · dp, is read at"
LSE = "the log-sum-exp (maximum and sum) with which a softmax is rebuilt is read at"
ORDER = "the slope of tanh is applied in the wrong order in the gradient of a softmax: "
RIGHT = {
    "capped": (capped, capped_bwd(), (Q, K, V)),
    "grouped": (grouped, grouped_bwd(), HEADS),
    "grouped by axis": (grouped_by_axis, grouped_bwd(), HEADS),
    "global keys": (with_global, with_global_bwd(), LONG),
    "a mask as a constant": (with_fixed_mask, with_global_bwd(), LONG),
}
RIGHT["packed"] = packed, packed_bwd(), (*LONG, SEGMENTS)
for positions in (*COUNTED, *READ):
    RIGHT[positions] = rotary(positions), rotary_bwd(positions), (*ROTATED, PLACES)


def mistaken(case, bwd):
    fn, _, args = RIGHT[case]
    return by(fn, bwd, *args)


CASES = {
    "a window one too narrow": (
        "the mask of s is one narrower at one edge of the band",
        mistaken("capped", capped_bwd(mask=band(3))),
    ),
    "a window one too wide": (
        "the mask of s is one wider at one edge of the band",
        mistaken("capped", capped_bwd(mask=band(5))),
    ),
    "no mask": ("the mask of s is missing", mistaken("capped", capped_bwd(mask=np.ones((7, 9), bool)))),
    "the last query": (
        "left out: the last of 7 rows (queries) of s",
        mistaken("capped", capped_bwd(queries=6)),
    ),
    "the last key": (
        "left out: the last of 9 columns (keys) of s",
        mistaken("capped", capped_bwd(keys=8)),
    ),
    "a block's start without L_k − L_q": (
        "the mask of s is skipped in blocks of 2×4 from a diagonal without the offset 2",
        mistaken("capped", capped_bwd(of_keys=np.arange(7)[:, None] // 4 >= np.arange(9)[None] // 4)),
    ),
    "no cap": ("tanh is left out of the scores", mistaken("capped", capped_bwd(cap=same))),
    "no scale": ("the factor 0.6 is left out of the scores", mistaken("capped", capped_bwd(scale=1))),
    "the slope before the sum": (
        f"{ORDER}dp is multiplied by it before",
        mistaken("capped", capped_bwd(order=before)),
    ),
    "the slope of dp": (
        f"{ORDER}only dp is multiplied",
        mistaken("capped", capped_bwd(order=lambda p, dp, rows, slope: p * (dp * slope - rows))),
    ),
    "the slope of δ": (
        f"{ORDER}only δ is multiplied",
        mistaken("capped", capped_bwd(order=lambda p, dp, rows, slope: p * (dp - rows * slope))),
    ),
    "δ of a block's rows": (f"{DELTA} i mod 4", mistaken("capped", capped_bwd(delta=of_blocks))),
    "statistics of a block's rows": (f"{LSE} i mod 4", mistaken("capped", capped_bwd(over=of_blocks))),
    "both of a block's rows": (
        DELTA.replace("is read at", "and the log-sum-exp"),
        mistaken("capped", capped_bwd(over=of_blocks, delta=of_blocks)),
    ),
    "δ of the row before": (
        f"{DELTA} i − 1",
        mistaken("capped", capped_bwd(delta=lambda x: np.roll(x, 1, 0))),
    ),
}
HEADS_OF = {
    "the first head": lambda x: x[:, :1] + 0 * x,
    "the next head": lambda x: np.roll(x, -1, 1),
    "the group's index": lambda x: x[:, np.arange(6) // 3],
    "the first sample": lambda x: x[:1] + 0 * x,
}
SAID = ("0 (the first one's) along", "i + 1 (the next", "i // 3 (the index of", "0 (the first one's) along")
for (of, pick), said in zip(HEADS_OF.items(), SAID, strict=True):
    for layout in ("grouped", "grouped by axis"):
        CASES |= {
            f"δ of {of}, {layout}": (f"{DELTA} {said}", mistaken(layout, grouped_bwd(delta=pick))),
            f"statistics of {of}, {layout}": (f"{LSE} {said}", mistaken(layout, grouped_bwd(over=pick))),
        }
for layout, names in {
    "global keys": "`jnp.abs(i[:, None] - i) <= 2` and `i < 2`",
    "a mask as a constant": "the first 2 keys (columns), such as global ones, and the window",
}.items():
    common = f"the entries that {names} have in common are counted"
    CASES |= {
        f"global keys twice, {layout}": (
            f"{common} twice in the backward",
            mistaken(layout, with_global_bwd(TWICE)),
        ),
        f"global keys beyond the window, {layout}": (
            f"{common} not at all",
            mistaken(layout, with_global_bwd(BUT_BOTH)),
        ),
        f"a sum with global keys twice, {layout}": (
            f"{common} twice in the sum",
            mistaken(layout, with_global_bwd(in_sum=TWICE)),
        ),
    }
for positions in (*COUNTED, *READ):
    for of, less in {"q": (1, 0), "k": (0, 1), "q and k": (1, 1)}.items():
        number = "" if "argument" in positions or "read" in positions else " 3"
        CASES[f"positions {positions}, of {of} from 0"] = (
            f"the offset{number} of the positions is left out",
            mistaken(positions, rotary_bwd(positions, *less)),
        )


CASES |= {
    "δ of a segment's rows": (
        f"{DELTA} the index inside a segment",
        mistaken("packed", packed_bwd(delta=lambda x: x[INSIDE])),
    ),
    "statistics of a segment's rows": (
        f"{LSE} the index inside a segment",
        mistaken("packed", packed_bwd(over=lambda x: x[INSIDE])),
    ),
}
MEMBERS = "the gradient of members of a group is not added up (= for +=): only the"
CASES |= {
    "the last head of a group": (
        f"{MEMBERS} last of 3",
        mistaken("grouped by axis", grouped_bwd(heads=lambda x: x[:, :, -1])),
    ),
    "the first head of a group": (
        f"{MEMBERS} first of 3",
        mistaken("grouped by axis", grouped_bwd(heads=lambda x: x[:, :, 0])),
    ),
    "heads of other groups": (
        "wrong group: member i of 6 takes i mod 2, where i // 3 belongs",
        mistaken(
            "grouped by axis",
            grouped_bwd(heads=lambda x: x.reshape(2, 3, 2, 5, -1).sum(1)),
        ),
    ),
    "a cap's slope without the scale": (
        "the factor 0.6 is left out of the input at which the derivative of tanh is taken",
        mistaken("capped", capped_bwd(slope_scale=1)),
    ),
}
test_the_true_cause_is_named_first = named_first(CASES, in_all=True)


test_the_right_gradients_pass = right(RIGHT)


# --- a mask where none belongs ----------------------------------------------------------------------------

Q, K, V = RNG.normal(size=(2, 5, 3)), RNG.normal(size=(2, 6, 3)), RNG.normal(size=(2, 6, 4))


def full(q, k, v):
    return jax.nn.softmax(q @ k.swapaxes(1, 2) / np.sqrt(3), -1) @ v


def causal(offset, saved, recomputed):
    def bwd(do, q, k, v):
        p = softmax(q @ k.swapaxes(1, 2) / np.sqrt(3))
        dp, delta = do @ v.swapaxes(1, 2), (do * (p @ v)).sum(-1, keepdims=True)
        p = np.tril(p, offset)
        p = p if saved else p / p.sum(-1, keepdims=True)
        ds = p * (dp - ((p * dp).sum(-1, keepdims=True) if recomputed else delta)) / np.sqrt(3)
        return ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ do

    return bwd


test_a_causal_mask_where_none_belongs = named_first(
    {
        f"{offset}, {saved}, {recomputed}": (
            "a causal mask (keys up to the query alone" + (", aligned at the last key)" if offset else ")"),
            by(full, causal(offset, saved, recomputed), Q, K, V),
        )
        for offset in (0, 1)
        for saved in (True, False)
        for recomputed in (False, True)
    },
    in_all=True,
)
