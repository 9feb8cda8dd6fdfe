"""The examples whose numbers can be changed: typed into in a browser, and compared with JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad.report.live import LIVE, _rows

BAD = {
    "": "is empty; expected a number",
    "abc": "is “abc”; expected",
    "1,5": "expected",
    "1e400": "too large",
}
BAD_CLASS = {
    "-1": "expected the number of a class",
    "3": "expected the number of a class",
    "1.5": "expected the number of a class",
}


def graph(x, y, z):
    f = reference.chain_rule.product_of_sum
    dx, dy, dz = jax.grad(f, (0, 1, 2))(x, y, z)
    return {"q": x + y, "f": f(x, y, z), "dq": jax.grad(lambda q: q * z)(x + y), "dx": dx, "dy": dy, "dz": dz}


def softmax(l, y):
    def loss(l):
        return -jnp.log(p(l)[y.astype(int)])

    p = reference.softmax.softmax
    return {"p": p(l), "J": loss(l), "dl": jax.grad(loss)(l), "jac": jax.jacobian(p)(l)}


def two_layers(W1, b1, W2, b2, x, y):
    z = W1 @ x + b1
    a = jax.nn.relu(z)
    args = (W1, b1, W2, b2, x, y.astype(int))
    J, grads = jax.value_and_grad(reference.two_layer.two_layer_cross_entropy, range(5))(*args)
    found = dict(zip(("dW1", "db1", "dW2", "db2", "dx"), grads, strict=True))
    return found | {"z": z, "a": a, "p": jax.nn.softmax(W2 @ a + b2), "J": J}


def correlation(X, F, dO):
    O, pull = jax.vjp(reference.conv2d.correlate2d, X, F)
    jac = jax.jacobian(reference.conv2d.correlate2d, 1)(X, F).reshape(4, 4)
    return {"O": O, "jac": jac} | dict(zip(("dX", "dF"), pull(dO), strict=True))


@functools.cache
def oracle(name):
    made = {"graph": graph, "softmax": softmax, "two-layers": two_layers, "correlation": correlation}
    return jax.jit(made[name])


def expected(example, given):
    """JAX's results for these inputs, as rows."""
    return {name: _rows(value) for name, value in oracle(example.name)(**given).items()}


def drawn(example, rng):
    """Other inputs of the same shapes: some large, some exactly 0, where ReLU has its kink."""
    given = {}
    for name, value in example.inputs.items():
        value = np.asarray(value, float)
        given[name] = np.round(rng.normal(size=value.shape) * rng.choice([0, 1, 30], size=value.shape), 3)
    if example.classes:
        name, count = example.classes
        given[name] = np.asarray(float(rng.integers(count)))
    return given


def faults(page):
    """What the page says otherwise than JAX, and what it does not say of bad input."""
    found = []
    for example in LIVE:
        box = page.locator(f"#live-{example.name}")
        if box.count():
            found += [
                f"{example.name}: {fault}" for fault in _numbers(box, example) + _complaints(box, example)
            ]
    return found


def _numbers(box, example):
    rng, found = np.random.default_rng(7), []
    for _ in range(4):
        given = drawn(example, rng)
        typed = {
            f"{name}.{i}.{j}": repr(float(number))
            for name, value in given.items()
            for (i, j), number in np.ndenumerate(_rows(value))
        }
        _type(box, typed)
        shown = box.locator("output").evaluate_all(
            "all => all.map(o => [o.dataset.name, Number(o.dataset.value)])"
        )
        want = expected(example, given)
        scale = max(1.0, *(np.abs(value).max() for value in want.values()))  # p − 1 cancels
        if len(shown) != sum(value.size for value in want.values()):
            found.append(f"{len(shown)} numbers")
        for place, number in shown:
            name, i, j = place.split(".")
            right = want[name][int(i), int(j)]
            if not np.isclose(number, right, rtol=1e-12, atol=1e-15 * scale):
                found.append(f"{place} is {number}, JAX has {right}, for {given}")
    return found


def _complaints(box, example):
    """Each bad text is refused in one line, and the numbers that stood there stay."""
    first, found = box.locator("input").first.get_attribute("name"), []
    if box.locator("input[readonly]").count():
        found.append("nothing can be typed")
    asked = [(first, text, says) for text, says in BAD.items()]
    if example.classes:
        asked += [(f"{example.classes[0]}.0.0", text, says) for text, says in BAD_CLASS.items()]
    for name, text, says in asked:
        before, *_ = _type(box, {})
        after, said, invalid = _type(box, {name: text})
        if says not in said or invalid != [name]:
            found.append(f"{text!r}: {said!r}, for {invalid}")
        if after != before:
            found.append(f"{text!r}: the numbers changed")
        if (said := _type(box, {name: "1"})[1]) != "":
            found.append(f"{said!r} for 1")
    return found


def _type(box, typed):
    """The numbers, the complaint and the fields marked as invalid, once these fields have these texts."""
    return box.evaluate(
        """(box, typed) => {
            for (const name in typed) box.querySelector(`[name="${name}"]`).value = typed[name];
            box.querySelector("input").dispatchEvent(new Event("input", { bubbles: true }));
            return [
                [...box.querySelectorAll("output")].map((output) => output.textContent),
                box.querySelector(".complaint").textContent,
                [...box.querySelectorAll("[aria-invalid]")].map((input) => input.name),
            ];
        }""",
        typed,
    )
