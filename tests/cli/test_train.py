"""``manual-grad train`` as users see it: tables and files, exit codes, one line for bad input."""

import json
import os
import resource
import signal
import sys

import jax
import numpy as np
import pytest

from manual_grad.cli import app as cli
from manual_grad.cli import train as cli_train
from manual_grad.networks.mlp import mlp_rows_fwd
from manual_grad.training import checkpoint, loop
from manual_grad.training.networks import NETWORKS
from tests.training.corners import tiny, tiny_gpt, tiny_text

FAST = "--epochs 3 --batch-size 8"
LOAD = cli_train._load


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Train on a tiny data set in a folder of its own: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        cli_train,
        "_load",
        lambda settings, *rest: tiny_text() if settings.net == "gpt" else tiny(name=settings.data),
    )

    def call(words):
        monkeypatch.setattr(sys, "argv", ["manual-grad", "train", *words.split()])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return exit.value.code, *capsys.readouterr()

    return call


def content(path):
    with open(path) as file:
        return json.load(file)


def arrays(path):
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files if name != "run.json"}


def test_table_json_plot_and_parameters(run):
    code, out, error = run(f"{FAST} --json run.json --plot curve.png --save params.npz")
    assert (code, error) == (0, "")
    assert "test accuracy" in out.splitlines()[-1]
    written = content("run.json")
    assert written["settings"] | {"epochs": 3, "batch_size": 8, "net": "mlp"} == written["settings"]
    assert written["environment"]["jax"] == jax.__version__
    assert [r["epoch"] for r in written["epochs"]] == [1, 2, 3]
    for record in written["epochs"]:
        assert {"train_loss", "test_accuracy", "seconds"} <= set(record)
    with open("curve.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    saved, data = arrays("params.npz"), tiny()
    params = [(jax.numpy.asarray(saved[f"W{l}"]), jax.numpy.asarray(saved[f"b{l}"])) for l in range(1, 6)]
    scores, _ = mlp_rows_fwd(params, jax.numpy.asarray(data.test_images.reshape(12, -1)))
    accuracy = np.mean(scores.argmax(axis=1) == data.test_labels)
    assert accuracy == pytest.approx(written["epochs"][-1]["test_accuracy"])


def test_a_gpt_writes_what_it_has_learned(run, monkeypatch):
    monkeypatch.setitem(NETWORKS, "gpt", tiny_gpt())
    monkeypatch.setattr(cli_train, "SAMPLE", 20)
    words = "--net gpt --gradient by-hand --epochs 2 --batch-size 5"
    code, out, error = run(f"{words} --json run.json --plot curve.svg --save whole.npz")
    assert (code, error) == (0, "")
    written = content("run.json")
    loss, bigram = written["epochs"][-1]["validation_loss"], written["data"]["bigram_loss"]
    assert f"validation loss {loss:.4f} after 2 epochs (topics, gpt, manual gradient, adam, " in out
    assert f"validation loss {bigram:.4f} for a table of bigrams\n\nSample:\n\n" in out
    assert len(out.partition("Sample:\n\n")[2]) == 1 + 20 + 1  # "e", which "The " leaves; a new line
    assert "blocks.0.qkv.W" in arrays("whole.npz")
    code, _, error = run("--resume whole.npz --net mlp")
    assert (code, error) == (
        2,
        "manual-grad: whole.npz is a run with net gpt; it cannot be continued with net mlp\n",
    )


def test_both_side_by_side(run, monkeypatch):
    code, out, _ = run(f"{FAST} --gradient both --dtype float64 --json run.json")
    assert code == 0
    assert "manual and autodiff agree at every step, to 1e-10 relative" in out
    assert all(r["loss_gap"] < 1e-10 and r["parameter_gap"] < 1e-10 for r in content("run.json")["epochs"])
    right = NETWORKS["mlp"].gradients

    def wrong(params, X, Y):
        loss, dparams = right["manual"](params, X, Y)
        return loss, jax.tree.map(
            lambda d: d.T if d.shape == (50, 50) else d, dparams
        )  # a transpose too many

    network = cli_train.loop.NETWORKS["mlp"]
    monkeypatch.setitem(
        NETWORKS, "mlp", network.__class__(**vars(network) | {"gradients": right | {"manual": wrong}})
    )
    code, out, _ = run(f"{FAST} --gradient both --dtype float64 --json run.json")
    assert code == 1
    assert "manual and autodiff diverge at step 1 (epoch 1), more than 1e-10 relative: W3 by " in out
    assert list(content("run.json")["parted"]["gaps"]) == ["W3"]


def test_interrupted_then_resumed_is_one_run(run, monkeypatch):
    words = "--epochs 3 --batch-size 2 --optimizer adam"
    assert run(f"{words} --save straight.npz --json straight.json")[0] == 0
    shown, endings = [], [signal.SIGTERM, signal.SIGINT]

    def end(*state):
        shown.append(state)
        if len(shown) == 2:
            ending = endings.pop()
            os.kill(os.getpid(), ending)
            os.kill(os.getpid(), ending)  # as a launcher passes it on

    monkeypatch.setattr(cli_train, "_show_state", end)
    code, out, error = run(f"{words} --save part.npz")
    assert (code, out) == (130, "")
    assert error.startswith("manual-grad: interrupted in epoch 1 of 3, after ")
    assert error.endswith("of its steps; saved: continue with --resume part.npz\n")
    code, _, error = run("--resume part.npz --save whole.npz --json whole.json")
    assert (code, error) == (0, "")
    straight, whole = arrays("straight.npz"), arrays("whole.npz")
    assert set(straight) == set(whole)
    assert all(straight[name].tobytes() == whole[name].tobytes() for name in straight)
    for a, b in zip(content("straight.json")["epochs"], content("whole.json")["epochs"], strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}
    shown.clear()
    assert run(words)[2].endswith("nothing was saved: --save was not given\n")
    assert not endings


def test_a_run_is_saved_periodically(run, monkeypatch):
    monkeypatch.setattr(cli_train, "SAVE_EVERY", 0)

    def end_at_once(*state):
        if os.path.exists("part.npz"):
            raise RuntimeError("as if the machine went off")

    monkeypatch.setattr(cli_train, "_show_state", end_at_once)
    with pytest.raises(RuntimeError, match="as if"):
        run(f"{FAST} --save part.npz")
    state = checkpoint.restore("part.npz", loop.Settings(epochs=3, batch_size=8), tiny(name="digits"))
    assert (state.epoch, state.step) == (1, 0)


def test_a_required_accuracy(run):
    code, out, _ = run(f"{FAST} --at-least 10 --json run.json")
    assert code == 0
    assert out.splitlines()[-1].startswith("at least 10%: reached, ")
    assert content("run.json")["reached"] is True
    code, out, _ = run("--epochs 1 --batch-size 40 --learning-rate 1e-9 --at-least 99.5 --json run.json")
    assert code == 1
    assert out.splitlines()[-1].startswith("at least 99.5%: missed, ")
    assert out.splitlines()[-1].endswith("% after epoch 1")
    assert content("run.json")["reached"] is False


def test_a_loss_that_is_not_finite_stops_the_run(run):
    code, _, error = run(f"{FAST} --learning-rate 1e30 --save good.npz --json run.json")
    assert code == 1
    assert error.count("\n") == 1
    assert "the loss is not finite at step " in error
    assert error.endswith("the last good parameters are in good.npz\n")
    assert content("run.json")["status"] == "diverged"
    assert all(np.isfinite(array).all() for array in arrays("good.npz").values())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--net rnn", "--net is 'rnn', expected one of mlp, cnn, gpt"),
        ("--net gpt --full-batch", "--full-batch is True, which does not apply to --net gpt"),
        ("--net gpt --at-least 90", "--at-least is 90.0, which does not apply to --net gpt"),
        ("--net gpt --coordinator auto", "--coordinator is auto, which does not apply to --net gpt"),
        ("--net gpt --devices 2", "--devices is 2, which does not apply to --net gpt"),
        ("--data topics", "--data is 'topics', which applies to --net gpt only"),
        ("--net gpt --data digits", "--data is 'digits', expected topics for --net gpt"),
        ("--net gpt --batch-size 99", "--batch-size is 99, expected at most the 20 training samples"),
        ("--resume run.npz --net gpt", "run.npz is a run with net mlp; it cannot be continued with net gpt"),
        ("--batch-size 41", "--batch-size is 41, expected at most the 40 training samples of digits"),
        ("--batch-size 0", "--batch-size is 0, expected at least 1"),
        ("--epochs 0", "--epochs is 0, expected at least 1"),
        ("--learning-rate 0", "--learning-rate is 0.0, expected a positive number"),
        ("--optimizer lion", "--optimizer is 'lion', expected one of sgd, momentum, adam"),
        ("--gradient both --dtype float16", "--dtype is float16, expected float64 or float32 for both"),
        ("--seed -1", "Invalid value for '--seed'"),
        ("--devices 999", "--devices is 999, expected at most the "),
        ("--num-processes 2", "--num-processes and --process-id require --coordinator HOST:PORT"),
        (
            "--coordinator x --num-processes 2 --process-id 0",
            "--coordinator is 'x', expected HOST:PORT or auto",
        ),
        ("--json /dev/null", "--json is '/dev/null', a device or pipe; expected a file"),
        ("--json no/run.json", "--json is 'no/run.json', but there is no folder"),
        ("--save folder.npz", "--save is 'folder.npz', a folder; expected a file"),
        ("--save params.txt", "--save is 'params.txt', expected a name that ends in .npz"),
        ("--plot curve.gif", "--plot is 'curve.gif', expected a name that ends in .png, .svg or .pdf"),
        ("--resume none.npz", "there is no file 'none.npz'"),
        ("--resume text.npz", "text.npz was not written by manual-grad train, or is damaged"),
        ("--resume cut.npz", "cut.npz was not written by manual-grad train, or is damaged"),
        ("--resume other.npz", "other.npz holds no run of manual-grad train"),
        ("--resume run.npz --net cnn", "run.npz is a run with net mlp; it cannot be continued with net cnn"),
        ("--resume run.npz --seed 1", "run.npz is a run with seed 0; it cannot be continued with seed 1"),
        (
            "--resume run.npz --data mnist",
            "run.npz is a run with data digits; it cannot be continued with data mnist",
        ),
        ("--resume run.npz --epochs 1", "--epochs is 1, but run.npz has already trained for 2"),
        ("--resume foreign.npz", "foreign.npz is a run on different samples"),
        ("--resume short.npz", "short.npz does not match this version: W5 is [25, 3], expected [25, 4]"),
    ],
)
def test_bad_input_gives_one_line_and_nothing_is_written(run, saved, words, line):
    for name, found in saved.items():
        with open(name, "wb") as file:
            file.write(found)
    os.mkdir("folder.npz")
    before = sorted(os.listdir())
    code, out, error = run(words)
    assert (code, out) == (2, "")
    assert error.startswith("manual-grad: ")
    assert error.count("\n") == 1
    assert line in error
    assert sorted(os.listdir()) == before


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of two epochs, and what can go wrong with it: each file's bytes by its name."""
    folder = tmp_path_factory.mktemp("saved")
    settings, data = loop.Settings(epochs=2, batch_size=8), tiny(name="digits")
    state = loop.train(loop.build(settings, data), loop.initial_state(settings, data)).state
    checkpoint.save(folder / "run.npz", settings, state, data)
    checkpoint.save(folder / "foreign.npz", settings, state, tiny(name="digits", seed=1))
    np.savez(folder / "other.npz", x=np.ones(3))
    with np.load(folder / "run.npz") as archive:
        np.savez(folder / "short.npz", **dict(archive) | {"W5": archive["W5"][:, :3]})
    files = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    return files | {"text.npz": b"no archive", "cut.npz": files["run.npz"][:-2000]}


