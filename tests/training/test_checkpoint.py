"""A saved run that is damaged, or of an older version, gives one clear line that says where."""

import json

import numpy as np
import pytest

from manual_grad import npz
from manual_grad.border import InputError
from manual_grad.training import checkpoint, loop
from tests.training.corners import tiny

SETTINGS = loop.Settings(epochs=2, batch_size=8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run that has not begun: what it says of itself, and its arrays."""
    path = tmp_path_factory.mktemp("saved") / "run.npz"
    checkpoint.save(path, SETTINGS, loop.initial_state(SETTINGS, tiny()), tiny())
    arrays, _ = npz.read(path)
    return json.loads(arrays.pop(checkpoint.META).tobytes()), arrays


def restored(path, about, arrays):
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(path / "run.npz", **arrays, **{checkpoint.META: text})
    return checkpoint.restore(path / "run.npz", SETTINGS, tiny())


RECORD = {"epoch": 1, "train_loss": 1.0, "test_accuracy": 0.5, "seconds": 0.1}
WRONG = {
    "epoch is -1, expected an integer from 0": {"epoch": -1},
    "epoch is 'x', expected an integer from 0": {"epoch": "x"},
    "epoch is 1, and its 0 records are not those of epochs 1 to 1": {"epoch": 1},
    "step is true, expected an integer from 0": {"step": True},
    "step is 99, expected at most 5": {"step": 99},
    "seconds is null, expected a number from 0": {"seconds": None},
    "records is 'x', expected a list": {"records": "x"},
    "records[0].test_accuracy is 2, expected a share": {
        "epoch": 1, "records": [RECORD | {"test_accuracy": 2}]
    },
    "records[0].train_loss is a list of 0": {"epoch": 1, "records": [RECORD | {"train_loss": []}]},
    "parted is a list of 1, expected an object or null": {"parted": [1]},
    "parted.gaps is missing": {"parted": {"epoch": 1, "step": 1}},
    "settings is null, expected an object": {"settings": None},
    "settings.net is 'rnn', expected one of mlp, cnn, gpt": {"settings": {"net": "rnn"}},
    "settings.seed is 0.5, expected an integer": {"settings": {"seed": 0.5}},
    "settings.momentum is 1, expected no setting but net": {"settings": {"momentum": 1}},
    "fingerprint is 5, expected an object": {"fingerprint": 5},
    "it is a list of 0, expected an object": [],
    "it is nested deeper than 64": {"parted": json.loads("[" * 99 + "]" * 99)},
}  # fmt: skip


def test_a_run_that_was_saved_is_restored(saved, tmp_path):
    assert restored(tmp_path, *saved).epoch == 0


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_field_is_named(saved, tmp_path, said):
    about, arrays = saved
    changes = WRONG[said]
    with pytest.raises(InputError) as error:
        restored(tmp_path, about | changes if isinstance(changes, dict) else changes, arrays)
    assert said in str(error.value)
    assert "run.npz" in str(error.value)


@pytest.mark.parametrize("change", [np.ndarray.astype, lambda array, dtype: array.astype(dtype)[None]])
def test_complex_parameters_are_refused(saved, tmp_path, change):
    about, arrays = saved
    with pytest.raises(InputError, match=r"does not match this version: W1 is (complex64)?\[.*expected"):
        restored(tmp_path, about, arrays | {"W1": change(arrays["W1"], "complex64")})
