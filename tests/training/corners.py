"""Small data for a test: 4 classes of 6×6 images, each brighter in its own corner; a text; a GPT for it."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np

from manual_grad.training.networks import NETWORKS, gpt_initial
from manual_grad.training.text import text_of


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


def tiny_text(name="topics", seed=0):
    """Words of a, b, c, each followed by an e: 20 windows of 8 characters to learn from, and 2."""
    drawn = np.random.default_rng(seed).integers(0, 3, 90)
    return text_of(name, "".join(f"{'abc'[k]}e" for k in drawn), "made for a test", length=8)


def tiny_gpt(**changes):
    """The GPT of the command, narrower, with one block."""
    return replace(NETWORKS["gpt"], initial=partial(gpt_initial, D=8, blocks=1), **changes)
