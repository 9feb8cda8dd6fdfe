"""Real handwritten digits for the networks of lectures A and D: scikit-learn's, 8×8 or scaled up to 28×28."""

import functools

import jax
import numpy as np


class MissingExtra(ImportError):
    """An optional dependency is not installed; the message names the extra that installs it."""


def load_digits_8() -> tuple[np.ndarray, np.ndarray]:
    """All 1797 digits of scikit-learn's ``load_digits``, 8×8.

    They are not MNIST, but they are real handwriting and come with a package, so nothing is downloaded.

    Returns:
        Images (1797, 8, 8), float64 from 0 to 1, and labels (1797,), integers from 0 to 9.
    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra(
            "the real digits of lectures A and D need scikit-learn: pip install 'manual-grad[digits]'"
        ) from None
    data = load_digits()
    return data.images / 16, data.target


@functools.cache
def load_digits_28() -> tuple[np.ndarray, np.ndarray]:
    """The digits of :func:`load_digits_8`, scaled up to 28×28 by linear interpolation.

    Returns:
        Images (1797, 28, 28), float64 from 0 to 1, and labels (1797,), integers from 0 to 9.
    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    images, labels = load_digits_8()
    images = jax.image.resize((16 * images).astype(np.float32), (len(images), 28, 28), "linear") / 16
    return np.asarray(images, np.float64), labels
