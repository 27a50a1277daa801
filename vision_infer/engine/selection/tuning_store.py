"""What autotuning on this machine found, kept next to the engine cache: the engine it chose, and the engines that failed.

A choice belongs to the keys of all candidates, a failure to the key of its engine: another graph, runtime version or CPU
makes autotuning try again. An engine is marked before it is opened. A leftover mark shows that the process ended while it tried
the engine; since users also interrupt autotuning, the engine is left out from the second time on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vision_infer.core.errors import EngineError
from vision_infer.engine.device import available_cpus
from vision_infer.engine.selection.candidates import EngineCandidate
from vision_infer.engine.store.trust import make_trusted_folder, write_file

FOLDER = "choices"
MAX_FILES = 200
"""The number of files that stay when a choice is written; the oldest are removed."""
MAX_CRASHES = 2
CRASHED = f"the process ended {MAX_CRASHES} times while it tried the engine (it crashed or was killed)"


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine that was chosen, and why."""

    candidate: EngineCandidate
    reason: str
    """One line: ``openvino-cpu-fp32: 1.3× as fast as onnxruntime-cpu-fp32 here (autotuned in 2.0 s)``."""
    made_s: float = field(default=0.0, compare=False)
    """The time of the choice, seconds since 1970; 0: now."""
    estimated: bool = False
    """Whether its speed was measured on another CPU, or with another version of the runtime."""


@dataclass(frozen=True, slots=True)
class TuningStore:
    """The results of autotuning for one budget.

    Args:
        engine_dir: The folder of the engine cache; it need not exist.
        budget: The accepted loss of accuracy, points; a choice counts for exactly this budget, a failure for lower ones as well.
    """

    engine_dir: Path
    budget: float

    def choice(self, candidates: Sequence[EngineCandidate]) -> EngineChoice | None:
        """Return what was chosen among these candidates, on this device, with these versions of the runtimes; else None."""
        try:
            path = self._choice_file(candidates)
            content = json.loads(path.read_text(encoding="utf-8"))
            chosen = [candidate for candidate in candidates if candidate.key().digest() == content["chosen"]]
            return EngineChoice(chosen[0], str(content["reason"]), path.stat().st_mtime)
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return None

    def save_choice(self, candidates: Sequence[EngineCandidate], choice: EngineChoice) -> None:
        """Save a choice among candidates.

        Raises:
            EngineError: It cannot be written, or the folder is not trusted.
        """
        path = self._choice_file(candidates)
        try:
            self._write(path, {"chosen": choice.candidate.key().digest(), "reason": choice.reason}, indent=1)
            for old in sorted(path.parent.glob("*.json"), key=lambda file: -file.stat().st_mtime_ns)[MAX_FILES:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            message = f"{path.parent}: the choice cannot be saved: {error.strerror}"
            raise EngineError(message, "Free disk space, or name another folder with --engine-dir.") from error

    def failure(self, candidate: EngineCandidate) -> str:
        """Return why an engine is left out; empty if it is to be tried."""
        saved = self._read_failure(candidate)
        if saved.get("unfinished", 0) >= MAX_CRASHES:
            return CRASHED
        return str(saved.get("reason", "")) if saved.get("budget", -1.0) >= self.budget else ""

    def begin(self, candidate: EngineCandidate) -> None:
        """Mark an engine before it is tried; a mark that cannot be written is left out."""
        count = int(self._read_failure(candidate).get("unfinished", 0)) + 1
        self._write_failure(candidate, {"engine": candidate.engine, "unfinished": count})

    def end(self, candidate: EngineCandidate, reason: str = "") -> None:
        """Replace the mark of an engine by the reason why it cannot be used, or remove it if there is none."""
        if reason:
            self._write_failure(candidate, {"engine": candidate.engine, "reason": reason, "budget": self.budget})
            return
        with contextlib.suppress(OSError):
            self._failure_file(candidate).unlink(missing_ok=True)

    def _choice_file(self, candidates: Sequence[EngineCandidate]) -> Path:
        keys = sorted(candidate.key().digest() for candidate in candidates)
        text = json.dumps([keys, round(self.budget, 6), available_cpus()])
        return self.engine_dir.resolve() / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def _failure_file(self, candidate: EngineCandidate) -> Path:
        return self.engine_dir.resolve() / FOLDER / f"failed-{candidate.key().digest()}.json"

    def _read_failure(self, candidate: EngineCandidate) -> dict[str, Any]:
        try:
            saved = json.loads(self._failure_file(candidate).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        valid = isinstance(saved, dict) and all(isinstance(saved.get(key, 0), int | float) for key in ("unfinished", "budget"))
        return saved if valid else {}

    def _write_failure(self, candidate: EngineCandidate, content: Mapping[str, object]) -> None:
        with contextlib.suppress(OSError, EngineError):
            self._write(self._failure_file(candidate), content)

    def _write(self, path: Path, content: Mapping[str, object], indent: int | None = None) -> None:
        make_trusted_folder(self.engine_dir.resolve())
        make_trusted_folder(path.parent)
        write_file(path, json.dumps(content, ensure_ascii=False, indent=indent).encode())
