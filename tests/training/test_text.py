"""A GPT learns a text by the loop that trains the other networks, and keeps its promises."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad import npz
from manual_grad.border import InputError
from manual_grad.training import checkpoint, loop, text
from manual_grad.training.networks import HEADS, NETWORKS
from manual_grad_reference.gpt import gpt_scores
from tests.training.corners import tiny_gpt, tiny_text

SETTINGS = loop.Settings(
    "gpt", "topics", "both", epochs=3, batch_size=4, learning_rate=3e-3, optimizer="adam", dtype="float64"
)


@pytest.fixture(scope="module")
def trained():
    """A run with both gradients, straight through: its program, its start and its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "gpt", tiny_gpt())
        program, start = loop.build(SETTINGS, tiny_text()), loop.initial_state(SETTINGS, tiny_text())
        yield program, start, loop.train(program, start).state


def test_both_agree_and_the_loss_falls(trained):
    _, _, state = trained
    assert state.parted is None
    losses = [record["validation_loss"] for record in state.records]
    assert losses == sorted(losses, reverse=True)
    for record in state.records:
        assert max(record["loss_gap"], record["parameter_gap"]) < 1e-10
        assert record["validation_loss"] == pytest.approx(record["autodiff"]["validation_loss"], rel=1e-10)


def test_the_validation_loss_is_that_of_the_held_out_text(trained):
    _, _, state = trained
    params, data = state.sides["manual"][0], tiny_text()
    logs = jax.nn.log_softmax(gpt_scores(params, data.test_images, HEADS))
    want = -np.take_along_axis(np.asarray(logs), data.test_labels[..., None], 2).mean()
    assert state.records[-1]["validation_loss"] == pytest.approx(want, rel=1e-12)


def test_a_resumed_run_is_the_same_to_the_bit(trained, tmp_path):
    program, start, straight = trained
    asked = iter([False] * 2 + [True])
    stopped = loop.train(program, start, should_stop=lambda: next(asked))
    assert stopped.status == "interrupted"
    checkpoint.save(tmp_path / "run.npz", SETTINGS, stopped.state, tiny_text())
    resumed = loop.train(program, checkpoint.restore(tmp_path / "run.npz", SETTINGS, tiny_text())).state
    for a, b in zip(*map(jax.tree.leaves, (resumed.sides, straight.sides)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    with pytest.raises(InputError, match="is a run on different samples"):
        checkpoint.restore(tmp_path / "run.npz", SETTINGS, tiny_text(seed=1))


def test_a_record_has_the_measure_of_its_network(trained, tmp_path):
    _, _, state = trained
    checkpoint.save(tmp_path / "run.npz", SETTINGS, state, tiny_text())
    arrays, _ = npz.read(tmp_path / "run.npz")
    about = json.loads(arrays.pop(checkpoint.META).tobytes())
    about["records"][1]["test_accuracy"] = about["records"][1].pop("validation_loss")
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(tmp_path / "run.npz", **arrays, **{checkpoint.META: text})
    with pytest.raises(InputError, match=r"records\[1\].validation_loss is missing"):
        checkpoint.restore(tmp_path / "run.npz", SETTINGS, tiny_text())


def test_a_planted_mistake_makes_them_diverge_at_its_array(monkeypatch):
    right = NETWORKS["gpt"].gradients

    def wrong(params, X, Y):
        loss, dparams = right["manual"](params, X, Y)
        return loss, dparams | {"wpe": dparams["wpe"] / len(X)}

    monkeypatch.setitem(NETWORKS, "gpt", tiny_gpt(gradients=right | {"manual": wrong}))
    program = loop.build(SETTINGS, tiny_text())
    parted = loop.train(program, loop.initial_state(SETTINGS, tiny_text()), should_stop=lambda: False)
    assert (parted.state.parted["step"], list(parted.state.parted["gaps"])) == (1, ["wpe"])


def test_the_seed_determines_the_text_written():
    data = text.text_of("abc", "abc" * 40, "made up", length=5)
    successor = jnp.roll(jnp.eye(3), 1, axis=1)

    def certain(params, tokens):
        return params * successor[tokens]

    assert text.sample(certain, 1e3, data, 7, 0) == "abcabcab"
    undecided = [text.sample(certain, 0.0, data, 30, seed) for seed in (0, 0, 1)]
    assert undecided[0] == undecided[1] != undecided[2]


def test_the_topics_are_a_text_without_repetitions():
    data = text.load_topics()
    assert data.train_images.shape[1] == text.LENGTH
    assert np.array_equal(data.train_images[0, 1:], data.train_labels[0, :-1])
    assert data.train_labels[0, -1] == data.train_images[1, 0]
    codes = np.concatenate([data.train_images.ravel(), data.test_images.ravel()])
    assert 0 <= codes.min() <= codes.max() < len(data.alphabet)
    paragraphs = "".join(data.alphabet[code] for code in data.train_images.ravel()).split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)
    assert data.bigram_loss < np.log(len(data.alphabet)) / 1.5
