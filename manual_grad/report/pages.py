"""The pages: templates filled in from the ledger, the functions and the results."""

import csv
import inspect
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from manual_grad.catalogue import FORMULAS, FUNCTIONS, Formula, Function
from manual_grad.lectures import CHAPTERS, EQUATIONS, ERRATA, Chapter, Claim, Equation, Erratum
from manual_grad.report import api, benchmark_figures, benchmarks, numbers, proofs, search, shapes
from manual_grad.report.answers import Answer, answers
from manual_grad.report.blanks import BLANK, sheet
from manual_grad.report.code import Source, called_by, console, formulas, python, shell, source_of, tags_of
from manual_grad.report.counterexamples import counterexample
from manual_grad.report.guides import guides
from manual_grad.report.live import LIVE
from manual_grad.report.mathml import indexed, left_sides, link, marked, mathml, pretty
from manual_grad.report.pictures import (
    Figure,
    cnn_graph,
    five_layer_graph,
    jacobian_figures,
    layered_graph,
    one_pixel_figure,
    rotation_figure,
    rows_and_columns_figure,
    small_graph,
    stacked_figure,
    training_figure,
)
from manual_grad.report.planted import PLANTED, mended
from manual_grad.report.prose import derivations, introduction
from manual_grad.report.results import Results, finite
from manual_grad.report.steps import helpers
from manual_grad.verify.kill_matrix import COMMON, ORACLES

HERE = Path(__file__).parent
FONT = "STIXTwoMath-Regular.ttf"
GROUPS = ("Layers", "Activations", "Losses", "Whole networks")
FRONT = (
    r"\frac{\partial J}{\partial \theta_i} = \sum_{j} \frac{\partial J}{\partial g_j} "
    r"\frac{\partial g_j}{\partial \theta_i}"
)
EXAMPLE = """
>>> import numpy as np
>>> from manual_grad.verify import check_grad
>>> def loss(w, x, y):
...     return ((x @ w - y) ** 2).mean()
>>> def grad(w, x, y):
...     return x.T @ (2 * (x @ w - y))
>>> rng = np.random.default_rng(0)
>>> w, x, y = rng.normal(size=3), rng.normal(size=(8, 3)), rng.normal(size=8)
>>> check_grad(loss, grad, w, x, y, argnums=0).findings[0].diagnosis
'scaled by N = 8 (axis 0 of x): loss summed instead of averaged, 1/N is missing'
"""
SHELL = """
cat > mine.py <<'END'
def loss(w, x, y):
    return ((x @ w - y) ** 2).mean()
def grad(w, x, y):
    return x.T @ (2 * (x @ w - y))
END
manual-grad check mine.py:loss mine.py:grad --input w=3 --input x=8x3 --input y=8 --wrt w
"""
KINDS = {"value": "value of", "gradient": "gradient with respect to", "jacobian": "Jacobian with respect to"}

Show = Callable[[str], None]


def render(results: Results, show: Show = lambda what: None) -> dict[str, bytes]:
    """Every file of the book.

    Args:
        results: the results to report.
        show: called with a description of the current stage.
    Returns:
        Name → content; the same results give the same bytes.
    """
    show("drawing")
    figures = all_figures(results)
    questions = answers()
    show("refuting the misprints")
    errata = [erratum_of(e, results) for e in ERRATA]
    show("writing the pages")
    return book(results, figures, questions, errata)


def book(
    results: Results,
    figures: dict[str, list[Figure]],
    questions: list[Answer],
    errata: list[dict[str, Any]],
) -> dict[str, bytes]:
    """The files, once everything is computed."""
    made = dict(Site(results, figures, questions, errata).pages())
    files = {name: html.encode() for name, html in made.items()} | {search.FILE: search.script(made)}
    files |= {name: (HERE / name).read_bytes() for name in ("style.css", "book.js", "live.js")}
    files[FONT] = font()
    return files | {f"data/{name}": content for name, content in data_files(results, figures, errata)}


def font() -> bytes:
    """STIX Two Math (SIL Open Font License 1.1, according to the file), which comes with ziamath."""
    spec = find_spec("ziamath")
    (folder,) = (spec and spec.submodule_search_locations) or [""]
    return (Path(folder) / "fonts" / FONT).read_bytes()


