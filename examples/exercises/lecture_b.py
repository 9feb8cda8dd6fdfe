# %% [markdown]
# # Lecture B: exercises
#
# The backward pass of a two-layer network, one line at a time. In each exercise another line is blank; the
# lines around it are right.

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
rng = np.random.default_rng(1)
W1, b1, W2, b2 = rng.normal(size=(3, 2)), rng.normal(size=3), rng.normal(size=(3, 3)), rng.normal(size=3)
w2, x, X = rng.normal(size=(1, 3)), rng.normal(size=2), rng.normal(size=(2, 4))
Y = np.eye(3)[:, [2, 0, 1, 0]]


def softmax(s):
    e = np.exp(s - s.max(axis=0))
    return e / e.sum(axis=0)

# %% [markdown]
# ## 1. The second layer's weights (B-03)
#
# One output, $J = \frac{1}{2} (y - o)^2$.

# %%
def squared(W1, b1, W2, x, y):
    o = W2 @ jax.nn.relu(W1 @ x + b1)
    return ((y - o) ** 2).sum() / 2


def d_second(W1, b1, W2, x, y):
    a = np.maximum(W1 @ x + b1, 0)
    o = W2 @ a
    dW2 = ____
    return dW2


check(squared, d_second, W1, b1, w2, x, 1.5, argnums=2)

# %% [markdown]
# ## 2. Through ReLU (B-06)
#
# From $\frac{\partial J}{\partial a}$ to $\frac{\partial J}{\partial z}$: what decides where the gradient
# passes?

# %%
def d_first_bias(W1, b1, W2, x, y):
    z = W1 @ x + b1
    o = W2 @ np.maximum(z, 0)
    da = W2.T @ (o - y)
    dz = ____
    return dz


check(squared, d_first_bias, W1, b1, w2, x, 1.5, argnums=1)

# %% [markdown]
# ## 3. The first layer's weights (B-07)
#
# A matrix with the shape of $W^{(1)}$, $m \times d$.

# %%
def d_first(W1, b1, W2, x, y):
    z = W1 @ x + b1
    o = W2 @ np.maximum(z, 0)
    dz = (W2.T @ (o - y)) * (z > 0)
    dW1 = ____
    return dW1


check(squared, d_first, W1, b1, w2, x, 1.5)

# %% [markdown]
# ## 4. The scores (B-10)
#
# A batch in columns from here on. $J = -\frac{1}{n} \sum_i \ln p_{y^{(i)}}$, and $Y$ has a 1 at each true
# class.

# %%
def loss(W1, b1, W2, b2, X, Y):
    A = jax.nn.relu(W1 @ X + b1[:, None])
    S = W2 @ A + b2[:, None]
    return -(Y * jax.nn.log_softmax(S, axis=0)).sum() / X.shape[1]


def d_scores(W1, b1, W2, b2, X, Y):
    A = np.maximum(W1 @ X + b1[:, None], 0)
    P = softmax(W2 @ A + b2[:, None])
    dS = ____
    return dS @ A.T


check(loss, d_scores, W1, b1, W2, b2, X, Y, argnums=2)

# %% [markdown]
# ## 5. The bias of a batch (B-15)
#
# $\frac{\partial J}{\partial b^{(2)}}$ has the shape of $b^{(2)}$; the lecture's page forgets what that
# takes.

# %%
def d_second_bias(W1, b1, W2, b2, X, Y):
    A = np.maximum(W1 @ X + b1[:, None], 0)
    P = softmax(W2 @ A + b2[:, None])
    dS = (P - Y) / X.shape[1]
    db2 = ____
    return db2


check(loss, d_second_bias, W1, b1, W2, b2, X, Y, argnums=3)

# %% [markdown]
# ## 6. Back through the second layer (B-12)
#
# $\delta^{(1)}$ from $\delta^{(2)}$. Here $W^{(2)}$ is square, so that a wrong factor has the right shape.

# %%
def d_both(W1, b1, W2, b2, X, Y):
    Z = W1 @ X + b1[:, None]
    P = softmax(W2 @ np.maximum(Z, 0) + b2[:, None])
    delta2 = (P - Y) / X.shape[1]
    delta1 = ____
    return delta1 @ X.T, delta1.sum(axis=1)


check(loss, d_both, W1, b1, W2, b2, X, Y, argnums=(0, 1))

# %% [markdown]
# ## 7. One sample per row (B-16)
#
# The same loss in rows: $S = A W^{[2]} + \mathbf{1} b^{[2]}$. What is $\frac{\partial J}{\partial A}$?

# %%
def loss_rows(W1, b1, W2, b2, X, Y):
    A = jax.nn.relu(X @ W1 + b1)
    return -(Y * jax.nn.log_softmax(A @ W2 + b2)).sum() / len(X)


def d_rows(W1, b1, W2, b2, X, Y):
    Z = X @ W1 + b1
    P = softmax((np.maximum(Z, 0) @ W2 + b2).T).T
    dS = (P - Y) / len(X)
    dA = ____
    return X.T @ (dA * (Z > 0))


check(loss_rows, d_rows, W1.T, b1, W2.T, b2, X.T, Y.T)