def test_a_full_disk_gives_one_line_and_the_older_file_stays(run, saved):
    with open("params.npz", "wb") as file:
        file.write(saved["run.npz"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        code, out, error = run(f"{FAST} --save params.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert error == "manual-grad: --save: params.npz could not be written: File too large\n"
    assert "test accuracy" in out.splitlines()[-1], "what the run came to is not lost"
    with open("params.npz", "rb") as file:
        assert file.read() == saved["run.npz"]
    assert os.listdir() == ["params.npz"]


@pytest.mark.parametrize(
    ("module", "words", "line"),
    [
        ("optax", "--optimizer adam", "the optimizer adam needs Optax: pip install 'manual-grad[train]'"),
        ("matplotlib.figure", "--plot a.png", "--plot needs Matplotlib: pip install 'manual-grad[train]'"),
    ],
)
def test_a_missing_extra_gives_one_line(run, monkeypatch, module, words, line):
    monkeypatch.setitem(sys.modules, module, None)
    code, _, error = run(words)
    assert (code, error) == (2, f"manual-grad: {line}\n")


def test_other_digits_are_not_called_mnist(run, tmp_path, monkeypatch):
    monkeypatch.setattr(cli_train, "_load", LOAD)
    rng = np.random.default_rng(0)
    for part, n in (("train", 96), ("t10k", 32)):
        for kind, array in (
            ("images-idx3", rng.integers(0, 256, (n, 28, 28), np.uint8)),
            ("labels-idx1", rng.integers(0, 10, n).astype(np.uint8)),
        ):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(s.to_bytes(4, "big") for s in array.shape)
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())
    code, out, _ = run("--data mnist --mnist-source . --epochs 1 --json r.json")
    assert code == 0
    assert "(idx, mlp" in out
    about = json.loads((tmp_path / "r.json").read_text())["data"]
    assert (about["name"], about["train_samples"], about["test_samples"]) == ("idx", 96, 32)
    assert about["source"] in " ".join(out.split())
