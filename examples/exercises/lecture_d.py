# %% [markdown]
# # Lecture D: exercises
#
# The last layers of the five-layer network, one sample per column, with small widths in place of
# 784-128-50-50-25-10.

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
rng = np.random.default_rng(3)
A3, W4, b4 = rng.normal(size=(2, 4)), rng.normal(size=(3, 2)), rng.normal(size=3)
W5, b5, Y = rng.normal(size=(3, 3)), rng.normal(size=3), np.eye(3)[:, [2, 0, 1, 0]]


def softmax(z):
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


def forward(W4, b4, W5, b5, A3):
    Z4 = W4 @ A3 + b4[:, None]
    A4 = np.maximum(Z4, 0)
    return Z4, A4, softmax(W5 @ A4 + b5[:, None])


def loss(W4, b4, W5, b5, A3, Y):
    A4 = jax.nn.relu(W4 @ A3 + b4[:, None])
    return -(Y * jax.nn.log_softmax(W5 @ A4 + b5[:, None], axis=0)).sum() / Y.shape[1]

# %% [markdown]
# ## 1. Cross-entropy with respect to the activations (D-04)
#
# $L = -\frac{1}{m} \sum y \ln A_5$. The notes lose a sign here.

# %%
def cross_entropy(A5, Y):
    return -(Y * jnp.log(A5)).sum() / Y.shape[1]


def d_cross_entropy(A5, Y):
    dA5 = ____
    return dA5


check(cross_entropy, d_cross_entropy, forward(W4, b4, W5, b5, A3)[2], Y)

# %% [markdown]
# ## 2. The last weights (D-07)
#
# $dZ_5$ is $3 \times m$ and $A_4$ is $3 \times m$. “Why does $A_4 \times (A_5 - y)$ become $(A_5 - y)
# \times A_4^{\top}$?”

# %%
def d_W5(W4, b4, W5, b5, A3, Y):
    Z4, A4, A5 = forward(W4, b4, W5, b5, A3)
    dZ5 = (A5 - Y) / Y.shape[1]
    dW5 = ____
    return dW5


check(loss, d_W5, W4, b4, W5, b5, A3, Y, argnums=2)

# %% [markdown]
# ## 3. The last scores (D-06)
#
# “Why do I have to divide in 60000?”

# %%
def d_scores(W4, b4, W5, b5, A3, Y):
    Z4, A4, A5 = forward(W4, b4, W5, b5, A3)
    dZ5 = ____
    return dZ5 @ A4.T


check(loss, d_scores, W4, b4, W5, b5, A3, Y, argnums=2)

# %% [markdown]
# ## 4. The last bias (D-08)
#
# The notes leave it at $A_5 - Y$.

# %%
def d_b5(W4, b4, W5, b5, A3, Y):
    Z4, A4, A5 = forward(W4, b4, W5, b5, A3)
    dZ5 = (A5 - Y) / Y.shape[1]
    db5 = ____
    return db5


check(loss, d_b5, W4, b4, W5, b5, A3, Y, argnums=3)

# %% [markdown]
# ## 5. Back one layer (D-10)
#
# $dZ_4 = \operatorname{relu\_back}(W_5^{\top} dZ_5)$: write it with NumPy.

# %%
def d_W4(W4, b4, W5, b5, A3, Y):
    Z4, A4, A5 = forward(W4, b4, W5, b5, A3)
    dZ5 = (A5 - Y) / Y.shape[1]
    dZ4 = ____
    return dZ4 @ A3.T


check(loss, d_W4, W4, b4, W5, b5, A3, Y)

# %% [markdown]
# ## 6. And what the layer before it gets (D-10)
#
# One more step, for layer 3.

# %%
def d_A3(W4, b4, W5, b5, A3, Y):
    Z4, A4, A5 = forward(W4, b4, W5, b5, A3)
    dZ4 = (W5.T @ ((A5 - Y) / Y.shape[1])) * (Z4 > 0)
    dA3 = ____
    return dA3


check(loss, d_A3, W4, b4, W5, b5, A3, Y, argnums=4)
