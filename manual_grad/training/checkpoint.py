"""A run in a file: parameters by name, and everything needed to resume the run bit for bit."""

import io
import json
import zlib
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from manual_grad import npz
from manual_grad.border import InputError, describe, require
from manual_grad.environment import write_bytes
from manual_grad.forms import (
    NOT_NEGATIVE,
    NULL,
    NUMBER,
    POSITIVE,
    TEXT,
    TRUTH,
    Form,
    misfit,
    one_of,
    parsed,
    whole,
)
from manual_grad.training.loop import DTYPES, GRADIENTS, OPTIMIZERS, Data, Settings, State, initial_state
from manual_grad.training.networks import NETWORKS, parameter_names

META = "run.json"
ANY_NUMBER = Form("a number", lambda value: isinstance(value, float) or NUMBER.fits(value))
SHARE = Form("a share from 0 to 1", lambda value: NUMBER.fits(value) and 0 <= value <= 1)
MEASURES = {"test_accuracy": SHARE, "validation_loss": ANY_NUMBER}
RECORD = {"epoch": whole(1), "seconds": NOT_NEGATIVE}
GAPS = {"loss_gap": ANY_NUMBER, "parameter_gap": ANY_NUMBER}
RUN = {
    "settings": {
        "net?": one_of(*NETWORKS),
        "data?": TEXT,
        "gradient?": one_of(*GRADIENTS),
        "epochs?": whole(1),
        "batch_size?": whole(1),
        "learning_rate?": POSITIVE,
        "optimizer?": one_of(*OPTIMIZERS),
        "full_batch?": TRUTH,
        "seed?": whole(0),
        "dtype?": one_of(*DTYPES),
        "*": Form(
            f"no setting but {', '.join(field.name for field in fields(Settings))}", lambda value: False
        ),
    },
    "fingerprint": {"data": TEXT, "images": [whole(0)], "checksum": whole(0, 2**32)},
    "epoch": whole(0),
    "step": whole(0),
    "seconds": NOT_NEGATIVE,
    "records": [RECORD],
    "parted": ({"epoch": whole(1), "step": whole(1), "gaps": {"*": ANY_NUMBER}}, NULL),
}


def fingerprint(data: Data) -> dict[str, Any]:
    """A fingerprint of a data set: sizes, and a checksum of the training samples.

    The images are compared in float32, whatever the dtype of the computation.
    """
    images = np.ascontiguousarray(data.train_images, np.float32)
    checksum = zlib.crc32(data.train_labels.astype(np.int32).tobytes(), zlib.crc32(images.tobytes()))
    return {"data": data.name, "images": list(images.shape), "checksum": checksum}


def checksum(state: State, data: Data) -> int:
    """A fingerprint of the start of a run: a checksum of samples, progress and parameters."""
    known = json.dumps([fingerprint(data), state.epoch, state.step]).encode()
    for leaf in jax.tree.leaves(state.sides):
        known += np.asarray(leaf).tobytes()
    return zlib.crc32(known)


def save(path: Path, settings: Settings, state: State, data: Data) -> None:
    """Write a run as ``.npz``: ``W1``, ``b1``, … (``manual/W1``, … where both gradients train), and the rest.

    Raises:
        OSError: the file could not be written; an existing file of that name is left untouched.
    """
    arrays: dict[str, Any] = {name: _storable(array) for name, array in _named(state).items()}
    about = {
        "settings": asdict(settings),
        "fingerprint": fingerprint(data),
        "epoch": state.epoch,
        "step": state.step,
        "seconds": state.seconds,
        "records": state.records,
        "parted": state.parted,
    }
    arrays[META] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, **arrays)
    write_bytes(path.absolute(), file.getvalue())


def _named(state: State) -> dict[str, Any]:
    """Every array of a state by its name in the file."""
    arrays: dict[str, Any] = {}
    for side, (params, rest) in state.sides.items():
        prefix = f"{side}/" if len(state.sides) > 1 else ""
        leaves = zip(parameter_names(params), jax.tree.leaves(params), strict=True)
        arrays |= {f"{prefix}{name}": leaf for name, leaf in leaves}
        arrays |= {f"{prefix}optimizer/{i}": leaf for i, leaf in enumerate(jax.tree.leaves(rest))}
        arrays[f"{prefix}losses"] = state.losses[side]
    return arrays | {"gaps": state.gaps}


