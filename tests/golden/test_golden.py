"""Golden vectors: read back without the project, compared, diagnosed, for every formula and in every case."""

import functools
import inspect
import itertools
import json
import math
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import manual_grad
import manual_grad_reference as reference
from manual_grad import InputError, catalogue
from manual_grad.catalogue.draw import Draw, differentiable
from manual_grad.compiling import compiled, quickly
from manual_grad.golden import archive
from manual_grad.golden import vectors as golden
from manual_grad.golden.exported import FORMULAS

REARRANGING = {  # of Jacobians
    "as_matrix",
    "block_diagonal",
    "chain",
    "diagonal",
    "from_column_stacking",
    "multiply_out",
}
WITH_TIES = [name for name, formula in FORMULAS.items() if "ties" in formula.cases]
NARROW = ("float32", "bfloat16", "float16")
PAIRS = [formula for formula in FORMULAS.values() if formula.kind == "pair"]
IN_TURN = [  # every third pair, in one dtype and one of its cases
    (pair.name, NARROW[i % 3], pair.cases[-1 - i // 3 % len(pair.cases)]) for i, pair in enumerate(PAIRS[::3])
]


def by_hand(made):
    """The formula's own answers, from an archive's inputs, by the archive's names."""
    formula, given = FORMULAS[made.meta["formula"]], {}
    for name in made.meta["inputs"]:
        prefix = f"in/{name}"
        leaves = {n[len(prefix) + 1 :]: jnp.asarray(a) for n, a in made.arrays.items() if _under(n, prefix)}
        given[name] = golden._tree(leaves)
    given |= {name: golden._hashable(value) for name, value in made.meta["settings"].items()}
    if formula.kind == "pair":
        return _pair_by_hand(formula, given, jax.tree.map(jnp.asarray, made.dout))
    fn = formula.entry.called or getattr(manual_grad, formula.name)
    if "dtype" in inspect.signature(fn).parameters:
        given["dtype"] = made.meta["dtype"]
    out = compiled(fn, **given)
    if formula.kind == "value":
        return golden._named("out", out)
    outs = out if isinstance(out, tuple) else (out,)
    return {f"jac/{name}": np.asarray(J) for name, J in zip(formula.wrt, outs, strict=True)}


def _under(name, prefix):
    return name == prefix or name.startswith(f"{prefix}/")


def _pair_by_hand(formula, given, dout):
    fwd, bwd = (getattr(manual_grad, f"{formula.name}_{half}") for half in ("fwd", "bwd"))

    def run(dout, **given):
        out, res = fwd(**given)
        return out, bwd(res, dout)

    out, grads = compiled(run, dout, **given)
    named = zip((name for name, value in given.items() if differentiable(value)), grads, strict=True)
    return golden._named("out", out) | {
        n: a for name, g in named for n, a in golden._named(f"grad/{name}", g).items()
    }


@functools.cache
def exported(name, dtype="float64", case="random"):
    return golden.export(name, dtype, case)


@pytest.fixture
def compared(tmp_path):
    """``manual-grad golden compare`` on an archive in memory and arrays by name."""
    count = itertools.count()

    def checker(made, mine, suffix=".npz"):
        paths = [tmp_path / f"{next(count)}{s}" for s in (suffix, ".npz")]
        paths[0].write_bytes(golden.packed(made, suffix))
        paths[1].write_bytes(archive.packed(".npz", mine, {}))
        return golden.compare(*paths)[1]

    return checker


def test_every_public_formula_is_exported():
    public = {name for name in manual_grad.__all__ if name[0].islower()} - REARRANGING
    assert {golden.formula_named(name).name for name in public} == set(FORMULAS)
    assert sum(len(f.cases_of(variant)) for f in FORMULAS.values() for variant in f.variants) >= 218


@pytest.mark.parametrize("name", [name for name, formula in FORMULAS.items() if len(formula.variants) > 1])
def test_every_case_can_be_drawn_in_every_variant(name):
    formula, drawing = FORMULAS[name], Draw(np.random.default_rng(0), jnp.dtype("float32"))
    for variant in list(formula.variants)[1:]:
        cases = [formula.inputs(drawing, case, variant) for case in formula.cases_of(variant)]
        shapes = [jax.tree.map(np.shape, inputs) for inputs in cases]
        assert all(shape == shapes[0] for shape in shapes)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_formula_by_hand_is_within_its_budget(compared, name):
    """Nothing of the truth comes from the formula; what the archive says of it is complete."""
    made = exported(name)
    findings = compared(made, by_hand(made))
    assert all(f.ok and 0 <= f.share <= 1 and not f.diagnosis for f in findings), findings
    assert {f.name for f in findings} == set(made.compared)
    assert all(f" {array} " in made.readme for array in made.arrays)
    assert FORMULAS[name].tags
    assert all(tag in made.readme for tag in FORMULAS[name].tags)
    assert any(np.any(made.arrays[n]) for n in made.compared)


@pytest.mark.parametrize(("name", "dtype", "case"), IN_TURN)
def test_the_formula_in_the_same_dtype_passes(compared, name, dtype, case):
    made = exported(name, dtype, case)
    findings = compared(made, by_hand(made))
    assert all(f.ok for f in findings), findings


# --- the truths of the three cases ------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_TIES)
def test_ties_are_ties(name):
    """Logits or maxima are equal, or ReLU's input contains zeros, through which the gradient is 0."""
    made = exported(name, "float64", "ties")
    a = made.arrays
    if "window" in made.meta["settings"]:  # a place of each window takes all of its cotangent
        assert len(np.unique(a["in/x"])) == 3
        assert np.count_nonzero(a["grad/x"]) <= a["out"].size
        np.testing.assert_allclose(a["grad/x"].sum(), a["dout"].sum(), rtol=1e-12)
        return
    logits = next((a[n] for n in ("in/logits", "in/Z", "in/s", "in/W") if n in a), None)
    if "in/x" in a and "in/W1" not in a and "in/params/0/W" not in a:
        x, truth = a["in/x"], a[made.compared[0]]
        assert not np.signbit(x[0]).any()
        assert np.signbit(x[1]).all()
        assert not x[:2].any()
        assert not truth[:2].any()
        assert truth[2:].any()
    elif logits is not None and "in/params/0/W" not in a:
        largest = logits.T if name.endswith("columns") else logits
        rows = np.atleast_2d(largest)[: 2 if logits.ndim > 1 else 1]
        assert (
            any((row == row.max()).sum() == 2 for row in rows) or (a["in/W"][:, 4] == a["in/W"][:, 9]).all()
        )
    else:
        b = next(n for n in ("in/params/0/b", "in/params/b1", "in/b1") if n in a)
        grad = "out/0" if made.meta["kind"] == "value" else b.replace("in/", "grad/")
        assert a[b][:2].tolist() == [0, 0]
        assert np.signbit(a[b][:2]).tolist() == [False, True]
        assert not a[grad][:2].any()
        assert ("in/params/0/W" in a and "in/y" in a) or a[grad][2:].any()  # its last layer may be dead


def test_a_mask_that_lets_ties_through_is_refused(compared):
    """What jax.grad of jnp.where(x >= 0, x, 0) gives."""
    made = golden.export("relu", "float32", "ties")
    x, dout = made.arrays["in/x"], made.arrays["dout"]
    for mask, ok in ((x > 0, True), (x >= 0, False), ((x > 0) + (x == 0) / 2, False)):
        assert compared(made, {"grad/x": mask * dout})[0].ok == ok


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_extreme_logits_have_the_known_answer(dtype):
    """p is one-hot or uniform to all digits, −log p is the distance to the maximum."""
    made = golden.export("softmax_cross_entropy", dtype, "extreme")
    logits = made.arrays["in/logits"].astype(np.float64)
    labels, dout = made.arrays["in/labels"].astype(np.float64), float(made.arrays["dout"])
    assert logits[0].min() < -9000
    assert logits[0].max() > 9000
    p = np.array([np.eye(7)[2], np.full(7, 1 / 7), np.eye(7)[3]])
    np.testing.assert_allclose(made.arrays["grad/logits"][:3], dout * (p - labels[:3]) / 5, rtol=1e-12)
    rest = logits - logits.max(axis=1, keepdims=True)
    logs = np.array([[float(r) - math.log(math.fsum(map(math.exp, row))) for r in row] for row in rest])
    np.testing.assert_allclose(made.arrays["grad/labels"], -dout * logs / 5, rtol=1e-12)
    np.testing.assert_allclose(made.arrays["out"], -math.fsum((labels * logs).ravel()) / 5, rtol=1e-12)


@pytest.mark.parametrize("name", ["sigmoid", "softplus", "tanh"])
def test_extreme_activations_have_the_known_answer(name):
    made = golden.export(name, "float32", "extreme")
    x, dout = (made.arrays[n].astype(np.float64) for n in ("in/x", "dout"))
    e = np.exp(-np.abs(x))
    value = {
        "sigmoid": np.where(x >= 0, 1, e) / (1 + e),
        "softplus": np.maximum(x, 0) + np.log1p(e),
        "tanh": np.tanh(x),
    }[name]
    slope = {
        "sigmoid": e / (1 + e) ** 2,
        "softplus": np.where(x >= 0, 1, e) / (1 + e),
        "tanh": 1 / np.cosh(np.clip(x, -300, 300)) ** 2,
    }[name]
    np.testing.assert_allclose(made.arrays["out"], value, rtol=1e-12, atol=0)
    np.testing.assert_allclose(
        made.arrays["grad/x"], dout * slope, rtol=1e-12, atol=1e-15 * np.abs(dout).max()
    )
    assert 0 < np.abs(x).min() < np.finfo(np.float32).tiny  # subnormal


@pytest.mark.parametrize(
    ("name", "up", "down", "dtype"),
    [
        ("dense_rows", "X", "W", "float16"),
        ("conv2d", "x", "kernel", "float64"),
    ],
)
def test_extreme_factors_leave_the_products_as_they_were(name, up, down, dtype):
    """By powers of two, so that nothing rounds: each gradient is that of the case random, scaled."""
    plain, extreme = (exported(name, dtype, case).arrays for case in ("random", "extreme"))
    k = 2.0 ** (500 if dtype == "float64" else 6)
    assert np.abs(extreme[f"in/{up}"]).max() > (1e150 if dtype == "float64" else 100)
    tolerance = 1e-9 if dtype == "float64" else 5e-3  # in float16 the smallest weights lose digits
    for array, factor in ((f"grad/{up}", 1 / k), (f"grad/{down}", k), ("out", 1)):
        scale = np.abs(plain[array]).max()
        np.testing.assert_allclose(extreme[array] / factor, plain[array], rtol=0, atol=tolerance * scale)


def test_the_stable_functions_are_the_plain_ones():
    """Each of ``reference/stable.py`` is an entry's, and equal to its plain one on ordinary numbers."""
    entries = [e for e in catalogue.FORMULAS.values() if e.stable]
    stable = {name for name in vars(reference.stable) if name.startswith("stable_")}
    assert stable - {"stable_log_softmax"} == {e.stable.__name__ for e in entries}
    assert all(e.stable.__name__ == f"stable_{e.reference.__name__}" for e in entries)
    draw = Draw(np.random.default_rng(0))
    inputs = [tuple(e.for_reference(e.inputs(draw, next(iter(e.variants)))).values()) for e in entries]

    @quickly
    def values_and_gradients(inputs):
        return [
            [_weighed(getattr(e, of), *given) for e, given in zip(entries, inputs, strict=True)]
            for of in ("reference", "stable")
        ]

    for one, other in zip(*map(jax.tree.leaves, values_and_gradients(inputs)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-14)


def _weighed(fn, *args):
    """A function's value, and its gradients for a cotangent that is not constant."""
    floats = tuple(i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating))
    value = fn(*args)
    return value, jax.grad(lambda *a: jnp.sum(jnp.sin(1 + jnp.arange(value.size)) * fn(*a).ravel()), floats)(
        *args
    )


# --- read by others ---------------------------------------------------------------------------------------


def test_npz_is_read_by_numpy_alone(tmp_path):
    made = golden.export("conv2d", "bfloat16", variant="strides")
    (tmp_path / "g.npz").write_bytes(golden.packed(made, ".npz"))
    with zipfile.ZipFile(tmp_path / "g.npz") as members:
        assert {member.date_time for member in members.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(tmp_path / "g.npz") as read:
        assert set(read.files) == {*made.arrays, "golden.json", "README.txt"}
        for name, array in made.arrays.items():
            want = np.float32 if array.dtype == jnp.bfloat16 else array.dtype
            assert read[name].dtype == want
            assert (read[name] == array.astype(np.float64)).all()
        assert not (read["in/x"].view("<u4") & 0xFFFF).any()
        assert json.loads(read["golden.json"])["settings"] == {"strides": [2, 3]}
        assert "Z[n,i,j,o] = Σ_abc" in read["README.txt"].decode()
        x, kernel, bias, dout = (read[n].astype(np.float64) for n in ("in/x", "in/kernel", "in/bias", "dout"))
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))[:, ::2, ::3]
        out = np.einsum("nhwcab,abco->nhwo", windows, kernel) + bias
        np.testing.assert_allclose(out, read["out"], rtol=1e-12)
        np.testing.assert_allclose(
            np.einsum("nhwcab,nhwo->abco", windows, dout), read["grad/kernel"], rtol=1e-9
        )


def test_safetensors_is_read_by_struct_alone():
    made = golden.export("softmax_cross_entropy", "bfloat16")
    data = golden.packed(made, ".safetensors")
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert header.pop("__metadata__")["README.txt"] == made.readme
    assert set(header) == set(made.arrays)
    entry = header["in/logits"]
    begin, end = entry["data_offsets"]
    assert (entry["dtype"], entry["shape"]) == ("BF16", [5, 7])
    bits = np.frombuffer(data[8 + length + begin : 8 + length + end], "<u2").astype("<u4") << 16
    assert (bits.view("<f4") == made.arrays["in/logits"].astype(np.float32).ravel()).all()
    ends = sorted(e["data_offsets"] for e in header.values())
    assert all(first[1] == second[0] for first, second in itertools.pairwise(ends))
    assert ends[-1][1] == len(data) - 8 - length


@pytest.mark.parametrize("suffix", archive.SUFFIXES)
def test_the_same_command_writes_the_same_file(suffix):
    first, second, other = (golden.packed(golden.export("mse", seed=s), suffix) for s in (3, 3, 4))
    assert first == second != other


@pytest.mark.parametrize("suffix", archive.SUFFIXES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16, np.int32])
def test_arrays_come_back(suffix, dtype):
    arrays = {
        "a/b": np.arange(6).reshape(2, 3).astype(dtype),
        "scalar": np.asarray(3, dtype),
        "t": np.arange(6.0).reshape(2, 3).T,
    }
    read, texts = archive.unpacked(archive.packed(suffix, arrays, {"README": "−0.0"}), suffix)
    assert texts == {"README": "−0.0"}
    for name, array in arrays.items():
        assert read[name].shape == array.shape
        assert (read[name].astype(np.float64) == array.astype(np.float64)).all()


