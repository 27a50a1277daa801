"""Writes ``docs/cli.md`` from the command line's own help, or checks that it is up to date (``--check``)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")
COMMANDS = (
    (),
    ("run",),
    ("serve",),
    ("diff",),
    ("why",),
    ("bench",),
    ("plan",),
    ("model",),
    ("model", "list"),
    ("model", "show"),
    ("model", "import"),
    ("model", "quantize"),
    ("model", "evaluate"),
    ("engine",),
    ("engine", "list"),
    ("engine", "show"),
    ("engine", "choose"),
    ("engine", "build"),
    ("engine", "prune"),
    ("schema",),
    ("schema", "result"),
    ("schema", "card"),
    ("schema", "config"),
    ("schema", "passport"),
)
HEAD = """# Command line

This page is written by `make format` from the help of the commands.

## Exit status

| status | meaning |
| --- | --- |
| 0 | everything was read and written |
| 1 | a source could not be read, or broke; the others are whole. `diff`: the results differ |
| 2 | the options are wrong. `diff`: the results cannot be compared |
| 3 | the model is unknown, is no deployment graph, or its card is wrong |
| 4 | the engine is missing, unknown, or failed while it ran |
| 5 | an output exists already, cannot be written, or broke |
| 70 | a mistake of ours: run again with `--debug` and report it |
| 130, 143 | stopped by Ctrl-C or SIGTERM; what was decoded is written whole |
| 141 | whoever read standard output has gone |

An error is one line on standard error that names the thing and what to do next; `--debug` shows the traceback. When several
sources are given, one that fails costs the others nothing. A second Ctrl-C ends the program at once.
"""


def page() -> str:
    """The page as the commands are now."""
    environment = {**os.environ, "COLUMNS": "110", "TERM": "dumb", "NO_COLOR": "1"}
    parts = [HEAD]
    for command in COMMANDS:
        words = [sys.executable, "-m", "vision_infer", *command, "--help"]
        text = subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout
        title = " ".join(("vision-infer", *command))
        parts.append(f"\n## {title}\n\n```text\n{text.strip()}\n```\n")
    return "".join(parts)


def main() -> int:
    """Write the page, or compare it."""
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
            print("docs/cli.md is out of date: run 'make format'", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
