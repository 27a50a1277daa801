"""What a trial on this machine has chosen, kept beside the engine cache: once for the same graphs, runtimes and device."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vision_infer.core.errors import EngineError
from vision_infer.engine.device import available_cpus
from vision_infer.engine.selection.candidates import Candidate
from vision_infer.engine.store.trust import make_trusted_folder

FOLDER = "choices"
MOST = 200
"""older ones go when a new one is written"""


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine that was chosen, and why."""

    candidate: Candidate
    reason: str
    """one line: ``openvino-cpu-fp32: 1.3× faster than onnxruntime-cpu-fp32 here (trial of 2.0 s)``"""
    made_s: float = field(default=0.0, compare=False)
    """when, seconds since 1970; 0: now"""
    guessed: bool = False
    """its speed was measured on another processor, or with another version of the runtime"""


def recall(engine_dir: Path, choices: Sequence[Candidate], budget: float) -> Choice | None:
    """What was chosen for these very candidates, on this device, with these versions of the runtimes; None if nothing was.

    Args:
        engine_dir: the folder of the engine cache.
        choices: all engines that are possible now.
        budget: of accuracy, points; a choice for a greater one does not count.
    """
    try:
        path = _file(engine_dir, choices, budget)
        content = json.loads(path.read_text(encoding="utf-8"))
        chosen = [one for one in choices if one.key().digest() == content["chosen"]]
        return Choice(chosen[0], str(content["reason"]), path.stat().st_mtime)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def remember(engine_dir: Path, choices: Sequence[Candidate], budget: float, choice: Choice) -> None:
    """Keep a choice.

    Raises:
        EngineError: it cannot be written, or the folder is not to be trusted.
    """
    make_trusted_folder(engine_dir.resolve())
    path = _file(engine_dir, choices, budget)
    make_trusted_folder(path.parent)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    content = {"chosen": choice.candidate.key().digest(), "reason": choice.reason}
    try:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        temporary.replace(path)
        for old in sorted(path.parent.glob("*.json"), key=lambda one: -one.stat().st_mtime_ns)[MOST:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise EngineError(f"{path.parent}: the choice cannot be kept: {error.strerror}", "make room, or --engine-dir") from error


def _file(engine_dir: Path, choices: Sequence[Candidate], budget: float) -> Path:
    keys = sorted(one.key().digest() for one in choices)
    text = json.dumps([keys, round(budget, 6), available_cpus()])
    return engine_dir.resolve() / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