def test_bfloat16_saved_by_numpy_is_understood(compared, tmp_path):
    """NumPy writes ml_dtypes' bfloat16 as two bytes without a meaning."""
    made = golden.export("relu", "bfloat16")
    np.savez(tmp_path / "mine.npz", **{"grad/x": made.arrays["grad/x"].astype(jnp.bfloat16)})
    (tmp_path / "g.safetensors").write_bytes(golden.packed(made, ".safetensors"))
    assert golden.compare(tmp_path / "g.safetensors", tmp_path / "mine.npz")[1][0].ok


# --- what is wrong with mine ------------------------------------------------------------------------------

MISTAKES = {
    "sign flipped": ("dense_rows", "grad/W", lambda a: -a["grad/W"]),
    "scaled by N = 5": ("softmax_cross_entropy", "grad/logits", lambda a: 5 * a["grad/logits"]),
    "scaled by 1/N": ("softmax_cross_entropy", "grad/logits", lambda a: a["grad/logits"] / 5),
    "zero": ("dense_rows", "grad/X", lambda a: 0 * a["grad/X"]),
    "missing mask": ("relu", "grad/x", lambda a: a["dout"]),
    "rotated": ("conv2d", "grad/kernel", lambda a: a["grad/kernel"][::-1, ::-1]),
    "cotangent ignored": ("mse", "grad/y", lambda a: a["grad/y"] / a["dout"]),
    "rows left out: only the first 4 of 5": ("dense_rows", "grad/b", lambda a: a["dout"][:-1].sum(axis=0)),
    "NaN": ("conv2d", "grad/bias", lambda a: np.nan * a["grad/bias"]),
}  # fmt: skip


