# %% [markdown]
# # Lecture A: exercises
#
# One line of each backward pass is blank: fill it in, run the cell, and read the checker's report. The
# exercises go from easy to hard.

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
rng = np.random.default_rng(0)
x, w, b, y = rng.normal(size=(4, 2)), rng.normal(size=2), 0.5, rng.normal(size=4)
logits, labels = rng.normal(size=(4, 3)), np.eye(3)[[2, 0, 1, 0]]
target = rng.normal(size=(4, 3))


def softmax(l):
    e = np.exp(l - l.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

# %% [markdown]
# ## 1. The mean squared error with respect to the predictions
#
# $J = \frac{1}{N} \sum_i (y^{(i)} - \hat{y}^{(i)})^2$. What is $\frac{\partial J}{\partial \hat{y}}$, in
# one line?

# %%
def mse(y_hat, y):
    return ((y - y_hat) ** 2).mean()


def d_mse(y_hat, y):
    dy_hat = ____
    return dy_hat


check(mse, d_mse, x @ w + b, y)

# %% [markdown]
# ## 2. Linear regression with respect to the weights
#
# $\hat{y} = x w + b$, with $x$ of shape $N \times d$. Multiply the row of the last exercise by the matrix
# $x$.

# %%
def regression(w, b, x, y):
    return ((y - (x @ w + b)) ** 2).mean()


def d_weights(w, b, x, y):
    y_hat = x @ w + b
    dy_hat = -2 / len(y) * (y - y_hat)
    dw = ____
    return dw


check(regression, d_weights, w, b, x, y)

# %% [markdown]
# ## 3. Linear regression with respect to the bias
#
# One number, which is added to every sample.

# %%
def d_bias(w, b, x, y):
    y_hat = x @ w + b
    dy_hat = -2 / len(y) * (y - y_hat)
    db = ____
    return db


check(regression, d_bias, w, b, x, y, argnums=1)

# %% [markdown]
# ## 4. Cross-entropy with respect to the probabilities
#
# $J = -\frac{1}{N} \sum_i \sum_k y_k^{(i)} \ln \hat{y}_k^{(i)}$.

# %%
def cross_entropy(y_hat, y):
    return -(y * jnp.log(y_hat)).sum() / len(y)


def d_cross_entropy(y_hat, y):
    dy_hat = ____
    return dy_hat


check(cross_entropy, d_cross_entropy, softmax(logits), labels)

# %% [markdown]
# ## 5. The softmax's Jacobian
#
# One sample. $J$ is the matrix with $\frac{\partial \hat{y}_k}{\partial l_j}$ in row $k$, column $j$.

# %%
def weighted(l, v):
    return v @ jax.nn.softmax(l)


def d_weighted(l, v):
    p = softmax(l)
    J = ____
    return v @ J


check(weighted, d_weighted, logits[0], target[0])

# %% [markdown]
# ## 6. Softmax backward, without a matrix
#
# A batch. From any $d\hat{y}$ to the logits: one line, with one sum per sample.

# %%
def distance(l, t):
    return ((jax.nn.softmax(l) - t) ** 2).sum() / 2


def d_distance(l, t):
    p = softmax(l)
    dp = p - t
    dl = ____
    return dl


check(distance, d_distance, logits, target)

# %% [markdown]
# ## 7. Softmax and cross-entropy together
#
# One-hot labels. All divisions cancel.

# %%
def loss(l, y):
    return -(y * jax.nn.log_softmax(l)).sum() / len(y)


def d_loss(l, y):
    p = softmax(l)
    dl = ____
    return dl


check(loss, d_loss, logits, labels)

# %% [markdown]
# ## 8. Labels with any sum
#
# Some samples count twice, one not at all: $\sum_k y_k$ is no longer 1.

# %%
def d_weighted_loss(l, y):
    p = softmax(l)
    dl = ____
    return dl


check(loss, d_weighted_loss, logits, labels * np.array([[2], [1], [0], [2]]))
