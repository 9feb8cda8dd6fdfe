"""Every command that the README shows is one that the console script takes; its Python runs as doctests."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from manual_grad.cli.app import app

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
LINES = [
    line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if "manual-grad " in line
]
COMMANDS = [line.partition("manual-grad ")[2] for line in LINES if "python3 -m venv" not in line]


def parsed(words):
    """Parse a command's words to the end without running it."""
    command = typer.main.get_command(app)
    context = command.make_context("manual-grad", [])
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command.make_context(command.name, list(words), parent=context)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme_parses(line):
    assert parsed(shlex.split(line, comments=True)).command.name == line.split()[0] or line.startswith(
        "golden"
    )


def test_a_command_that_does_not_exist_is_seen():
    with pytest.raises(Exception, match="No such option"):
        parsed(["verify", "--tags", "A-10"])
    with pytest.raises(KeyError):
        parsed(["prove"])