@pytest.mark.parametrize("why", MISTAKES)
def test_a_wrong_gradient_is_refused_and_explained(compared, why):
    name, array, wrong = MISTAKES[why]
    made = exported(name)
    mine = {n: made.arrays[n] for n in made.compared} | {array: wrong(made.arrays)}
    findings = {f.name: f for f in compared(made, mine)}
    assert [n for n, f in findings.items() if not f.ok] == [array]
    assert why in findings[array].diagnosis
    assert findings[array].share > 1
    assert findings[array].where is not None


@pytest.mark.parametrize(
    ("name", "array", "wrong", "why"),
    [
        (
            "jac_softmax_logits",
            "jac/logits",
            lambda a: a * (np.abs(a) == np.abs(a).max(axis=(2, 3), keepdims=True)),
            "",
        ),
        ("jac_softmax_logits", "jac/logits", lambda a: -a, "sign flipped"),
        ("jac_mse_y_hat", "jac/y_hat", lambda a: 7 * a, "scaled by N = 7"),
        ("jac_dense_rows_W", "jac/W", lambda a: a.transpose(0, 1, 2, 3) / 5, "scaled by 1/N"),
        ("relu_prime", "out", lambda a: 2 * a, "scaled by 2"),
        ("jac_dense_rows_X_factors", "out/1", lambda a: -a, "sign flipped"),
    ],
)
def test_a_wrong_jacobian_or_value_is_refused_and_explained(compared, name, array, wrong, why):
    made = exported(name)
    mine = {n: made.arrays[n] for n in made.compared} | {array: wrong(made.arrays[array])}
    finding = next(f for f in compared(made, mine) if not f.ok)
    assert finding.name == array
    assert why in finding.diagnosis


