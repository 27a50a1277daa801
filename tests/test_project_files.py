"""The files around the code agree with it: workflows, hooks, changelog and citation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.check_release import URLS, problem
from tests.support.media import ROOT
from vision_infer import __version__

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
SAFE_DIRECTORY = 'git config --system --add safe.directory "$GITHUB_WORKSPACE"'
# Only the branches of its major versions can be named: no commit of a current version could be verified.
NOT_PINNED = {"pypa/gh-action-pypi-publish@release/v1"}


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return found


def values(job: dict[str, Any], key: str) -> list[str]:
    """Return the values of a key of a job's matrix."""
    matrix = job.get("strategy", {}).get("matrix", {})
    return [*matrix.get(key, []), *(entry[key] for entry in matrix.get("include", []) if key in entry)]


def commands(job: dict[str, Any]) -> list[str]:
    """Return the command lines of a job, with each value of the matrix."""
    lines = [line for step in job.get("steps", []) for line in step.get("run", "").splitlines()]
    found = []
    for line in lines:
        key = re.search(r"\$\{\{ matrix\.(\w+) \}\}", line)
        found += [line.replace(key[0], value) for value in values(job, key[1])] if key else [line]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_only_call_targets_of_make(path: Path) -> None:
    for line in (line for job in jobs(path).values() for line in commands(job)):
        assert line == SAFE_DIRECTORY or line.removeprefix("make ") in TARGETS, line


def test_the_workflows_run_all_that_a_change_has_to_pass() -> None:
    lines = {line for path in WORKFLOWS for job in jobs(path).values() for line in commands(job)}
    required = set(re.findall(r"^make .*$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE))
    assert lines >= required | {"make test", "make dist"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_name_exact_actions_and_few_permissions(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for used in re.findall(r"uses: (\S+)", text):
        assert used.startswith("./") or used in NOT_PINNED or re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", used), used
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    assert "secrets." not in text


def test_each_declared_python_is_tested() -> None:
    prefix = "Programming Language :: Python :: "
    supported = {entry.removeprefix(prefix) for entry in PROJECT["classifiers"] if entry.startswith(prefix)}
    assert supported <= set(values(jobs(ROOT / ".github" / "workflows" / "ci.yml")["make"], "python"))


def test_the_hooks_use_the_versions_of_the_constraints() -> None:
    pinned = set((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert {package for hook in local["hooks"] for package in hook.get("additional_dependencies", [])} <= pinned


def test_the_prose_of_single_files_can_be_checked() -> None:
    words = [sys.executable, "docs/check_prose.py", "SECURITY.md", "docs/prose.toml"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_version_is_the_newest_section_of_the_changelog() -> None:
    assert problem(__version__, CHANGELOG, os.environ.get("TAG", ""), PROJECT.get("urls", {})) == ""


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    assert CHANGELOG.startswith("# Changelog\n")
    for heading in re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE):
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - (unreleased|\d{4}-\d\d-\d\d)", heading), heading
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)) <= kinds


@pytest.mark.parametrize(
    ("version", "heading", "tag", "expected"),
    [
        ("1.2.0", "[1.2.0] - 2030-12-31", "v1.2.0", ""),
        ("1.2.0", "[1.2.0] - unreleased", "", ""),
        ("1.2.0", "[1.2.0] - unreleased", "v1.2.0", "has no date"),
        ("1.2.0", "[1.2.0] - 2030-12-31", "v1.3.0", "the tag is v1.3.0"),
        ("1.2.0", "[1.2.0] - 2030-12-31", "1.2.0", "the tag is 1.2.0"),
        ("1.3.0", "[1.2.0] - 2030-12-31", "", "begins with 1.2.0"),
        ("1.2.0", "1.2.0", "", "no section at its top"),
    ],
)
def test_a_release_needs_agreement(version: str, heading: str, tag: str, expected: str) -> None:
    found = problem(version, f"# Changelog\n\n## {heading}\n\n## [1.1.0] - 2029-01-01\n", tag, URLS)
    assert expected in found
    assert bool(found) == bool(expected)


def test_a_release_names_the_addresses_of_the_project() -> None:
    changelog = "# Changelog\n\n## [1.2.0] - 2030-12-31\n"
    assert problem("1.2.0", changelog) == ""
    assert "no Issues and no Changelog in [project.urls]" in problem("1.2.0", changelog, "v1.2.0", ["Source"])


def test_the_citation_describes_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["title"] == PROJECT["name"]
    assert citation["abstract"] == PROJECT["description"] + "."
    assert citation["authors"] == PROJECT["authors"]
    assert citation["license"] in PROJECT["license"].split(" AND ")
