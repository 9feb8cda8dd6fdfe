"""The loop keeps its promises: equal gradients, the same run after any stop, the last good parameters."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from manual_grad.border import InputError
from manual_grad.training import checkpoint, loop
from manual_grad.training.loop import Settings, build, initial_state, train
from manual_grad.training.networks import NETWORKS, parameter_names
from tests.training.corners import tiny

SMALL = Settings(data="tiny", epochs=3, batch_size=4, dtype="float64")


def run(settings, data, state=None, **more):
    program = build(settings, data)
    return train(program, state or initial_state(settings, data), **more)


def leaves(state):
    return jax.tree.leaves((state.sides, state.losses, state.gaps))


def same_bits(a, b):
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(a, b, strict=True))


def plant(monkeypatch, net, gradient):
    network = NETWORKS[net]
    wrong = replace(network, gradients=network.gradients | {"manual": gradient})
    monkeypatch.setitem(NETWORKS, net, wrong)


# ---------------------------------------------------------------- the two gradients


@pytest.mark.parametrize(("net", "epochs", "optimizer"), [("mlp", 10, "sgd"), ("cnn", 2, "adam")])
def test_both_agree(net, epochs, optimizer):
    settings = replace(SMALL, net=net, gradient="both", epochs=epochs, optimizer=optimizer)
    if optimizer == "adam":
        settings = replace(settings, learning_rate=1e-3)
    outcome = run(settings, tiny())
    assert outcome.state.parted is None
    for record in outcome.state.records:
        assert record["loss_gap"] < 1e-10
        assert record["parameter_gap"] < 1e-10
        assert record["test_accuracy"] == record["autodiff"]["test_accuracy"]
    assert outcome.state.records[-1]["train_loss"] < outcome.state.records[0]["train_loss"]


def test_a_planted_mistake_makes_them_diverge_at_its_array(monkeypatch):
    right = NETWORKS["mlp"].gradients["manual"]

    def wrong(params, X, Y):
        loss, dparams = right(params, X, Y)
        dW, db = dparams[2]
        return loss, [*dparams[:2], (dW, db * (1 + 1e-6)), *dparams[3:]]

    plant(monkeypatch, "mlp", wrong)
    parted = run(replace(SMALL, gradient="both"), tiny()).state.parted
    assert (parted["step"], parted["epoch"]) == (1, 1)
    assert list(parted["gaps"]) == ["b3"]
    assert parted["gaps"]["b3"] == pytest.approx(1e-6, rel=1e-3)


def test_a_wrong_loss_makes_them_diverge_too(monkeypatch):
    right = NETWORKS["mlp"].gradients["manual"]
    plant(monkeypatch, "mlp", lambda *a: (right(*a)[0] * (1 + 1e-6), right(*a)[1]))
    assert list(run(replace(SMALL, gradient="both"), tiny()).state.parted["gaps"]) == ["loss"]


def test_sgd_is_lecture_d():
    data, settings = tiny(), replace(SMALL, epochs=1, batch_size=40, learning_rate=0.25)
    state = initial_state(settings, data)
    params = state.sides["manual"][0]
    X, Y = jnp.asarray(data.train_images, float), jax.nn.one_hot(data.train_labels, 4, dtype=float)
    _, dparams = jax.jit(NETWORKS["mlp"].gradients["autodiff"])(params, X, Y)
    stepped = run(settings, data).state.sides["manual"][0]
    for p, dp, new in zip(*map(jax.tree.leaves, (params, dparams, stepped)), strict=True):
        np.testing.assert_allclose(new, p - 0.25 * dp, rtol=1e-12, atol=1e-15)


def test_the_digits_are_learned():
    """The defaults of the command, on the digits it trains on."""
    digits, held_out = load_digits(), np.arange(1797) % 5 == 0
    images, labels = (digits.images / 16).astype(np.float32), digits.target.astype(np.int32)
    data = tiny(name="digits")
    data.train_images, data.train_labels = images[~held_out], labels[~held_out]
    data.test_images, data.test_labels = images[held_out], labels[held_out]
    assert run(Settings(), data).state.records[-1]["test_accuracy"] >= 0.95


# ---------------------------------------------------------------- the full batch


@pytest.mark.parametrize(("net", "side"), [("mlp", "manual"), ("mlp", "autodiff"), ("cnn", "manual")])
def test_a_full_batch_in_chunks_is_the_whole_batch(net, side):
    data, network = tiny(train=10), NETWORKS[net]
    params = network.initial((6, 6), 4, 0, "float64")
    X, Y = loop.chunked(data.train_images, data.train_labels, 4, 10, "float64")
    whole = jax.jit(network.gradients["autodiff"])(params, X[0], Y[0])
    chunks = loop.chunked(data.train_images, data.train_labels, 4, 4, "float64")  # 4, 4, 2 and two to fill up
    parts = jax.jit(partial(loop.full_batch_gradient, network.gradients[side], N=10))(params, *chunks)
    for a, b in zip(*map(jax.tree.leaves, (parts, whole)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)


def test_a_full_batch_needs_a_tenth_of_the_memory():
    network = NETWORKS["mlp"]
    params = network.initial((28, 28), 10, 0, "float32")

    def temporaries(gradient, *shapes):
        like = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return jax.jit(gradient).lower(params, *like).compile().memory_analysis().temp_size_in_bytes

    chunks = (60, 1000, 28, 28), (60, 1000, 10)
    by_hand = temporaries(partial(loop.full_batch_gradient, network.gradients["manual"], N=60000), *chunks)
    at_once = temporaries(network.gradients["autodiff"], (60000, 28, 28), (60000, 10))
    assert 0 < by_hand < at_once / 10


def test_full_batch_descends():
    outcome = run(replace(SMALL, full_batch=True, gradient="both", epochs=5), tiny())
    losses = [r["train_loss"] for r in outcome.state.records]
    assert losses == sorted(losses, reverse=True)
    assert outcome.state.parted is None


# ---------------------------------------------------------------- stopped, resumed, diverged


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "momentum", "dtype": "bfloat16"},
        {"optimizer": "adam", "gradient": "both"},
        {"net": "cnn", "dtype": "float32"},
        {"full_batch": True},
    ],
    ids=str,
)
def test_a_resumed_run_is_the_same_to_the_bit(changes, tmp_path):
    settings, data, file = replace(SMALL, **changes), tiny(), tmp_path / "run.npz"
    program = build(settings, data)
    straight = train(program, initial_state(settings, data)).state
    asked = iter([False] * 2 + [True])
    stopped = train(program, initial_state(settings, data), should_stop=lambda: next(asked))
    assert stopped.status == "interrupted"
    assert (stopped.state.epoch, stopped.state.step) != (settings.epochs, 0)
    checkpoint.save(file, settings, stopped.state, data)
    resumed = train(program, checkpoint.restore(file, settings, data)).state
    assert same_bits(leaves(resumed), leaves(straight))
    assert [r | {"seconds": 0} for r in resumed.records] == [r | {"seconds": 0} for r in straight.records]


def test_how_an_epoch_is_cut_changes_nothing(monkeypatch):
    program, start = build(SMALL, tiny()), initial_state(SMALL, tiny())
    whole = train(program, start).state
    monkeypatch.setattr(loop, "PIECE", 0)  # one step at a time
    assert same_bits(leaves(train(program, start).state), leaves(whole))


def first_bad_step(settings, data):
    """The parameters before each step and its loss, in a plain loop, until a loss is not finite."""
    gradient = jax.jit(NETWORKS["mlp"].gradients["manual"])
    params, history = initial_state(settings, data).sides["manual"][0], []
    X, Y = jnp.asarray(data.train_images, float), jax.nn.one_hot(data.train_labels, 4, dtype=float)
    for epoch in range(settings.epochs):
        for at in loop.order_of_epoch(settings, len(X), epoch):
            rows = slice(None) if settings.full_batch else at
            loss, dparams = gradient(params, X[rows], Y[rows])
            if not np.isfinite(loss):
                return len(history), history[-1]
            history.append(params)
            params = jax.tree.map(lambda p, dp: p - settings.learning_rate * dp, params, dparams)
    raise AssertionError("every loss was finite")


@pytest.mark.parametrize(
    ("changes", "piece"),
    [
        ({"learning_rate": 1e30}, 0),
        ({"learning_rate": 1e30}, 10),
        ({"batch_size": 40}, 10),
        ({"full_batch": True}, 10),
    ],
    ids=str,
)
def test_the_last_good_parameters_are_kept(changes, piece, monkeypatch):
    """Within an epoch, and if the bad step is the first of its epoch."""
    monkeypatch.setattr(loop, "PIECE", piece)
    settings, data = replace(SMALL, **{"learning_rate": 1e60} | changes), tiny()
    bad, good = first_bad_step(settings, data)
    outcome = run(settings, data)
    assert outcome.status == "diverged"
    assert outcome.bad_step == bad + 1
    kept = outcome.state.sides["manual"][0]
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(good), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_start_with_a_nonfinite_loss_is_kept_unchanged():
    data = tiny()
    data.train_images[:] = np.inf
    outcome = run(SMALL, data)
    assert (outcome.status, outcome.bad_step) == ("diverged", 1)
    assert same_bits(leaves(outcome.state)[:10], leaves(initial_state(SMALL, data))[:10])


# ---------------------------------------------------------------- what decides a run


def test_seed_and_epoch_decide_the_batches():
    settings = replace(SMALL, batch_size=16)
    order = loop.order_of_epoch(settings, 40, 0)
    assert order.shape == (2, 16)
    assert len(np.unique(order)) == 32
    assert (order == loop.order_of_epoch(settings, 40, 0)).all()
    assert (order != loop.order_of_epoch(settings, 40, 1)).any()
    assert (order != loop.order_of_epoch(replace(settings, seed=1), 40, 0)).any()


def test_names_are_the_lectures():
    cnn = NETWORKS["cnn"].initial((6, 6), 4, 0, "float32")
    named = zip(parameter_names(cnn), jax.tree.leaves(cnn), strict=True)
    assert all(cnn[name] is leaf for name, leaf in named)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"net": "rnn"}, "net is 'rnn', expected one of mlp, cnn, gpt"),
        ({"net": "gpt"}, "net is 'gpt', expected mlp or cnn for tiny"),
        ({"gradient": "none"}, "gradient is 'none', expected one of manual, autodiff, both"),
        ({"optimizer": "lion"}, "optimizer is 'lion', expected one of sgd, momentum, adam"),
        ({"dtype": "int8"}, "dtype is 'int8', expected one of float64"),
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"batch_size": 41}, "batch_size is 41, expected at most the 40 training samples of tiny"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0, expected a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, expected a positive number"),
        ({"gradient": "both", "dtype": "bfloat16"}, "dtype is bfloat16, expected float64 or float32"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(changes, line):
    with pytest.raises(InputError) as error:
        build(replace(SMALL, **changes), tiny())
    assert line in str(error.value)


def test_float64_is_refused_where_jax_would_not_compute_it(x32):
    with pytest.raises(InputError, match="dtype is float64, expected JAX's jax_enable_x64 to be on"):
        build(SMALL, tiny())
