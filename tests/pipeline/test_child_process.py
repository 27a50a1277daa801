"""A child process: it has low priority, and ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.pipeline.fakes import LONG_S
from tests.support.media import ROOT
from tests.support.waiting import wait_until
from vision_infer.pipeline.lanes.child_process import bound, run_child

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
SLEEPS = """
import os, sys, time
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""
PARENT = """
import sys
from vision_infer.pipeline.lanes.child_process import run_child
run_child([sys.executable, "-c", sys.argv[1], sys.argv[2]], 5, lambda: False)
"""


def ended(process: int) -> bool:
    """Return whether a process, which is not our child, has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_child_has_low_priority_and_ends_when_it_is_stopped() -> None:
    waits = "import os, time\nwhile os.getpriority(os.PRIO_PROCESS, 0) != 7: time.sleep(0.01)\n"
    limit = time.monotonic() + LONG_S
    assert run_child([sys.executable, "-c", waits], 7, lambda: time.monotonic() > limit) is None
    assert run_child([sys.executable, "-c", "import time; time.sleep(600)"], 7, lambda: True) == "it was stopped"
    assert time.monotonic() < limit


def test_a_failure_is_returned_as_one_line() -> None:
    assert run_child([sys.executable, "-c", "import sys; sys.exit('first\\nerror: bad')"], 7, lambda: False) == "error: bad"
    assert run_child([sys.executable, "-c", "import sys; sys.exit(3)"], 7, lambda: False) == "the process ended with status 3"
    assert run_child(["/nowhere/python"], 7, lambda: False) == "cannot start the process: No such file or directory"


def test_a_child_reads_a_file_and_its_lines_are_passed_on() -> None:
    """The parent still writes the file while the child reads it; each has its own position."""
    lines: list[str] = []
    code = "import os\nfor number in range(3000): print(number, os.pread(0, 5, 0).decode(), flush=True)\nprint('rest', end='')"
    with tempfile.TemporaryFile() as file:
        os.pwrite(file.fileno(), b"hello", 0)
        assert run_child([sys.executable, "-c", code], 0, lambda: False, lines.append, file) is None
    assert lines == [f"{number} hello" for number in range(3000)]


@needs_linux
def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "child"
    words = [sys.executable, "-c", PARENT, SLEEPS + "time.sleep(600)", str(note)]
    with subprocess.Popen(words, cwd=ROOT) as parent:
        try:
            wait_until(note.exists, "the child to run")
            child = int(note.read_text())
            assert not ended(child)
        finally:
            parent.send_signal(signal.SIGKILL)
    wait_until(lambda: ended(child), "the child to end")


@needs_linux
def test_a_child_whose_parent_has_ended_already_does_nothing(tmp_path: Path) -> None:
    note = tmp_path / "child"
    words = bound([sys.executable, "-c", SLEEPS, str(note)])
    assert words[5] == str(os.getpid())
    words[5] = str(os.getppid())  # as if another process had started it
    done = subprocess.run(words, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert (done.returncode, done.stderr) == (1, "the parent process has ended\n")
    assert not note.exists()