def test_softmax_jacobian_without_its_off_diagonal_terms_is_named(compared):
    """Only its product with a cotangent shows it."""
    made = golden.export("jac_softmax_logits", variant="vector")
    J = np.diag(np.diag(made.arrays["jac/logits"]))
    assert "off-diagonal" in compared(made, {"jac/logits": J})[0].diagnosis


@pytest.mark.parametrize("dtype", NARROW)
def test_the_budget_is_no_blank_cheque(compared, dtype):
    """Zero, negated, off by 1/N, the last sample dropped."""
    made = golden.export("dense_rows", dtype)
    for wrong in (lambda g: 0 * g, lambda g: -g, lambda g: g * 5, lambda g: g / 5):
        mine = {n: wrong(made.arrays[n]) if n != "out" else made.arrays[n] for n in made.compared}
        assert [f.ok for f in compared(made, mine)] == [False, False, False, True]


# --- bad input --------------------------------------------------------------------------------------------


def test_arrays_that_do_not_fit_are_refused(compared):
    made = golden.export("dense_rows", "float32")
    right = {n: made.arrays[n] for n in made.compared}
    for wrong, line in (
        (
            {"grad/W": right["grad/W"].T},
            r"grad/W .* is float64\[4,3\], expected the shape \(3, 4\): transposed",
        ),
        ({"grad/b": made.arrays["dout"]}, r"expected the shape \(4,\): not summed over the batch \(axis 0\)"),
        ({"grad/W": np.ones((3, 4), int)}, r"grad/W .* is int64\[3,4\], expected floating-point numbers"),
        ({"grad/W": np.ones((3, 4), bool)}, r"grad/W .* is bool\[3,4\], expected floating-point numbers"),
        ({"in/X": made.arrays["in/X"] + 1}, r"in/X .* differs from .*: made for other inputs"),
        ({"dout": np.array(["text"])}, r"dout .* differs from .*: made for other inputs"),
    ):
        with pytest.raises(InputError, match=line):
            compared(made, right | wrong)
    with pytest.raises(InputError, match=r"has no array 'grad/b'; it has grad/X, grad/W, out"):
        compared(made, {n: a for n, a in right.items() if n != "grad/b"})