def all_figures(results: Results) -> dict[str, list[Figure]]:
    """Tag → its pictures."""
    found = jacobian_figures()
    found["C-10"] = [one_pixel_figure(), rotation_figure()]
    found["D-09"] = [stacked_figure(), *found["D-09"]]
    found["B-16"] = [rows_and_columns_figure()]
    found["A-11"], found["D-10"] = [cnn_graph()], [five_layer_graph()]
    found["C-01"], found["C-05"] = [small_graph()], [layered_graph()]
    if results.training:
        found["D-11"] = [training_figure(results.training)]
    if results.benchmarks:
        found["benchmarks"] = benchmark_figures.figures(results.benchmarks)
        found["ratios"] = benchmark_figures.ratios(results.benchmarks)
    return found


class Site:
    """Renders the pages, which share a header, a footer and the results."""

    def __init__(
        self,
        results: Results,
        figures: dict[str, list[Figure]],
        questions: list[Answer],
        errata: list[dict[str, Any]],
    ) -> None:
        self.results, self.figures, self.questions, self.errata = results, figures, questions, errata
        self.modules, self.guides = api.modules(), guides()
        self.anchors = {e.source.name: e.source.anchor for m in self.modules for e in m.entries}
        self.tagged = _tagged_functions()
        self.timed = benchmarks.by_function(results.cases)
        self.measured = benchmarks.links(results.benchmarks, results.cases)
        self.tags_of = self._tags_of_functions()
        self.env = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.env.filters |= {
            "marked": marked,
            "pretty": pretty,
            "indexed": indexed,
            "taglink": link,
            "breakable": _breakable,
            "formula": mathml,
            "number": lambda value: f"{value + 0.0:.4g}".replace("-", "−"),
            "summary": api.summary,
            "capitalize_first": lambda s: s[:1].upper() + s[1:],
        }
        self.nav = [
            *((f"{chapter.slug}.html", chapter.name) for chapter in CHAPTERS.values()),
            ("questions.html", "Questions"),
            ("errata.html", "Errata"),
            ("formulas.html", "Formulas"),
            ("gradient.html", "Is my gradient wrong?"),
            ("mutants.html", "Kill matrix"),
            *([("benchmarks.html", "Benchmarks")] if results.benchmarks else []),
            ("api.html", "API"),
            *([("guides.html", "Guides")] if self.guides else []),
        ]

    def pages(self) -> Iterator[tuple[str, str]]:
        """The name and the HTML of each page."""
        yield "index.html", self.page("index.html", "Index", **self.index())
        for chapter in CHAPTERS.values():
            name, lecture = f"{chapter.slug}.html", self.lecture(chapter)
            yield name, self.page(name, chapter.name, "lecture.html", **lecture)
            title, handout = f"Handout for {chapter.name}", _handout(chapter)
            yield handout, self.page(handout, title, "handout.html", **lecture, href=name)
        yield "questions.html", self.page("questions.html", "Open questions", answers=self.questions)
        on_page_link = Markup('<a class="tag" href="#{0}">{0}</a>').format
        overview = [
            (on_page_link(e["tag"]), indexed(e["title"]), f"{e['chapter']}, {e['section']}")
            for e in self.errata
        ]
        on_page = [e | {"href": f"#{e['tag']}"} for e in self.errata]
        yield "errata.html", self.page("errata.html", "Errata", errata=on_page, overview=overview)
        yield "formulas.html", self.page("formulas.html", "Formulas", groups=self.layers())
        yield "gradient.html", self.page("gradient.html", "Is my gradient wrong?", **self.mistakes())
        yield "mutants.html", self.page("mutants.html", "The kill matrix", **self.kills())
        if self.results.benchmarks:
            yield "benchmarks.html", self.page("benchmarks.html", "Benchmarks", **self.benchmarks())
        if self.guides:
            yield "guides.html", self.page("guides.html", "Guides", guides=self.guides)
        functions = {m.name: [self.function(e.source) for e in m.entries] for m in self.modules}
        every = [(m, functions[m.name]) for m in self.modules]
        yield "api.html", self.page("api.html", "API reference", "api-index.html", modules=every)
        for module in self.modules:
            context = {"module": module, "functions": functions[module.name]}
            yield module.page, self.page(module.page, module.name, "api.html", **context)

    def page(self, name: str, title: str, template: str = "", /, **context: Any) -> str:
        """One page in its frame."""
        shared = {
            "page": name,
            "title": title,
            "nav": self.nav,
            "about": self.results.about,
            "version": version("manual-grad"),
            "failed": self.results.failed,
            "tags": set(self.results.verdicts),
        }
        return self.env.get_template(template or name).render(**shared, **context)

    def index(self) -> dict[str, Any]:
        """The front page."""
        errors = [
            o["max_error"] if o["max_error"] is not None else math.inf
            for e in EQUATIONS
            for o in self.results.verdicts[e.tag]["oracles"].values()
        ]
        return {
            "front": mathml(FRONT, "block"),
            "worst": f"{max(errors, default=math.nan):.0e}".replace("-", "−"),
            "oracles": self.results.oracles,
            "equations_count": len(EQUATIONS),
            "errata_count": len(ERRATA),
            "planted_count": len(PLANTED),
            "with_benchmarks": bool(self.results.benchmarks),
            "with_guides": bool(self.guides),
            "lectures": [
                {
                    "handout": _handout(c),
                    "href": f"{c.slug}.html",
                    "kicker": c.name,
                    "name": c.title,
                    "about": _counted(c),
                }
                for c in CHAPTERS.values()
            ],
            "rows": [self.row(entry) for chapter in CHAPTERS.values() for entry in _entries(chapter)],
        }

    def row(self, entry: Equation | Erratum) -> dict[str, Any]:
        """A line of the index."""
        status = self.results.verdicts[entry.tag]["status"]
        shown, css = {
            "verified": ("verified", "good"),
            "erratum": ("refuted", "wrong"),
            "failed": ("failed", "bad"),
        }[status]
        names = [s.name for s in self.sources(entry)]
        return {
            "tag": entry.tag,
            "title": entry.title,
            "functions": [(name, self.anchors[name]) for name in names if name in self.anchors],
            "test": proofs.of_tag(entry.tag).partition("::"),
            "benchmarks": self.cases(names),
            "status": status,
            "shown": shown,
            "css": css,
        }

    def cases(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """The benchmark cases that time any of these functions, each with its link, if it was measured."""
        cases = dict.fromkeys(case for name in names for case in self.timed.get(name, ()))
        return [(case, self.measured[case]) for case in cases]

    def benchmarks(self) -> dict[str, Any]:
        """The benchmarks' page."""
        of_case = {
            case: list(dict.fromkeys(tag for name in names for tag in self.tags_of.get(name, ())))
            for case, names in _inverted(benchmarks.by_function(list(self.measured))).items()
        }
        ratios = {figure.name.removeprefix("ratios-"): figure for figure in self.figures["ratios"]}
        context = benchmarks.context(self.results.benchmarks or {}, of_case)
        return context | {"ratios": ratios, "figures": self.figures["benchmarks"]}

    def function(self, source: Source) -> dict[str, Any]:
        """A function's equations, tests and benchmark cases."""
        op = source.module == "manual_grad.ops"
        pair = f"{source.name}_fwd" if f"{source.name}_fwd" in self.tags_of else "dense_rows_fwd"
        timed = self.timed.get(pair if op else source.name, ())
        cases = [case for case in timed if not op or case == f"ops.{source.name}"]
        cases += [f"ops.{source.name}"] if op and f"ops.{source.name}" in self.measured else []
        return {
            "name": source.name,
            "href": source.anchor,
            "tags": self.tags_of.get(pair if op else source.name, []),
            "tests": proofs.of_function(source),
            "doctest": proofs.doctest(source),
            "code": _code(source),
            "benchmarks": [(case, self.measured[case]) for case in dict.fromkeys(cases)],
        }

    def _tags_of_functions(self) -> dict[str, list[str]]:
        """Function → the equations that it computes."""
        return _inverted({e.tag: [s.name for s in self.sources(e)] for e in EQUATIONS})

    def sources(self, entry: Equation | Erratum) -> list[Source]:
        """The functions that compute an equation, those with a line that carries its tag first."""
        claims = entry.claims if isinstance(entry, Equation) else (entry.claim,)
        derivative = re.search(r"\\partial|\\delta|\\frac\{d|d[ZW]_|d\\hat", entry.corrected or entry.printed)
        order = ("gradient", "jacobian", "value") if derivative else ("value", "gradient", "jacobian")
        claims = sorted(claims, key=lambda claim: order.index(claim.kind))
        ways = [way for claim in claims for way in claim.formulas if way in formulas()]
        tagged = self.tagged.get(entry.tag, [])
        ways.sort(key=lambda way: way not in tagged)  # first those with a line that carries the tag
        return [source_of(formulas()[name]) for name in dict.fromkeys(ways or tagged)]

    def lecture(self, chapter: Chapter) -> dict[str, Any]:
        """A lecture's page."""
        chapters = list(CHAPTERS.values())
        k, order = chapters.index(chapter), derivations(chapter.letter)

        def neighbour(other: int) -> tuple[str, str] | None:
            if not 0 <= other < len(chapters):
                return None
            return f"{chapters[other].slug}.html", f"{chapters[other].name}: {chapters[other].title}"

        return {
            "kicker": chapter.name,
            "name": chapter.title,
            "introduction": introduction(chapter.letter),
            "helpers": python("\n\n\n".join(helpers())),
            "equations": [self.equation(e) for tag in order for e in chapter.equations if e.tag == tag],
            "shared": python(sheet(chapter.letter).shared),
            "exercises": [
                {"asked": e, "code": python(e.code), "solution": python(e.line.replace(BLANK, e.solution))}
                for e in sheet(chapter.letter).exercises
            ],
            "file": chapter.slug.replace("-", "_"),
            "before": neighbour(k - 1),
            "after": neighbour(k + 1),
        }

    def equation(self, e: Equation) -> dict[str, Any]:
        """An equation's article."""
        verdict = self.results.verdicts[e.tag]
        references = {
            source_of(c.reference).place: source_of(c.reference)
            for c in e.claims
            if inspect.unwrap(c.reference).__module__.startswith("manual_grad_reference")
        }
        return {
            "tag": e.tag,
            "title": e.title,
            "section": e.section,
            "note": e.note,
            "sentence": e.sentence,
            "printed": mathml(e.printed, "block"),
            "corrected": mathml(e.corrected, "block") if e.corrected else "",
            "question": e.title.partition(":")[0],
            "blanks": left_sides(e.corrected or e.printed),
            "derivation": numbers.shown(e.tag),
            "shapes": shapes.rows(e.tag),
            "sources": [_shown(s, e.tag, self.sources(e)) for s in self.sources(e)],
            "references": list(references.values()),
            "claims": [_claim(c) for c in e.claims],
            "tests": proofs.of_equation(e.tag, [s.name for s in self.sources(e)]),
            "benchmarks": self.cases([s.name for s in self.sources(e)]),
            "verdict": verdict,
            "oracles": [
                _oracle(name, verdict["oracles"][name])
                for name in self.results.oracles
                if name in verdict["oracles"]
            ],
            "figures": self.figures.get(e.tag, []),
            "live": [example for example in LIVE if example.tag == e.tag],
            "answers": [a for a in self.questions if a.tag == e.tag],
            "errata": [x for x in self.errata if x["corrects"] == e.tag],
        }

    def layers(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """The formulas by layer."""
        groups: dict[str, list[dict[str, Any]]] = {}
        entries: list[Formula | Function] = [*FORMULAS.values(), *FUNCTIONS.values()]
        for entry in entries:
            shown = entry.shown
            if shown is None:
                continue
            functions = (entry.fwd, entry.bwd) if isinstance(entry, Formula) else (entry.fn,)
            op = entry.op.name if isinstance(entry, Formula) and entry.op else ""
            names = [fn.__name__ for fn in functions]
            groups.setdefault(shown.group, []).append(
                {
                    "name": shown.title,
                    "forward": mathml(shown.forward, "block"),
                    "backward": [mathml(formula, "block") for formula in shown.backward],
                    "functions": [(name, self.anchors[name]) for name in names],
                    "op": (op, f"api-ops.html#{op}") if op else None,
                    "tags": shown.tags,
                }
            )
        return [(group, groups[group]) for group in GROUPS]

    def mistakes(self) -> dict[str, Any]:
        """The page of planted mistakes."""
        cases = []
        found = {d["mistake"]: d for d in self.results.diagnoses}
        for planted in (p for p in PLANTED if p.name in found):
            d = found[planted.name]
            numbers = ""
            if d["at"] is not None:
                at = f"[{', '.join(map(str, d['at']))}]"
                numbers = f"At {at}: got {d['got']:.6g}, expected {d['expected']:.6g}; "
                numbers += f"relative error {d['relative_error']:.2g}."
            grad, line, right = mended(planted)
            cases.append(
                {
                    "id": re.sub(r"[^a-z0-9]+", "-", planted.name.lower()).strip("-"),
                    "name": planted.name,
                    "tag": planted.tag,
                    "found": d,
                    "numbers": numbers.replace("-", "−"),
                    "loss": python(source_of(planted.loss).text),
                    "grad": python(grad, (line,)),
                    "right": python(right),
                }
            )
        return {"cases": cases, "example": console(EXAMPLE.strip()), "shell": shell(SHELL.strip())}

    def kills(self) -> dict[str, Any]:
        """The kill matrix."""
        rows = self.results.kills
        oracles = [name for name in ORACLES if any(name in r["relative_error"] for r in rows)]
        kinds = sorted(
            {r["mutant"] for r in rows}, key=lambda kind: (-sum(r["mutant"] == kind for r in rows), kind)
        )
        lines = [
            _kill_line(kind, [r for r in rows if kind in (r["mutant"], "all")], oracles)
            for kind in ["all", *kinds]
        ]
        examples = {(c, r["mutant"]): r | {"check": c} for r in rows for c in r["survives"]}
        return {
            "total": len(rows),
            "formulas": len({(r["tag"], r["formula"]) for r in rows}),
            "complete": self.results.all_kills,
            "alive": sum(not r["killed_by"] for r in rows),
            "oracles": oracles,
            "common": COMMON,
            "rows": lines,
            "survivors": sorted(
                examples.values(), key=lambda r: (COMMON.index(r["check"]), r["tag"], r["mutant"])
            ),
        }


def erratum_of(e: Erratum, results: Results) -> dict[str, Any]:
    """A misprint for the templates."""
    verdict = results.verdicts[e.tag]
    return {
        "tag": e.tag,
        "chapter": CHAPTERS[e.lecture].name,
        "href": f"errata.html#{e.tag}",
        "title": e.title,
        "section": e.section,
        "printed": mathml(e.printed, "block"),
        "corrected": mathml(e.corrected, "block"),
        "corrects": e.corrects,
        "why": e.why,
        "note": e.note,
        "sentence": e.sentence,
        "verdict": verdict,
        "counterexample": counterexample(e, int(results.about.get("seed", 0)), verdict["counterexample"]),
    }


def data_files(
    results: Results, figures: dict[str, list[Figure]], errata: list[dict[str, Any]]
) -> Iterator[tuple[str, bytes]]:
    """The files for download."""
    verdicts = {"environment": results.about, "equations": list(results.verdicts.values())}
    texts = [
        {
            k: getattr(e, k)
            for k in ("tag", "title", "section", "printed", "corrected", "corrects", "why", "note")
        }
        | {"counterexample": found["counterexample"]}
        for e, found in zip(ERRATA, errata, strict=True)
    ]
    flat = [{k: v for k, v in row.items() if k != "counterexample"} for row in texts]
    kills = [
        {
            k: " ".join(map(str, v)) if isinstance(v, list) else v
            for k, v in r.items()
            if k != "relative_error"
        }
        for r in results.kills
    ]
    yield "verdicts.json", _json(verdicts)
    yield "errata.json", _json(texts)
    yield "errata.csv", _csv(flat)
    yield "kills.json", _json(results.kills)
    yield "kills.csv", _csv(kills)
    yield "diagnoses.json", _json(results.diagnoses)
    if results.benchmarks:
        yield "benchmarks.json", _json(results.benchmarks)
    for figure in (f for found in figures.values() for f in found):
        yield f"{figure.name}.json", _json(figure.data)


def _json(content: Any) -> bytes:
    return (json.dumps(finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    file = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _tagged_functions() -> dict[str, list[str]]:
    """Tag → the public formulas in which a line of code carries it."""
    found: dict[str, list[str]] = {}
    for name, value in formulas().items():
        for tag in dict.fromkeys(t for line in source_of(value).text.splitlines() for t in tags_of(line)):
            found.setdefault(tag, []).append(name)
    return found


def _breakable(name: str) -> Markup:
    """A test's name, with places where the line may break.

    >>> _breakable("a/b.py::c")
    Markup('a/<wbr>b.py::<wbr>c')
    """
    return Markup(re.sub(r"(/|::|\.(?=[a-z_]+\.)|_(?=is_|of_))", r"\1<wbr>", str(escape(name))))


def _inverted(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Value → the keys that have it."""
    turned: dict[str, list[str]] = {}
    for key, values in found.items():
        for value in dict.fromkeys(values):
            turned.setdefault(value, []).append(key)
    return turned


def _entries(chapter: Chapter) -> list[Equation | Erratum]:
    """A lecture's equations, each followed by its misprints."""
    found: list[Equation | Erratum] = []
    for equation in chapter.equations:
        found += [equation, *(x for x in ERRATA if x.corrects == equation.tag)]
    return found


def _handout(chapter: Chapter) -> str:
    return f"handout-{chapter.letter.lower()}.html"


def _counted(chapter: Chapter) -> str:
    equations, errata = len(chapter.equations), len(chapter.errata)
    return f"{equations} equations" + (f", {errata} misprint{'s' if errata != 1 else ''}" if errata else "")


def _code(source: Source) -> dict[str, Any] | None:
    """A formula's code with what it takes from its module."""
    formula = formulas().get(source.name)
    if formula is None or inspect.unwrap(formula).__module__ != source.module:
        return None
    return {"html": source.html(), "used": called_by(formula)[0]}


def _shown(source: Source, tag: str, listed: Sequence[Source]) -> dict[str, Any]:
    """A function's code with what it uses: what has no listing of its own beside it, and what has a link."""
    private, public = called_by(formulas()[source.name])
    used = [*private, *(p for p in public if p not in listed)]
    return {"source": source, "html": source.html(tag), "used": used, "public": public}


def _claim(c: Claim) -> Markup:
    """A line that says what is compared."""
    says = f"{c.says}: " if c.says else ""
    ways = Markup(", ").join(Markup("<code>{}</code>").format(way) for way in c.formulas)
    reference = inspect.unwrap(c.reference).__name__.lstrip("_")
    return (
        Markup("{}{} {} {} of <code>{}</code>, by {}").format(
            says, "the", KINDS[c.kind], ", ".join(c.wrt), reference, ways
        )
        if c.kind != "value"
        else Markup("{}the value of <code>{}</code>, by {}").format(says, reference, ways)
    )


def _oracle(name: str, found: dict[str, Any]) -> tuple[str, str, Markup]:
    error = found["max_error"]
    shown = (
        "not finite" if error is None else f"{error:.1e}".replace("-", "−") if error else "0, to the last bit"
    )
    badge = Markup('<span class="badge {}">{}</span>').format(
        *(("good", "yes") if found["passed"] else ("bad", "no"))
    )
    return name, shown, badge


def _kill_line(kind: str, rows: Sequence[dict[str, Any]], oracles: Sequence[str]) -> dict[str, Any]:
    def share(part: int, whole: int) -> str:
        return f"{part / whole:.2f}" if whole else "0"

    killed, let = [], []
    for name in oracles:
        asked, n = sum(name in r["relative_error"] for r in rows), sum(name in r["killed_by"] for r in rows)
        killed.append((share(n, asked), (f"{n}/{asked}" if n < asked else str(n)) if asked else "–"))
    for name in COMMON:
        asked, n = sum(name in r["checks"] for r in rows), sum(name in r["survives"] for r in rows)
        let.append((share(n, asked), str(n) if asked else "–"))
    return {"kind": kind, "count": len(rows), "oracles": killed, "common": let}
