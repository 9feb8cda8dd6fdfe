"use strict";
// Examples whose numbers can be changed. The page comes with the numbers of the functions; what is typed is
// computed here by the same equations, and what cannot be computed is said in one line.
(() => {
  const sum = (v) => v.reduce((a, b) => a + b, 0);
  const times = (A, v) => A.map((row) => sum(row.map((a, k) => a * v[k])));
  const transposed = (A) => A[0].map((_, j) => A.map((row) => row[j]));
  const outer = (u, v) => u.map((a) => v.map((b) => a * b));
  const softmax = (s) => {
    const top = Math.max(...s), e = s.map((x) => Math.exp(x - top)), total = sum(e);
    return { p: e.map((x) => x / total), loss: (y) => Math.log(total) + top - s[y] };
  };
  const column = (A) => A.map((row) => row[0]);
  const correlate = (X, F) => X.slice(F.length - 1).map((_, i) => X[0].slice(F[0].length - 1).map((_, j) =>
    sum(F.flatMap((row, a) => row.map((f, b) => f * X[i + a][j + b])))));
  const turned = (F) => F.map((row) => [...row].reverse()).reverse();
  const padded = (A, n) => {
    const wide = A[0].length + 2 * n, empty = () => Array(wide).fill(0);
    return [...Array.from({ length: n }, empty), ...A.map((row) => [...Array(n).fill(0), ...row, ...Array(n).fill(0)]), ...Array.from({ length: n }, empty)];
  };

  // each takes its inputs as matrices, and gives scalars, vectors or matrices
  const EXAMPLES = {
    graph: ({ x: [[x]], y: [[y]], z: [[z]] }) => ({ q: x + y, f: (x + y) * z, dq: z, dx: z, dy: z, dz: x + y }),
    softmax({ l, y: [[y]] }) {
      const { p, loss } = softmax(column(l));
      return { p, J: loss(y), dl: p.map((a, k) => a - (k === y)), jac: p.map((a, i) => p.map((b, j) => a * ((i === j) - b))) };
    },
    "two-layers"({ W1, b1, W2, b2, x, y: [[y]] }) {
      const z = times(W1, column(x)).map((s, k) => s + b1[k][0]), a = z.map((s) => Math.max(s, 0));
      const { p, loss } = softmax(times(W2, a).map((s, k) => s + b2[k][0]));
      const db2 = p.map((q, k) => q - (k === y));
      const db1 = times(transposed(W2), db2).map((d, k) => z[k] > 0 ? d : 0);
      return { z, a, p, J: loss(y), db2, dW2: outer(db2, a), db1, dW1: outer(db1, column(x)), dx: times(transposed(W1), db1) };
    },
    correlation: ({ X, F, dO }) => ({
      O: correlate(X, F), dF: correlate(X, dO), dX: correlate(padded(dO, 1), turned(F)),
      jac: [0, 1].flatMap((i) => [0, 1].map((j) => [0, 1].flatMap((a) => [0, 1].map((b) => X[i + a][j + b])))),
    }),
  };

  class Complaint extends Error {}

  function read(input) {
    const text = input.value.trim().replace("−", "-"), name = input.getAttribute("aria-label");
    if (!text) throw new Complaint(`${name} is empty; expected a number, such as −1.5.`);
    if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)) throw new Complaint(`${name} is “${input.value.trim().slice(0, 20)}”; expected a number, such as −1.5 or 2e3.`);
    const value = Number(text), classes = Number(input.dataset.classes);
    if (!Number.isFinite(value)) throw new Complaint(`${name} is ${text.slice(0, 20)}, too large; expected at most 1.8e308 in size.`);
    if (classes && !(Number.isInteger(value) && value >= 0 && value < classes)) throw new Complaint(`${name} is ${text.slice(0, 20)}; expected the number of a class, 0 to ${classes - 1}.`);
    return value;
  }

  const shown = (value) => String(Number(value.toPrecision(4))).replace(/-/g, "−");

  function start(example) {
    const inputs = [...example.querySelectorAll("input")], outputs = [...example.querySelectorAll("output")];
    const says = example.querySelector(".complaint");
    const first = inputs.map((input) => input.value);
    const compute = () => {
      let wrong = null;
      inputs.forEach((input) => input.removeAttribute("aria-invalid"));
      try {
        const given = {};
        for (const input of inputs) {
          wrong = input;
          const [name, i, j] = input.name.split(".");
          ((given[name] ??= [])[i] ??= [])[j] = read(input);
        }
        wrong = null;
        const results = EXAMPLES[example.dataset.example](given);
        const values = outputs.map((output) => {
          const [name, i, j] = output.dataset.name.split("."), row = [results[name]].flat()[i];
          return [row].flat()[j];
        });
        if (!values.every(Number.isFinite)) throw new Complaint("These numbers are too large: a result overflows.");
        outputs.forEach((output, k) => { output.textContent = shown(values[k]); output.dataset.value = values[k]; });
        says.textContent = "";
      } catch (error) {
        if (!(error instanceof Complaint)) throw error;
        wrong?.setAttribute("aria-invalid", "true");
        says.textContent = error.message;
      }
      example.classList.toggle("stale", says.textContent !== "");
    };
    example.addEventListener("input", compute);
    const again = example.querySelector("button");
    again.hidden = false;
    again.addEventListener("click", () => { inputs.forEach((input, k) => { input.value = first[k]; }); compute(); });
  }

  addEventListener("DOMContentLoaded", () => {
    for (const example of document.querySelectorAll("[data-example]")) {
      example.querySelectorAll("input").forEach((input) => { input.readOnly = false; });
      start(example);
    }
  });
})();
