"""The search for a cause must not hide an error of its own in these tests, as it does for users."""

import pytest

from manual_grad.checker import verdict
from manual_grad.checker.edits import search
from manual_grad.checker.mistakes import explain


@pytest.fixture(autouse=True)
def errors_of_the_search_are_raised(monkeypatch):
    monkeypatch.setattr(explain, "UNUSUAL", ())


@pytest.fixture
def only_edits(monkeypatch):
    """No cause in other words is looked for, which takes time, and errors of the search are raised."""
    monkeypatch.setattr(verdict, "SEARCHED", (8.0, 4.0, 0.1))
    monkeypatch.setattr(verdict, "diagnose", lambda evidence: verdict.UNEXPLAINED)
    monkeypatch.setattr(verdict, "narrowed", lambda evidence: "")
    monkeypatch.setattr(verdict, "located", lambda evidence: "")
    monkeypatch.setattr(search, "UNUSUAL", ())
