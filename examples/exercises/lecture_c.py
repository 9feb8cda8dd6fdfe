# %% [markdown]
# # Lecture C: exercises
#
# From a graph of two nodes to the gradient of a convolution. The blank line is the one that people get
# wrong.

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
rng = np.random.default_rng(2)
x, y, X = rng.normal(size=2), rng.normal(size=2), rng.normal(size=(4, 5))
W1, W2, W3 = rng.normal(size=(3, 2)), rng.normal(size=(3, 3)), rng.normal(size=(2, 3))
F, T = rng.normal(size=(2, 3)), rng.normal(size=(3, 3))


def correlate(x, f):
    h, w = x.shape[0] - f.shape[0] + 1, x.shape[1] - f.shape[1] + 1
    return sum(f[a, b] * x[a : a + h, b : b + w] for a in range(f.shape[0]) for b in range(f.shape[1]))

# %% [markdown]
# ## 1. A product of a sum (C-01)
#
# $f = (x + y) z$. What reaches $x$?

# %%
def product(x, y, z):
    return (x + y) * z


def d_x(x, y, z):
    dx = ____
    return dx


check(product, d_x, -2.0, 5.0, -4.0)

# %% [markdown]
# ## 2. The last layer's delta (C-04)
#
# $\delta^L = \frac{\partial L}{\partial z^L}$ with $\tanh$ and $L = \frac{1}{2} \sum_i (\hat{y}_i -
# y_i)^2$. The derivative of $\tanh$ can be computed from its value.

# %%
def network(W1, W2, W3, x, y):
    a3 = jnp.tanh(W2 @ jnp.tanh(W1 @ x))
    return ((jnp.tanh(W3 @ a3) - y) ** 2).sum() / 2


def d_last(W1, W2, W3, x, y):
    a3 = np.tanh(W2 @ np.tanh(W1 @ x))
    y_hat = np.tanh(W3 @ a3)
    delta = ____
    return np.outer(delta, a3)


check(network, d_last, W1, W2, W3, x, y, argnums=2)

# %% [markdown]
# ## 3. The recursion (C-05)
#
# From the delta of one layer to that of the layer before it: which value that is already computed gives the
# slope of $\tanh$ at $z^3$?

# %%
def d_middle(W1, W2, W3, x, y):
    a2 = np.tanh(W1 @ x)
    a3 = np.tanh(W2 @ a2)
    y_hat = np.tanh(W3 @ a3)
    delta4 = (y_hat - y) * (1 - y_hat**2)
    slope = ____
    delta3 = (W3.T @ delta4) * slope
    return np.outer(delta3, a2)


check(network, d_middle, W1, W2, W3, x, y, argnums=1)

# %% [markdown]
# ## 4. The first weights (C-06)
#
# Both deltas are there. Which input belongs to the first layer's weights?

# %%
def d_first(W1, W2, W3, x, y):
    a2 = np.tanh(W1 @ x)
    a3 = np.tanh(W2 @ a2)
    y_hat = np.tanh(W3 @ a3)
    delta3 = (W3.T @ ((y_hat - y) * (1 - y_hat**2))) * (1 - a3**2)
    delta2 = (W2.T @ delta3) * (1 - a2**2)
    dW1 = ____
    return dW1


check(network, d_first, W1, W2, W3, x, y)

# %% [markdown]
# ## 5. A filter's gradient (C-09)
#
# $L = \frac{1}{2} \sum (O - T)^2$ with $O = X \star F$. The gradient of $F$ is a correlation again. Of what
# with what?

# %%
def image_loss(X, F, T):
    return ((correlate(X, F) - T) ** 2).sum() / 2


def d_filter(X, F, T):
    dO = correlate(X, F) - T
    dF = ____
    return dF


check(image_loss, d_filter, X, F, T, argnums=1)

# %% [markdown]
# ## 6. The image's gradient (C-10)
#
# The border of zeros is given. What is it correlated with?

# %%
def d_image(X, F, T):
    dO = correlate(X, F) - T
    padded = np.pad(dO, ((1, 1), (2, 2)))
    dX = ____
    return dX


check(image_loss, d_image, X, F, T)

# %% [markdown]
# ## 7. How wide is the border? (C-10)
#
# Every pixel receives a gradient from every window that contains it: how many zeros must there be on each
# side, for a filter of `h` rows and `w` columns?

# %%
def d_image_padded(X, F, T):
    dO = correlate(X, F) - T
    h, w = F.shape
    frame = ____
    return correlate(np.pad(dO, frame), F[::-1, ::-1])


check(image_loss, d_image_padded, X, F, T)
