"""Check the project's prose against the phrases of ``docs/prose.toml``.

It reads Markdown, YAML comments and descriptions, Grafana titles, the strings and comments of the page, and the docstrings,
comments and messages of Python files. ``python docs/check_prose.py`` prints each hit as ``path:line: phrase -> advice`` and exits
with status 1 if there is one; ``--count`` prints the number of words and hits of each area instead. Paths limit the check to
these files.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PHRASES = ROOT / "docs" / "prose.toml"
PYTHON = ("vision_infer/", "tests/", "benchmarks/", "docs/", "models/")
TEXT = {".md", ".yaml", ".yml", ".js", ".html", ".toml", ".json"}
SKIPPED = re.compile(r"(^|/)(vendor|LICENSE[^/]*|node_modules)(/|$)|^docs/prose\.toml$|passport\.json$|package-lock\.json$")
CODE = re.compile(r"```.*?```|``[^`]*``|`[^`\n]*`|https?://\S+|<[^>\n]+>", re.DOTALL)
MIN_WORDS = 4  # shorter strings of Python code are keys and identifiers more often than prose

Passage = tuple[int, str]
"""The first line of a passage, counted from 1, and its text."""


def phrases() -> list[tuple[re.Pattern[str], str]]:
    """Return the patterns of the phrase file, each with its advice."""
    entries = tomllib.loads(PHRASES.read_text(encoding="utf-8"))["phrase"]
    return [(re.compile(rf"\b(?:{entry['find']})\b", re.IGNORECASE), entry["write"]) for entry in entries]


def area_of(path: str) -> str:
    """Return the area that a file is counted in."""
    if path.endswith(".md"):
        return "README" if path == "README.md" else "docs" if path.startswith("docs/") else "other Markdown"
    if path.startswith("vision_infer/service/page/"):
        return "page"
    return "package" if path.startswith("vision_infer/") else "tests" if path.startswith("tests/") else "other code"


def python_passages(source: str) -> Iterator[Passage]:
    """Yield docstrings, comments and strings of several words."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) >= MIN_WORDS:
            yield node.lineno, node.value
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def hits(path: str, patterns: list[tuple[re.Pattern[str], str]]) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the phrase and the advice of each hit in a file."""
    source = (ROOT / path).read_text(encoding="utf-8")
    for first, text in python_passages(source) if path.endswith(".py") else [(1, source)]:
        prose = CODE.sub(lambda match: "\n" * match[0].count("\n"), text)
        for pattern, advice in patterns:
            for match in pattern.finditer(prose):
                yield first + prose.count("\n", 0, match.start()), match[0], advice


def files(paths: list[str]) -> list[str]:
    """Return the tracked files that hold prose, of these paths or of all."""
    words = ["git", "ls-files", "--", *paths]
    listed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    chosen = [path for path in listed if Path(path).suffix in TEXT or (path.endswith(".py") and path.startswith(PYTHON))]
    return [path for path in chosen if not SKIPPED.search(path) and (ROOT / path).is_file()]


def main() -> int:
    """Print the hits, or their number by area."""
    patterns = phrases()
    words: Counter[str] = Counter()
    found: Counter[str] = Counter()
    count = "--count" in sys.argv[1:]
    for path in files([word for word in sys.argv[1:] if word != "--count"]):
        area = area_of(path)
        words[area] += len((ROOT / path).read_text(encoding="utf-8").split())
        for line, phrase, advice in hits(path, patterns):
            found[area] += 1
            if not count:
                print(f"{path}:{line}: '{' '.join(phrase.split())}' -> {advice}")
    if count:
        for area, number in words.items():
            print(f"{area}: {number} words, {found[area]} hits, {1000 * found[area] / max(number, 1):.2f} per 1,000")
        return 0
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
