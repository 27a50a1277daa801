"""Engines that a trial on this machine could not use, with the reason: they are not tried at each run again.

A failure belongs to the key of its engine: another graph, runtime version or processor makes it be tried anew. An engine is
marked before it is opened. A mark that nobody took away tells of a trial that crashed there; since a trial is also ended by
whoever needs the machine, it counts from the second time on.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_infer.core.errors import EngineError
from vision_infer.engine.selection.candidates import Candidate
from vision_infer.engine.selection.choices import FOLDER
from vision_infer.engine.store.trust import make_trusted_folder

CRASHES = 2
CRASHED = f"its trial ended in the middle {CRASHES} times: it crashed, or was killed"


@dataclass(frozen=True, slots=True)
class Failures:
    """What is kept of trials that failed; what cannot be kept is forgotten.

    Args:
        engine_dir: the folder of the engine cache.
        budget: loss of accuracy that is accepted, points; a failure counts for this budget and lower ones.
    """

    engine_dir: Path
    budget: float

    def reason(self, candidate: Candidate) -> str:
        """Why an engine is not to be tried; empty if it is."""
        kept = self._read(candidate)
        if kept.get("unfinished", 0) >= CRASHES:
            return CRASHED
        return str(kept.get("reason", "")) if kept.get("budget", -1.0) >= self.budget else ""

    def begin(self, candidate: Candidate) -> None:
        """A trial of the engine begins."""
        self._write(candidate, {"engine": candidate.engine, "unfinished": int(self._read(candidate).get("unfinished", 0)) + 1})

    def end(self, candidate: Candidate, reason: str = "") -> None:
        """It has ended.

        Args:
            candidate: the engine.
            reason: why it is of no use; empty if it is of use.
        """
        if reason:
            self._write(candidate, {"engine": candidate.engine, "reason": reason, "budget": self.budget})
            return
        with contextlib.suppress(OSError):
            self._file(candidate).unlink(missing_ok=True)

    def _file(self, candidate: Candidate) -> Path:
        return self.engine_dir.resolve() / FOLDER / f"failed-{candidate.key().digest()}.json"

    def _read(self, candidate: Candidate) -> dict[str, Any]:
        try:
            kept = json.loads(self._file(candidate).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(kept, dict) or not all(isinstance(kept.get(one, 0), int | float) for one in ("unfinished", "budget")):
            return {}
        return kept

    def _write(self, candidate: Candidate, content: dict[str, object]) -> None:
        path = self._file(candidate)
        temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        try:
            make_trusted_folder(self.engine_dir.resolve())
            make_trusted_folder(path.parent)
            temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            temporary.replace(path)
        except (OSError, EngineError):
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
