# %% [markdown]
# # Chapter E: exercises
#
# The layers of today's networks. `dy` is the gradient of the layer's output, as a loss after it would give
# it.

# %%
import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.verify import check_grad


def check(loss, grad, *args, argnums=0):
    """Print the checker's report on a gradient, unless a line of it is still blank."""
    if "____" in grad.__code__.co_names:
        print(f"{grad.__name__}: fill in the line with ____")
    else:
        print(check_grad(loss, grad, *args, argnums=argnums))

# %%
rng = np.random.default_rng(4)
x, gamma, dy = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=(4, 3))
gate, up, ids = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), np.array([2, 0, 2, 1])
logits, labels = rng.normal(size=4), np.array([1.0, 0.0, 0.25, 1.0])
Q, K, V, dO = (rng.normal(size=shape) for shape in [(3, 2), (4, 2), (4, 2), (3, 2)])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))

# %% [markdown]
# ## 1. Binary cross-entropy with logits (E-22)
#
# What is left when the sigmoid and the logarithm have cancelled?

# %%
def binary(l, y):
    return (y * jax.nn.softplus(-l) + (1 - y) * jax.nn.softplus(l)).mean()


def d_binary(l, y):
    p = sigmoid(l)
    dl = ____
    return dl


check(binary, d_binary, logits, labels)

# %% [markdown]
# ## 2. SiLU (E-06)
#
# $y = x \, \sigma(x)$, by the product rule.

# %%
def silu(x, dy):
    return (dy * x * jax.nn.sigmoid(x)).sum()


def d_silu(x, dy):
    s = sigmoid(x)
    dx = ____
    return dx


check(silu, d_silu, x, dy)

# %% [markdown]
# ## 3. SwiGLU (E-07)
#
# $y = \operatorname{silu}(g) \, u$: the gate's gradient.

# %%
def swiglu(gate, up, dy):
    return (dy * jax.nn.silu(gate) * up).sum()


def d_gate(gate, up, dy):
    s = sigmoid(gate)
    slope = s + gate * s * (1 - s)
    dgate = ____
    return dgate


check(swiglu, d_gate, gate, up, dy)

# %% [markdown]
# ## 4. Embedding (E-09)
#
# Token 2 occurs twice. Its row of the table gets the gradients of both.

# %%
def embedding(table, ids, dy):
    return (dy * table[ids]).sum()


def d_table(table, ids, dy):
    hot = np.eye(len(table))[ids]
    dtable = ____
    return dtable


check(embedding, d_table, x[:3], ids, dy)

# %% [markdown]
# ## 5. RMS normalisation (E-02)
#
# `x_hat` is $x / s$, and `dx_hat` its gradient.

# %%
def rms_norm(x, gamma, dy):
    s = jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
    return (dy * gamma * x / s).sum()


def d_rms_norm(x, gamma, dy):
    s = np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
    x_hat, dx_hat = x / s, dy * gamma
    dx = ____
    return dx


check(rms_norm, d_rms_norm, x, gamma, dy)

# %% [markdown]
# ## 6. Layer normalisation (E-01)
#
# Three terms: the gradient itself, minus its mean, minus what a scaling would change.

# %%
def layer_norm(x, gamma, dy):
    centred = x - x.mean(axis=-1, keepdims=True)
    s = jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return (dy * gamma * centred / s).sum()


def d_layer_norm(x, gamma, dy):
    centred = x - x.mean(axis=-1, keepdims=True)
    s = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    x_hat, dx_hat = centred / s, dy * gamma
    mean = dx_hat.mean(axis=-1, keepdims=True)
    share = (dx_hat * x_hat).mean(axis=-1, keepdims=True)
    dx = ____
    return dx


check(layer_norm, d_layer_norm, x, gamma, dy)

# %% [markdown]
# ## 7. Attention, through the softmax (E-11)
#
# $dS$ from $dP$, row by row.

# %%
def attention(Q, K, V, dO):
    P = jax.nn.softmax(Q @ K.T / jnp.sqrt(Q.shape[1]))
    return (dO * (P @ V)).sum()


def d_queries(Q, K, V, dO):
    s = 1 / np.sqrt(Q.shape[1])
    e = np.exp(s * Q @ K.T)
    P = e / e.sum(axis=1, keepdims=True)
    dP = dO @ V.T
    dS = ____
    return s * dS @ K


check(attention, d_queries, Q, K, V, dO)

# %% [markdown]
# ## 8. Attention, the keys (E-11)
#
# The scores are $S = s \, Q K^{\top}$.

# %%
def d_keys(Q, K, V, dO):
    s = 1 / np.sqrt(Q.shape[1])
    e = np.exp(s * Q @ K.T)
    P = e / e.sum(axis=1, keepdims=True)
    dP = dO @ V.T
    dS = P * (dP - (dP * P).sum(axis=1, keepdims=True))
    dK = ____
    return dK


check(attention, d_keys, Q, K, V, dO, argnums=1)
