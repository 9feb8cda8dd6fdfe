from manual_grad import compiling


def test_an_option_that_this_xla_does_not_know_costs_no_other(monkeypatch):
    known = compiling.QUICK
    monkeypatch.setattr(compiling, "QUICK", known | {"xla_no_such_option": True})
    assert compiling.quick.__wrapped__() == known
