"""A real text to learn, character by character: the reference that comes with Python."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from manual_grad.border import require

LENGTH = 64  # characters in a GPT's context
START = "The "  # of the text that a network writes
SMOOTHING = 0.1  # added to each count of the bigram table: the best of 1, 0.1 and 0.01


@dataclass(frozen=True)
class Text:
    """A text as windows of L characters, in a data set's images, and the character after each, in its labels.

    All four arrays are (n, L), int32, from 0 to the length of ``alphabet`` less 1.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str
    alphabet: str

    @cached_property
    def bigram_loss(self) -> float:
        """The validation loss of a bigram table: −ln of each character's frequency given the previous one."""
        counts = np.full((len(self.alphabet),) * 2, SMOOTHING)
        np.add.at(counts, (self.train_images, self.train_labels), 1)
        shares = counts / counts.sum(axis=1, keepdims=True)
        return float(-np.log(shares[self.test_images, self.test_labels]).mean())


def text_of(name: str, text: str, source: str, length: int = LENGTH) -> Text:
    """A text with its last tenth held out.

    >>> made = text_of("abc", "abc" * 40, "made up", length=5)
    >>> made.alphabet, made.train_images[0].tolist(), made.train_labels[0].tolist()
    ('abc', [0, 1, 2, 0, 1], [1, 2, 0, 1, 2])
    >>> round(made.bigram_loss, 3)
    0.006
    """
    alphabet = "".join(sorted(set(text)))
    codes = np.searchsorted(np.array(list(alphabet)), np.array(list(text))).astype(np.int32)
    parts = np.split(codes, [len(codes) * 9 // 10])
    enough = min(map(len, parts)) > length
    require(enough, f"{name} has {len(text)} characters, expected more than {10 * length}")
    (train, after_train), (test, after_test) = (_windows(part, length) for part in parts)
    return Text(name, train, after_train, test, after_test, source, alphabet)


def _windows(codes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    end = (len(codes) - 1) // length * length
    return codes[:end].reshape(-1, length), codes[1 : end + 1].reshape(-1, length)


def load_topics() -> Text:
    """The text of ``help()`` on Python's syntax and types, with repeated paragraphs removed.

    The text is that of the running Python; a run cannot be resumed with another version.
    """
    from pydoc_data.topics import topics

    paragraphs = (part.strip("\n") for topic in sorted(topics) for part in topics[topic].split("\n\n"))
    once = {" ".join(paragraph.split()): paragraph for paragraph in paragraphs}
    text = "\n\n".join(paragraph for words, paragraph in once.items() if words)
    source = (
        f"pydoc_data.topics, what Python's help() says of its syntax and types: {len(text)} characters, "
        "of which the last tenth is held out"
    )
    return text_of("topics", text, source)


def sample(scores: Callable[[Any, Any], Any], params: Any, text: Text, length: int, seed: int) -> str:
    """A text written by a network, beginning with ``START``: each character is drawn from its probabilities.

    Args:
        scores: ``(params, tokens (1, L)) -> logits (1, L, V)``.
        params, text: the network's parameters, and the text that it was trained on.
        length: the number of characters.
        seed: seed for the characters drawn.
    """
    rng, scores = np.random.default_rng([seed, 2]), jax.jit(scores)
    L = text.test_images.shape[1]
    codes = [text.alphabet.index(c) for c in START if c in text.alphabet] or [0]
    for _ in range(length):
        seen = codes[-L:]
        logits = np.asarray(scores(params, np.array([seen + [0] * (L - len(seen))])), np.float64)
        shares = np.exp(logits[0, len(seen) - 1] - logits[0, len(seen) - 1].max())
        codes.append(int(rng.choice(len(shares), p=shares / shares.sum())))
    return "".join(text.alphabet[code] for code in codes)
