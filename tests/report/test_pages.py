"""The book's pages, as files and in a browser. One book is made for all of it, from made-up verdicts."""

import json
import os
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest

from manual_grad.lectures import CHAPTERS, EQUATIONS, ERRATA
from manual_grad.report import folder, pages
from manual_grad.report.answers import answers
from manual_grad.report.live import LIVE
from manual_grad.report.prose import derivations
from manual_grad.report.steps import HELPERS
from tests.report import made_up, typing_into

TAGS = [e.tag for e in (*EQUATIONS, *ERRATA)]
# Of the pages of one kind, those that axe looks at: their elements are the same. Every pair of colours of the
# book is on one of the first, and in the dark axe looks at nothing else.
DARK = ("lecture-a", "lecture-c", "mutants", "benchmarks", "gradient", "formulas")
LIGHT = (*DARK, "index", "questions", "errata", "guides", "api", "api-formulas-softmax", "api-checker-check")
NARROW, WIDE = {"width": 375, "height": 800}, {"width": 1280, "height": 900}
PAPER = {"width": 718, "height": 1000}  # A4 between the margins that Chromium gives it
FAULTY = """<!doctype html><html lang="en"><title>x</title><script>console.error("oh")</script>
<img src="https://example.org/a.png"><p style="width: 2000px; color: #ccc; background: #fff">wide and pale</p>
<math></math><input>
<p style="width: 9em; color: #000; background: #fff"><math><mi>aaaaaaaaaaaaaaaaaaaaaaaaa</mi></math></html>"""


@pytest.fixture(scope="module")
def results(x64):
    return made_up.results()


@pytest.fixture(scope="module")
def files(results):
    return pages.render(results)