def _storable(array: Any) -> np.ndarray:
    """NumPy files do not support bfloat16; float32 represents it exactly."""
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """``(arrays, about)`` of a file that :func:`save` wrote.

    Raises:
        InputError: there is no such file, or it is not a run, or it is damaged.
    """

    def choose(there: list[str]) -> list[str]:
        require(META in there, f"{path} holds no run of manual-grad train (it has no {META})")
        return there

    try:
        arrays, _ = npz.read(path, choose)
        about = parsed(arrays.pop(META).tobytes(), finite=False)
    except FileNotFoundError:
        raise InputError(f"there is no file {str(path)!r}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        if str(error).startswith(f"{path} holds no run"):
            raise
        raise InputError(f"{path} was not written by manual-grad train, or is damaged ({error})") from None
    if found := misfit(about, RUN) or _contradiction(about):
        raise InputError(f"{path} was not written by manual-grad train, or is damaged: {found}")
    return arrays, about


def _contradiction(about: dict[str, Any]) -> str:
    """A contradiction in a file, or ""."""
    records, epoch, settings = about["records"], about["epoch"], Settings(**about["settings"])
    measure = NETWORKS[settings.net].measure
    side: dict[str, Any] = {"train_loss": ANY_NUMBER, measure: MEASURES[measure]}
    if found := misfit(records, [side], "records"):
        return found
    if [record["epoch"] for record in records] != list(range(1, epoch + 1)):
        return f"epoch is {epoch}, and its {len(records)} records are not those of epochs 1 to {epoch}"
    if settings.gradient == "both":
        return misfit(records, [{"autodiff": side, **GAPS}], "records")
    return ""


def restore(path: Path, settings: Settings, data: Data) -> State:
    """The state in a file, for ``settings``, which may differ from the saved ones only in ``epochs``.

    Raises:
        InputError: the file is not a run, or belongs to other settings or another data set.
    """
    arrays, about = read(path)
    require_same(path, Settings(**about["settings"]), settings)
    require(
        about["fingerprint"] == fingerprint(data),
        f"{path} is a run on different samples: {about['fingerprint']}, not {fingerprint(data)}",
    )
    fresh = initial_state(settings, data)
    wanted = _named(fresh)
    for name, like in wanted.items():
        require(
            name in arrays and arrays[name].shape == np.shape(like),
            f"{path} does not match this version: {name} is "
            f"{list(arrays[name].shape) if name in arrays else 'missing'}, expected {list(np.shape(like))}",
        )
    for name, like in wanted.items():
        kept, given = _storable(like).dtype, arrays[name].dtype
        require(
            (given.kind, given.itemsize) == (kept.kind, kept.itemsize),
            f"{path} does not match this version: {name} is {describe(arrays[name])}, expected {kept}",
        )
    steps = len(next(iter(fresh.losses.values())))
    require(
        about["step"] <= steps,
        f"{path} does not match this version: step is {about['step']}, expected at most {steps}",
    )
    found = [arrays[name].astype(np.asarray(like).dtype) for name, like in wanted.items()]
    return replace(
        _rebuilt(fresh, dict(zip(wanted, found, strict=True))),
        **{name: about[name] for name in ("epoch", "step", "seconds", "parted")},
        records=tuple(about["records"]),
    )


def require_same(path: Path, theirs: Settings, settings: Settings) -> None:
    """Refuse to resume a run with settings other than its own, except for ``epochs``."""
    for name, value in asdict(replace(theirs, epochs=settings.epochs)).items():
        ours = getattr(settings, name)
        require(
            ours == value, f"{path} is a run with {name} {value}; it cannot be continued with {name} {ours}"
        )


def _rebuilt(fresh: State, arrays: dict[str, np.ndarray]) -> State:
    """``fresh`` with its arrays replaced by those with the same names."""
    sides, losses = {}, {}
    for side, (params, rest) in fresh.sides.items():
        prefix = f"{side}/" if len(fresh.sides) > 1 else ""
        leaves = [arrays[f"{prefix}{name}"] for name in parameter_names(params)]
        others = [arrays[f"{prefix}optimizer/{i}"] for i in range(len(jax.tree.leaves(rest)))]
        sides[side] = (
            jax.tree.unflatten(jax.tree.structure(params), leaves),
            jax.tree.unflatten(jax.tree.structure(rest), others),
        )
        losses[side] = arrays[f"{prefix}losses"]
    return replace(fresh, sides=sides, losses=losses, gaps=arrays["gaps"])