def test_another_formulas_archive_is_refused(tmp_path):
    for name, made in (
        ("a", golden.export("mse")),
        ("b", golden.export("relu")),
        ("c", golden.export("mse", seed=1)),
    ):
        (tmp_path / f"{name}.npz").write_bytes(golden.packed(made, ".npz"))
    with pytest.raises(InputError, match=r"b\.npz is for formula 'relu', .*a\.npz for 'mse'"):
        golden.compare(tmp_path / "a.npz", tmp_path / "b.npz")
    with pytest.raises(InputError, match=r"c\.npz is for seed 1, .*a\.npz for 0"):
        golden.compare(tmp_path / "a.npz", tmp_path / "c.npz")
    assert all(f.ok for f in golden.compare(tmp_path / "a.npz", tmp_path / "a.npz")[1])


@pytest.mark.parametrize("suffix", archive.SUFFIXES)
def test_a_file_cut_short_is_refused_wherever(tmp_path, suffix):
    data = golden.packed(golden.export("mse"), suffix)
    path = tmp_path / f"cut{suffix}"
    for end in (0, 1, 7, 8, 9, 40, 1000, len(data) // 2, len(data) - 30, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(InputError):
            golden.load(path)


def test_a_damaged_member_is_refused(tmp_path):
    data = bytearray(golden.packed(golden.export("mse"), ".npz"))
    data[200] ^= 1
    (tmp_path / "g.npz").write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        golden.load(tmp_path / "g.npz")


def test_an_archive_that_lost_an_array_is_refused(tmp_path):
    made = golden.export("mse")
    with zipfile.ZipFile(tmp_path / "g.npz", "w") as file:
        file.writestr("golden.json", json.dumps(made.meta))
    with pytest.raises(InputError, match=r"no longer has an array in/y_hat of shape \(7,\)"):
        golden.load(tmp_path / "g.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([None]))
    with pytest.raises(InputError, match="x holds objects, expected numbers"):
        golden.load(tmp_path / "objects.npz")


WRONG = {
    "golden.json kind is 'Jacobian'": {"kind": "Jacobian"},
    "golden.json kind is 'jacobian', and mse is a pair": {"kind": "jacobian"},
    "golden.json seed is '0', expected an integer from 0": {"seed": "0"},
    "golden.json case is a list of 1": {"case": ["random"]},
    "golden.json inputs is missing": {"inputs": ...},
    "golden.json arrays.dout is null, expected an object": {"arrays": {"dout": None}},
    "golden.json arrays.dout.shape[0] is -1": {"arrays": {"dout": {"shape": [-1]}}},
    "golden.json settings is a list of 0": {"settings": []},
    "its inputs are not those of mse (TypeError": {"settings": {"nonsense": 1}},
    "its inputs are not those of mse (KeyError": {"inputs": ["y_hat", "z"]},
    "the format 2, expected 1": {"format": 2},
    "holds no golden vectors": {"format": "1"},
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_field_is_named(tmp_path, said):
    made = golden.export("mse")
    meta = {k: v for k, v in (made.meta | WRONG[said]).items() if v is not ...}
    (tmp_path / "g.npz").write_bytes(archive.packed(".npz", made.arrays, {"golden.json": json.dumps(meta)}))
    with pytest.raises(InputError) as error:
        golden.load(tmp_path / "g.npz")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("grad/y", np.zeros(7, complex), r"grad/y is complex128\[7\], expected floating-point numbers"),
        ("in/y", np.zeros(7, complex), r"in/y is complex128\[7\], expected floating-point numbers"),
        ("budget/y", np.full(7, np.nan), r"budget/y has entries that are not valid error bounds"),
        ("grad/y", np.zeros(6), r"grad/y is float64\[6\], expected the shape \(7,\)"),
        ("dout", np.zeros(7), "its inputs are not those of mse"),
        ("grad/z", np.zeros(7), "grad/z is not one of its formula's arrays"),
        ("in/y", np.array(["text"] * 7), "in/y is <U4"),
    ],
)
def test_a_wrong_array_is_named(tmp_path, name, array, said):
    made = golden.export("mse")
    arrays = made.arrays | {name: array}
    meta = made.meta | {"arrays": {n: {"shape": list(a.shape)} for n, a in arrays.items()}}
    (tmp_path / "g.npz").write_bytes(archive.packed(".npz", arrays, {"golden.json": json.dumps(meta)}))
    with pytest.raises(InputError, match=said):
        golden.load(tmp_path / "g.npz")


@pytest.mark.parametrize(
    "text", ["5", "[]", "null", "[" * 10**5, '{"golden.json": {"dtype": 3}}', '{"x": 5}']
)
def test_a_damaged_safetensors_header_is_refused(text):
    with pytest.raises(InputError, match=r"it is not a \.safetensors file"):
        archive.unpacked(len(text).to_bytes(8, "little") + text.encode(), ".safetensors")


def test_a_wrong_value_of_another_shape_than_the_inputs_is_explained(compared):
    """It raised what NumPy says of shapes that do not fit."""
    made = exported("flatten_columns")
    found = compared(made, by_hand(made) | {"out": 1.05 * made.arrays["out"]})
    assert [(f.name, f.ok) for f in found] == [("grad/images", True), ("out", False)]
    assert found[1].diagnosis.startswith("scaled by 1.05")


@pytest.mark.parametrize("suffix", archive.SUFFIXES)
def test_no_changed_bit_is_read_in_silence(suffix):
    """A .safetensors file gave other numbers, dtypes or names; a lost member is missed by who wants it."""
    arrays, texts = {"x": np.arange(1.0, 4.0), "n": np.arange(2, dtype=np.int32)}, {"README": "it"}
    data = archive.packed(suffix, arrays, texts)
    read = 0
    for i in range(len(data)):
        for bit in (0, 5):
            damaged = data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :]
            try:
                found, said = archive.unpacked(damaged, suffix)
            except InputError:
                continue
            read += 1
            for name, array in found.items():
                assert (array.dtype, array.tobytes()) == (arrays[name].dtype, arrays[name].tobytes())
            assert said.get("README") in ("it", None)
    assert read < len(data)  # of two bits a byte: most are refused


def test_answers_with_a_damaged_description_are_compared_by_their_arrays(compared, tmp_path):
    made = golden.export("mse")
    (tmp_path / "g.npz").write_bytes(golden.packed(made, ".npz"))
    for text in ("5", "[" * 10**5, "nonsense", '["formula"]'):
        (tmp_path / "mine.npz").write_bytes(archive.packed(".npz", made.arrays, {"golden.json": text}))
        assert all(found.ok for found in golden.compare(tmp_path / "g.npz", tmp_path / "mine.npz")[1])