@pytest.fixture(scope="module")
def book(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("books") / "book"
    folder.write(path, files, force=False)
    return path


class Page(HTMLParser):
    """Identifiers, links, pictures and text of a page."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.loads, self.unnamed, self.depth, self.formulas = [], [], [], 0, 0, []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.loads += [given[k] for k in ("src", "href") if k in given and tag != "a"]
        self.unnamed += tag == "svg" and not (given.get("role") == "img" and given.get("aria-label"))
        if tag == "math":
            self.depth, self.formulas = 1, [*self.formulas, ""]

    def handle_endtag(self, tag):
        self.depth = 0 if tag == "math" else self.depth

    def handle_data(self, data):
        if self.depth:
            self.formulas[-1] += data


@pytest.fixture(scope="module")
def parsed(files):
    return {name: Page(content.decode()) for name, content in files.items() if name.endswith(".html")}


# --- the files --------------------------------------------------------------------------------------------


def test_every_link_and_anchor_resolves(parsed, files):
    for name, page in parsed.items():
        assert len(page.ids) == len(set(page.ids)), name
        for link in page.links:
            target, _, anchor = unquote(link).partition("#")
            assert (target or name) in files, (name, link)
            assert not anchor or anchor in parsed[target or name].ids, (name, link)


def test_nothing_is_loaded_from_elsewhere(parsed, files):
    for name, page in parsed.items():
        assert set(page.loads) <= {"style.css", "book.js", "live.js", "data:,"}, name
    loaded = re.findall(
        rb"url\((.*?)\)|@import|https?://", files["style.css"] + files["book.js"] + files["live.js"]
    )
    assert loaded == [pages.FONT.encode()]
    assert pages.FONT in files


def test_the_font_for_formulas_may_be_redistributed(files):
    """It is whole, can set formulas, and carries its licence."""
    content = files[pages.FONT]
    names = {content[k : k + 4] for k in range(12, 12 + 16 * content[5], 16)}
    assert {b"MATH", b"name", b"cmap"} <= names
    assert "SIL Open Font License, Version 1.1".encode("utf-16-be") in content


def test_every_tag_has_its_article_and_its_line_in_the_index(parsed):
    for tag in TAGS:
        page = f"{CHAPTERS[tag[0]].slug}.html"
        assert tag in parsed[page].ids
        assert f"{page}#{tag}" in parsed["index.html"].links
    assert {e.tag for e in ERRATA} <= set(parsed["errata.html"].ids)


def test_every_equation_is_there_in_the_lectures_order(parsed, files):
    for chapter in CHAPTERS.values():
        name = f"{chapter.slug}.html"
        tags = re.findall(r'<article class="equation" id="(.+?)"', files[name].decode())
        assert tags == list(derivations(chapter.letter))
        assert all(formula.strip() for formula in parsed[name].formulas)
        assert "\\" not in "".join(parsed[name].formulas)


def test_every_open_question_is_answered_at_its_equation(parsed, files):
    asked = {a.tag: a for a in answers()}
    assert {"D-09", "D-07", "C-08", "C-11", "B-10"} <= set(asked)
    for tag, answer in asked.items():
        assert f"question-{answer.name}" in parsed[f"lecture-{tag[0].lower()}.html"].ids
        assert f"question-{answer.name}" in parsed["questions.html"].ids
    assert "5·1 + 6·(−1) + 8·2 + 9·3 = 42" in files["questions.html"].decode()


def test_every_picture_says_what_it_shows_and_has_its_data(parsed, files):
    for name, page in parsed.items():
        assert not page.unnamed, name
        for figure in (i.removeprefix("fig-") for i in page.ids if i.startswith("fig-")):
            data = f"data/{'kills' if figure == 'kill-matrix' else figure}.json"
            assert json.loads(files[data]), data


def test_benchmarks_show_the_measurements(files, parsed):
    page, html = parsed["benchmarks.html"], files["benchmarks.html"].decode()
    pictures = {f"ratios-{group}" for group in ("formula", "drop-in", "jacobian", "layout")}
    assert {i.removeprefix("fig-") for i in page.ids if "fig-" in i} == pictures | {
        "time",
        "memory",
        "roofline",
    }
    assert "Geometric mean of the 3 ratios: 1.04." in html  # of 1, 0.9 and 1.25: one program has the ratio 1
    assert "faster, mostly the call itself" in html
    assert "<td>Lq Lk from 4 to 4096</td><td>1.00 / 0</td><td>1.00 / –</td><td>4.1 ms / 1 µs</td>" in html
    assert "<td>640 kB<br>(6.4 kB)</td>" in html  # relu at 800: kept for the backward pass
    assert len(json.loads(files["data/time.json"])) == 2  # one case was measured at two sizes
    assert {"benchmarks.html#relu", "api-formulas-activations.html#relu_bwd"} <= set(
        parsed["index.html"].links
    )
    assert "lecture-b.html#B-06" in page.links


def test_numbers_fit_their_circles(files):
    """Five characters fit, at the size used there."""
    shown = re.findall(r'class="value">(.*?)<', files["lecture-c.html"].decode())
    assert len(shown) >= 2 * (4 + 3 + 2)
    assert max(map(len, shown)) <= 5


def test_jacobians_by_hand_and_from_jax_agree(files):
    names = [name for name in files if name.startswith("data/jacobian")]
    assert len(names) == 6
    for name in names:
        content = json.loads(files[name])
        assert content["largest_difference"] <= 1e-15
        assert any(any(row) for row in content["by_hand"])


def test_the_code_shown_is_the_live_code(files):
    shown = re.sub(r"<.*?>", "", files["lecture-a.html"].decode())
    assert "dlogits = probs * (dprobs - (dprobs * probs).sum(axis=-1, keepdims=True))  # [A-08]" in shown
    assert "def _correlate(" in re.sub(r"<.*?>", "", files["lecture-c.html"].decode())
    called = files["lecture-b.html"].decode().partition('id="B-12"')[2].partition("</article>")[0]
    assert '<a href="api-formulas-activations.html#relu_bwd"><code>relu_bwd</code></a>' in called


@pytest.mark.parametrize(
    ("tag", "lines"),
    [
        ("A-10", ["COLUMNS = 2048", "def _root(", "Residuals = ("]),
        ("B-12", ["def multiply_out(", "def cross_entropy_of_scores_bwd("]),
        (
            "C-10",
            ["def gradient_of_image(", "def turned_kernel(", "kernel[::-1, ::-1]", "def conv2d_cpu_bwd("],
        ),
        ("D-09", ["def from_column_stacking(", "return X.T, jnp.eye("]),
        ("E-11", ["class AttentionResiduals:", "probs: Float32", "def _softmax("]),
    ],
)
def test_what_a_listing_uses_is_listed(files, tag, lines):
    page = files[f"{CHAPTERS[tag[0]].slug}.html"].decode()
    article = page.partition(f'<article class="equation" id="{tag}"')[2].partition(
        '</article>\n<article class="equation'
    )[0]
    shown = unescape(re.sub(r"<.*?>", "", article))
    assert [line for line in lines if line not in shown] == []


def test_the_api_shows_the_code_of_each_formula(files):
    shown = re.sub(r"<.*?>", "", files["api-kernels-conv2d_cpu.html"].decode())
    assert "the formulation is ours" in shown  # the docstring
    for line in ("def _dx(", "def _convolve(", "FEW_ENTRIES = 25", "def turned_kernel("):
        assert line in shown


def test_the_helpers_of_the_numbers_are_defined_once_on_each_page(files):
    for chapter in CHAPTERS.values():
        page = files[f"{chapter.slug}.html"].decode()
        defined = re.sub(
            r"<.*?>", "", page.partition('<div id="helpers">')[2].partition("</div></details>")[0]
        )
        assert all(f"def {helper.__name__}(" in defined for helper in HELPERS)
    assert '<code>D</code>, <code>correlate</code>: <a href="#helpers">' in files["lecture-c.html"].decode()


def test_a_book_made_twice_is_the_same(results, files):
    assert pages.render(results) == files


def test_the_book_is_small(files):
    assert sum(map(len, files.values())) < 15e6


def test_failures_are_shown_in_red(files):
    wrong = made_up.results(verdicts=made_up.verdicts(failed=("A-10", "D-E4")), diagnoses=[])
    assert wrong.failed == ["A-10", "D-E4"]
    errata = [pages.erratum_of(e, wrong) for e in ERRATA if e.tag == "D-E4"]
    made = dict(
        pages.Site(
            wrong, {"benchmarks": [], "ratios": pages.benchmark_figures.ratios(wrong.benchmarks)}, [], errata
        ).pages()
    )
    assert '<article class="equation failed" id="A-10">' in made["lecture-a.html"]
    assert '<article class="erratum failed" id="D-E4">' in made["errata.html"]
    assert all('role="alert"' in html and "Failed: " in html for html in made.values())
    assert "not finite" in made["lecture-a.html"]
    assert b'role="alert"' not in files["index.html"]


# --- in a browser -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra browser (Playwright)")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        missing = "no Chromium or Chrome to open the book in (Debian: apt-get install chromium)"
        assert not os.environ.get("MANUAL_GRAD_NEEDS_BROWSER"), missing
        pytest.skip(missing)
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


TOO_WIDE = "document.documentElement.scrollWidth - innerWidth"
SEES = """() => {
    document.querySelectorAll("details").forEach((d) => { d.open = true; });
    const formulas = [...document.querySelectorAll("math")];
    const empty = formulas.filter((m) => {
        const box = m.getBoundingClientRect();
        return !(box.width > 1 && box.height > 1);
    });
    const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
        const c = rgb[i] / 255;
        return sum + weight * (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    }, 0.05);
    const colour = (e, what) => getComputedStyle(e)[what].match(/[0-9.]+/g).map(Number);
    const behind = (e) => {
        const [r, g, b, alpha = 1] = e ? colour(e, "backgroundColor") : [255, 255, 255];
        return alpha ? [r, g, b] : behind(e.parentElement);
    };
    const seen = {};
    const pale = formulas.filter((m) => {
        const pair = [colour(m, "color"), behind(m)];
        return (seen[pair] ??= Math.max(...pair.map(light)) / Math.min(...pair.map(light))) < 4.5;
    });
    return {
        formulas: formulas.length,
        empty: empty.map((m) => m.textContent.slice(0, 40)),
        pale: pale.map((m) => m.textContent.slice(0, 40)),
    };
}"""


# A formula in the box of text that it stands in; what is cut off or has to be scrolled to is outside.
OUTSIDE = """() => {
    const block = (e) => getComputedStyle(e).display.startsWith("inline") ? block(e.parentElement) : e;
    return [...document.querySelectorAll("math")].filter((m) => {
        const box = block(m.parentElement), area = box.getBoundingClientRect();
        const inner = [m, ...m.children, ...(m.firstElementChild?.children ?? [])];
        const sides = inner.map((e) => e.getBoundingClientRect());
        const right = area.right - parseFloat(getComputedStyle(box).paddingRight);
        return Math.max(...sides.map((s) => s.right)) > right + 1
            || Math.min(...sides.map((s) => s.left)) < area.left - 1;
    }).map((m) => m.textContent.slice(0, 40));
}"""


# One of each kind of element under each kind of parent is enough for axe, whose time grows with their number.
# It checks no text of one letter, so formulas are taken away whole: their contrast is in SEES.
THIN = """() => {
    document.querySelectorAll("math").forEach((m) => m.remove());
    const kind = (e) => [e.tagName, e.getAttribute("class"), ...e.getAttributeNames().sort(),
                         Math.min(e.textContent.trim().length, 2)].join();
    const kinds = (e) => [e, ...e.querySelectorAll("*")].map((x) => `${kind(x.parentElement)} > ${kind(x)}`);
    const small = "tr, li, p, pre, summary, svg";
    const seen = new Set();
    for (const part of document.querySelectorAll(`article, section, figure, details, table, dl, ${small}`)) {
        if (part.parentElement?.closest(small)) continue;  // kept whole, or gone with it
        const found = part.isConnected ? kinds(part) : [];
        if (found.every((k) => seen.has(k))) part.remove();
        else if (part.matches(small)) found.forEach((k) => seen.add(k));
    }
    dispatchEvent(new Event("resize"));
}"""


def faults(browser, path, windows):
    """What is wrong with a page in windows of a size and a theme, one after the other."""
    return faults_of_all(browser, [path], windows)


def faults_of_all(browser, paths, windows):
    """The same for several pages, one after the other in one tab: a new one takes longer than most pages."""
    context = browser.new_context()
    page, found = context.new_page(), []
    home = paths[0].parent.as_uri()
    page.on(
        "console", lambda m: found.append(f"console: {m.text}") if m.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: found.append(f"script: {error}"))
    page.on("request", lambda r: r.url.startswith((home, "data:")) or found.append(f"request: {r.url}"))
    of_all = []
    for path in paths:
        page.emulate_media(media="screen", color_scheme=windows[0][1])
        page.set_viewport_size(windows[0][0])
        page.goto(path.as_uri())
        for view, theme in windows:
            page.set_viewport_size(view)
            page.emulate_media(color_scheme=theme)
            found += [f"at {view['width']} px, {theme}: {fault}" for fault in _seen(page, path)]
        found += typing_into.faults(page)
        page.set_viewport_size(PAPER)
        page.emulate_media(media="print")
        wide = page.evaluate(TOO_WIDE)
        found += [f"on paper: {wide} px too wide"] if wide > 0 else []
        found += [f"on paper: outside its box {text!r}" for text in page.evaluate(OUTSIDE)]
        page.emulate_media(media="screen")
        for view, theme in windows:  # last, as axe is given a part of the page only
            if path.stem in ("faulty", *(DARK if theme == "dark" else LIGHT)):
                page.set_viewport_size(view)
                page.emulate_media(color_scheme=theme)
                seen = violations(page, rules=["color-contrast"] if theme == "dark" else None)
                found += [f"at {view['width']} px, {theme}: {fault}" for fault in seen]
        of_all += [f"{path.name}: {fault}" for fault in found]
        found.clear()
    context.close()
    return of_all


def _seen(page, path):
    seen, wide = page.evaluate(SEES), page.evaluate(TOO_WIDE)
    found = [f"{wide} px too wide"] if wide > 0 else []
    found += [f"{what} formula {text!r}" for what in ("empty", "pale") for text in seen[what]]
    found += [f"outside its box {text!r}" for text in page.evaluate(OUTSIDE)]
    if path.name.startswith("lecture"):
        found += [] if seen["formulas"] > 50 else ["formulas are missing"]
    return found


def violations(page, most=1, rules=None):
    """What axe finds serious on a page, of which a part is taken away; by all its rules, or by some."""
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate(THIN)
    options = {"resultTypes": ["violations"], "preload": False} | ({"runOnly": rules} if rules else {})
    found = Axe().run(page, options=options).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    return [f"{v['id']}: {node['html'][:120]}" for v in serious for node in v["nodes"][:most]]


def test_pages_load_and_fit(browser, book):
    paths = sorted(book.glob("*.html"))
    assert {path.stem for path in paths} >= set(LIGHT)
    windows = [(NARROW, "dark"), (WIDE, "light")]
    assert faults_of_all(browser, paths, windows) == []


def test_a_wrong_live_number_is_detected(browser, book, tmp_path):
    shutil.copytree(book, tmp_path / "book")
    script = tmp_path / "book" / "live.js"
    right = script.read_text()
    wrong = right.replace("turned(F)", "F").replace("dq: z, dx: z", "dq: z, dx: y").replace("1.8e308", "")
    script.write_text(wrong.replace("new Complaint(`${name} is empty", "new Complaint(`${name}"))
    page = browser.new_page()
    page.goto((tmp_path / "book" / "lecture-c.html").as_uri())
    found = " ".join(typing_into.faults(page))
    assert all(word in found for word in ("graph: dx.0.0 is", "correlation: dX.", "graph: '': "))
    assert "dF" not in found
    page.close()


def test_without_a_script_the_numbers_are_those_of_jax(files, x64):
    html = "".join(files[f"lecture-{letter}.html"].decode() for letter in "abc")
    for example in LIVE:
        _, _, part = html.partition(f'id="live-{example.name}"')
        shown = re.findall(r"<output.*?>(.*?)</output>", part.partition("</section>")[0])
        values = [number for _, _, value in example.results for number in value.ravel()]
        np.testing.assert_allclose([float(n.replace("−", "-")) for n in shown], values, rtol=5e-4)
        given = {name: np.asarray(value, float) for name, value in example.inputs.items()}
        want = typing_into.expected(example, given)
        assert {name for name, _, _ in example.results} == set(want)
        for name, _, value in example.results:
            np.testing.assert_allclose(value, want[name], rtol=1e-12, atol=1e-14)


def test_a_faulty_page_is_detected(browser, tmp_path):
    path = tmp_path / "faulty.html"
    path.write_text(FAULTY)
    found = faults(browser, path, [(NARROW, "dark"), (WIDE, "light")])
    for window in ("at 375 px, dark", "at 1280 px, light"):
        here = " ".join(fault for fault in found if window in fault)
        assert all(word in here for word in ("px too wide", "empty formula", "outside its box 'aaa", "color"))
    paper = ("on paper: 1290 px too wide", "on paper: outside its box 'aaa")
    anywhere = ("console: oh", "request: https", "label: <input>", *paper)
    assert all(word in " ".join(found) for word in anywhere)


def test_thinning_out_leaves_one_of_each_kind(browser, book):
    """A class whose colour is too pale is detected wherever it is on the page."""
    page = browser.new_page(viewport=WIDE)
    page.goto((book / "lecture-c.html").as_uri())
    for where in ("#C-10 .note", "#C-11 td:last-child", "#C-08 pre .nf"):
        assert page.eval_on_selector_all(where, "found => found.map(e => e.style.color = '#bbb').length")
    page.eval_on_selector_all("#C-05 .hero", "found => found.forEach(e => { e.style.color = '#bbb'; })")
    assert page.evaluate(SEES)["pale"]
    found = " ".join(violations(page, 99))
    assert [part for part in ('class="note"', "<td style", 'class="nf"') if part not in found] == []
    page.close()


PHRASES = {
    "softmax gradient": "lecture-a.html#A-08",
    "relu derivative": "lecture-b.html#B-06",
    "commute": "lecture-d.html#question-commute",
    "Kronecker": "lecture-d.html#D-09",
    "bias gradient": "lecture-c.html#C-06",
    "cross entropy": "lecture-a.html#A-10",
    "chain rule": "lecture-b.html#B-01",
    "Jacobian of the mean": "lecture-a.html#A-02",
    "rotate the filter": "lecture-c.html#C-10",
    "sigmoid slope": "lecture-c.html#C-05",
    "layer norm backward": "chapter-e.html#E-01",
    "normalization": "chapter-e.html#E-02",
    "attention gradient": "chapter-e.html#E-11",
    "why divide by m?": "lecture-d.html#question-one-over-m",
    "golden vectors": "guides.html#golden",
    "kill matrix": "mutants.html",
    "dropout mask": "chapter-e.html#E-13",
    "gradient descent": "lecture-d.html#D-11",
    "delta recursion": "lecture-c.html#C-05",
    "check my gradient": "guides.html#checker",
    "softmax_bwd": "api-formulas-softmax.html#softmax_bwd",
    "the sign is flipped": "gradient.html#the-sign-is-flipped",
    # words that the book does not use, or not in this order
    "derivative of relu": "lecture-b.html#B-06",
    "how do I backprop through layernorm": "chapter-e.html#E-01",
    "gradient of matrix multiplication": "lecture-d.html#D-07",
    "vanishing gradient": "chapter-e.html#E-14",
    "conv backward pass": "lecture-c.html#C-10",
    "conv filter gradient": "lecture-c.html#C-09",
    "why is the weight transposed": "lecture-d.html#D-09",
    "batch norm derivation": "chapter-e.html#E-04",
    "what is a jacobian": "lecture-a.html#A-01",
    "numerical gradient check": "guides.html#checker",
    "dead relu": "lecture-b.html#B-06",
    "numerically stable softmax": "lecture-d.html#D-03",
    "log sum exp trick": "lecture-b.html#B-09",
    "vectorized backprop": "lecture-b.html#B-15",
    "hadamard product": "lecture-b.html#B-06",
    "mean squared error derivative": "lecture-a.html#A-04",
    "binary cross entropy gradient": "chapter-e.html#E-22",
    "flash attention": "chapter-e.html#E-12",
    "grouped query attention": "chapter-e.html#E-11",
    "lstm forget gate": "chapter-e.html#E-16",
    "bptt": "chapter-e.html#E-14",
    "weight sharing": "chapter-e.html#E-32",
    "positional encoding": "chapter-e.html#E-10",
    "inverse of a matrix derivative": "chapter-e.html#E-29",
    "teacher": "index.html#teacher",
    "handout for teachers": "handout-a.html",
    "soft max jacobain": "lecture-a.html#A-07",
    "gradeint descent": "lecture-d.html#D-11",
    "relu zebra": "lecture-b.html#B-06",
}


def test_search_finds_the_pages_of_phrases(browser, book):
    page = browser.new_page(viewport=WIDE)
    page.goto((book / "gradient.html").as_uri())
    page.keyboard.press("/")
    page.wait_for_function("window.SECTIONS")
    lost = {}
    for phrase, place in PHRASES.items():
        page.fill("#find", phrase)
        found = page.eval_on_selector_all("#hits a", "all => all.map((a) => a.getAttribute('href'))")
        lost |= {} if place in found[:4] else {phrase: found[:4]}
    assert lost == {}
    page.fill("#find", "xyzzy")
    assert page.text_content("#hits") == "Nothing found."
    page.fill("#find", "softmax zebra")
    assert page.text_content("#hits p").endswith("sections; nothing about “zebra”")
    for view in (NARROW, WIDE):
        page.set_viewport_size(view)
        box = page.locator("#hits").bounding_box()
        assert box["x"] >= 0, view
        assert box["x"] + box["width"] <= view["width"], view
    page.fill("#find", "delta recursion")
    page.keyboard.press("Enter")
    page.wait_for_url("**/lecture-c.html#C-05")
    assert "C-05" in page.text_content(".toc a[aria-current]")
    page.locator("#C-05 .copy").first.evaluate("button => button.click()")
    assert page.locator("#C-05 .copy").first.text_content() in ("Copied", "Copy")
    page.close()


def test_a_lecture_is_ten_pages_of_paper(browser, book):
    page = browser.new_page(viewport=WIDE)
    page.goto((book / "lecture-a.html").as_uri())
    assert 5 <= len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4", prefer_css_page_size=True))) <= 12
    page.close()


def test_a_handout_asks_before_it_answers(files):
    for chapter in CHAPTERS.values():
        asked, answers = files[f"handout-{chapter.letter.lower()}.html"].decode().split("<h2>Solutions")
        assert all(html.count(f">{e.tag}<") == 1 for html in (asked, answers) for e in chapter.equations)
        assert answers.count('class="solution"') == len(chapter.equations)
        assert "<pre" not in asked + answers
        assert 'class="starts"' not in asked  # the steps are not given away
        assert answers.count('class="starts"') >= len(chapter.equations)
        assert asked.count('class="given"') == len(chapter.equations)
    asked, answers = files["handout-b.html"].decode().split("<h2>Solutions")
    assert "(o − y) a" not in asked
    assert "(o − y) a" in answers


def test_search_links_and_theme(browser, book):
    page = browser.new_page(viewport=WIDE)
    page.goto((book / "index.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("D-E4")
    rows = page.locator("#entries tbody tr:visible")
    assert rows.count() == 1
    assert "drop the factor 1/m" in rows.first.text_content()
    assert page.locator("#found").text_content() == f"1 of {len(TAGS)}"
    page.keyboard.press("Enter")
    page.wait_for_url("**/lecture-d.html#D-E4")
    assert abs(page.locator("#D-E4").bounding_box()["y"]) < 40
    page.goto((book / "index.html").as_uri() + "?q=softmax_bwd")
    assert 0 < page.locator("#entries tbody tr:visible").count() < len(TAGS)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.close()
