"""One download from a test server, and its messages."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from vision_infer.core.errors import ModelError
from vision_infer.model.pull.checksum import parse_checksum
from vision_infer.model.pull.download import Downloaded, Limits, download, part_of

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
CUT = 200_000
QUICK = Limits(timeout_s=0.3, attempts=3)


class Pull:
    """One download and its messages."""

    def __init__(self, folder: Path) -> None:
        self.target = folder / "downloads" / "network.onnx"
        self.messages: list[str] = []
        self.waited: list[float] = []
        self.progress: list[tuple[int, int | None]] = []

    def __call__(self, url: str, checksum: str = "", limits: Limits = QUICK, **more: Any) -> Downloaded:
        return download(
            url,
            self.target,
            parse_checksum(checksum),
            limits=limits,
            on_message=self.messages.append,
            wait=self.waited.append,
            report=lambda done, total: self.progress.append((done, total)),
            **more,
        )

    def refused(self, url: str, checksum: str = "", limits: Limits = QUICK, **more: Any) -> str:
        with pytest.raises(ModelError) as caught:
            self(url, checksum, limits, **more)
        assert caught.value.hint
        assert not self.target.exists()
        return str(caught.value)

    @property
    def part_size(self) -> int:
        part = part_of(self.target)
        return part.stat().st_size if part.exists() else 0

    def is_right(self) -> None:
        assert self.target.read_bytes() == DATA
        assert not part_of(self.target).exists()
        assert sorted(path.name for path in self.target.parent.iterdir()) == [
            "network.onnx",
            "network.onnx.lock",
            "network.onnx.seen.json",
        ]


@pytest.fixture
def pull(tmp_path: Path) -> Pull:
    return Pull(tmp_path)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
