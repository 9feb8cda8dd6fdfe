"""The guides of ``docs/`` in the book: each is there, whole, with links that lead within the book."""

import re

import pytest

from manual_grad.report.code import ROOT
from manual_grad.report.guides import ORDER, guide, guides


def test_every_guide_is_there_but_the_list_that_the_index_has():
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} == {*ORDER, "equations"}
    assert [g.name for g in guides()] == list(ORDER)


@pytest.mark.parametrize("g", guides(), ids=lambda g: g.name)
def test_its_markdown_is_rendered(g):
    plain = re.sub(r"<pre>.*?</pre>|<code>.*?</code>", "", g.body, flags=re.DOTALL)
    assert not re.findall(r"`|\*\*|^#|^\||\]\(", re.sub(r"<[^>]+>", "", plain), flags=re.MULTILINE)
    targets = set(re.findall(r'href="([^"]+)"', g.body))
    assert targets <= {f"#{name}" for name in ORDER} | {"index.html#index"}
    text = re.sub(r"```\w+|\.md", "", (ROOT / "docs" / f"{g.name}.md").read_text("utf-8"))
    shown = re.sub(r"<[^>]+>", "", g.title + g.body)
    assert [
        word for word in re.findall(r"[A-Za-z]{4,}", text) if word not in shown and word not in ORDER
    ] == []


def test_a_table_and_a_list():
    text = "# T\n\n| a | b |\n|---|---|\n| `x` | **y** |\n\n- one\n- two,\n  on\n"
    body = guide("t", text).body
    assert '<th scope="col">a</th>' in body
    assert "<td><code>x</code></td><td><strong>y</strong></td>" in body
    assert "<li>one</li><li>two, on</li>" in body
