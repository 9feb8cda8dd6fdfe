"""A data set small enough to train on in a test: 4 classes of 6×6 images, each brighter in its own corner."""

from types import SimpleNamespace

import numpy as np


def tiny(train=40, test=12, seed=0, name="tiny"):
    rng = np.random.default_rng(seed)
    labels = np.arange(train + test, dtype=np.int32) % 4
    images = rng.random((train + test, 6, 6), np.float32) / 2
    for i, k in enumerate(labels):
        images[i, 3 * (k // 2) : 3 * (k // 2) + 3, 3 * (k % 2) : 3 * (k % 2) + 3] += 0.5
    return SimpleNamespace(
        name=name,
        source="made for a test",
        train_images=images[:train],
        train_labels=labels[:train],
        test_images=images[train:],
        test_labels=labels[train:],
    )
