"""The commands on the hand-written pages exist, with all of their options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from docs.generate import cli
from tests.support.media import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("how-to/*.md")), *sorted((ROOT / "docs").glob("get-started/*.md"))]
COMMAND = re.compile(r"(?:^ {4}|`)(vision-infer (?:[a-z]+ )+[^`\n]*)", re.MULTILINE)
OPTIONS = {
    name: {option for one in command.get_params(typer.Context(command)) for option in (*one.opts, *one.secondary_opts)}
    for name, command in cli.commands()
}
DOCKER = {"--build-arg", "--gpus", "--network", "--target"}


def lines() -> list[tuple[str, str]]:
    """Return each command line with the name of its page."""
    return [(page.stem, line) for page in PAGES for line in COMMAND.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "line"), lines())
def test_a_command_and_its_options_exist(page: str, line: str) -> None:
    words = re.sub(r"\s#.*", "", line).split("|")[0].split()
    name = next(name for size in (3, 2) if (name := " ".join(words[:size])) in OPTIONS)
    given = {word for word in words if re.fullmatch(r"--[a-z-]+", word)}
    assert given <= OPTIONS[name], (page, given - OPTIONS[name])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_options_in_the_text_exist(page: Path) -> None:
    known = DOCKER.union(*OPTIONS.values())
    named = re.findall(r"`(?:run )?(--[a-z-]+)", page.read_text(encoding="utf-8"))
    assert set(named) <= known
