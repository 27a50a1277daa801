"""``docs/reference/cli.md``: every command of the Typer application, by walking it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

import typer

from docs.generate.markdown import anchor, code, plain, table, template
from vision_infer.cli.app import app

PROGRAM = "vision-infer"
TYPES = {"int": " INTEGER", "float": " NUMBER", "str": " TEXT", "path": " PATH"}


def page() -> str:
    """Return the page for the commands as they are now."""
    found = list(commands())
    index = _index(found)
    return template("cli.md", commands=index, details="\n\n".join(_section(name, one) for name, one in found))


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command and sub-command with its full name, groups included."""
    yield from _walk(PROGRAM, typer.main.get_command(app))


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from _walk(f"{name} {word}", below)


def _short(name: str, kind: str) -> str:
    """Return an option with a plain name of its type: ``--port INTEGER`` instead of ``--port <int range>``."""
    return re.sub(r" <(\w+)[^>]*>", lambda match: TYPES.get(match[1], "") if kind == "option" else "", name)


def _index(found: Iterable[tuple[str, Any]]) -> str:
    links = ([f"[{code(name)}](#{anchor(name)})", _summary(command)] for name, command in found)
    return table(["Command", "Purpose"], links).strip()


def _summary(command: Any) -> str:
    return plain(inspect.cleandoc(command.help or "").split("\n\n")[0])


def _section(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    parts = [f"## {name}", f"```text\n{usage}\n```", plain(inspect.cleandoc(command.help or ""))]
    records = [(param, param.get_help_record(context)) for param in command.get_params(context)]
    shown = [(param, record) for param, record in records if record is not None]
    for title, kind in (("Argument", "argument"), ("Option", "option")):
        rows = [[code(_short(record[0], kind)), plain(record[1])] for param, record in shown if param.param_type_name == kind]
        if rows:
            parts.append(table([title, "Description"], rows).strip())
    below = getattr(command, "commands", {})
    if below and name != PROGRAM:
        parts.append(_index((f"{name} {word}", one) for word, one in below.items()))
    return "\n\n".join(part for part in parts if part)
