"""A file appears only when it is complete and correct: lengths, checksums, full disks, and concurrent downloads."""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.model.bad_server import BadServer, Reply
from tests.model.pulling import CUT, DATA, SHA256, Pull, no_proxy, pull
from vision_infer.core.errors import ModelError
from vision_infer.model.pull import download as module
from vision_infer.model.pull.checksum import parse_checksum
from vision_infer.model.pull.download import Limits, download

__all__ = ["no_proxy", "pull"]


@pytest.mark.parametrize("length", [len(DATA) + 1000, -1])
def test_a_wrong_or_missing_length(pull: Pull, length: int) -> None:
    replies = [Reply(length=length)] * 9
    with BadServer(DATA, *replies) as server:
        if length == -1:
            pull(server.url, f"sha256:{SHA256}")
            pull.is_right()
        else:
            assert "the length of the part differs from the range" in pull.refused(server.url)
            assert pull.messages[0].startswith("network.onnx: the connection broke at 0.3 of 0.3 MB")


def test_the_checksum_detects_a_length_that_is_too_small(pull: Pull) -> None:
    with BadServer(DATA, Reply(length=CUT)) as server:
        assert "the checksum" in pull.refused(server.url, f"sha256:{SHA256}")
    assert pull.part_size == 0


def test_the_size_limit_holds_without_an_announced_length(pull: Pull) -> None:
    limits = Limits(nbytes=100_000, timeout_s=0.3)
    with BadServer(DATA, Reply(length=-1)) as server:
        assert "the file is larger than the limit of 0 MB" in pull.refused(server.url, limits=limits)
    assert pull.part_size <= 100_000


def test_an_empty_response_is_refused(pull: Pull) -> None:
    with BadServer(b"") as server:
        assert "no data arrived" in pull.refused(server.url)


@pytest.mark.parametrize("stated", [f"sha256:{SHA256}", f"sha256:{SHA256[:8]}", f"md5:{hashlib.md5(DATA).hexdigest()}"])
def test_the_checksum_is_checked(pull: Pull, stated: str) -> None:
    with BadServer(DATA) as server:
        assert not pull(server.url, stated).first_time
        pull.is_right()
        pull.target.unlink()
        wrong = stated.replace(stated[-8:], "00000000")
        said = pull.refused(server.url, wrong)
    assert "the checksum" in said
    assert "00000000" in said
    assert pull.part_size == 0, "nothing of it is kept"


def test_without_a_published_checksum_the_first_download_counts(pull: Pull) -> None:
    other = random.Random(2).randbytes(1000)
    with BadServer(DATA) as server:
        pull(server.url)
        pull.target.unlink()
        pull(server.url)
        pull.target.unlink()
        server.data = other
        assert "the file differs from the first download" in pull.refused(server.url)


def test_an_existing_damaged_file_is_detected(pull: Pull) -> None:
    with BadServer(DATA) as server:
        pull(server.url)
        pull.target.write_bytes(DATA[:-1])
        assert "the file differs from the first download" in pull.refused(server.url)
        pull(server.url)
    pull.is_right()


@pytest.mark.parametrize("text", ["sha256:xyz", "sha1:00000000", "md5:00", "0" * 64])
def test_an_invalid_checksum_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be sha256: and 8 to 64"):
        parse_checksum(text)


def test_a_full_disk_is_reported(pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    with BadServer(DATA) as server:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
            assert "not enough disk space: 0 MB are needed, 0 MB are free" in pull.refused(server.url)
        with monkeypatch.context() as patch:
            patch.setattr(module._Fetch, "_copy", _full)
            assert "No space left on device. Free disk space and run" in pull.refused(server.url)
        pull(server.url)
    pull.is_right()


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "downloads").write_text("a file")
    with BadServer(DATA) as server, pytest.raises(ModelError, match="cannot be written"):
        Pull(tmp_path)(server.url)


def test_an_interrupted_download_keeps_its_part(pull: Pull) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    with BadServer(DATA) as server:
        with pytest.raises(KeyboardInterrupt):
            download(server.url, pull.target, report=interrupt)
        assert 100_000 < pull.part_size < len(DATA)
        kept = pull.part_size
        pull(server.url)
    pull.is_right()
    assert server.asked[1].range == f"bytes={kept}-"


def test_the_second_of_two_downloads_waits_for_the_first(pull: Pull, tmp_path: Path) -> None:
    second, waiting = Pull(tmp_path), threading.Event()
    second.messages = _Signal(waiting)

    def hold() -> Reply:
        other.start()
        assert waiting.wait(20)
        return Reply()

    with BadServer(DATA, hold) as server:
        other = threading.Thread(target=second, args=(server.url,))
        pull(server.url)
        other.join(20)
        assert len(server.asked) == 1
    pull.is_right()
    assert second.messages[0] == "waiting for another process that downloads network.onnx"


class _Signal(list[str]):
    """Set an event at the first message."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self._event = event

    def append(self, line: str) -> None:
        super().append(line)
        self._event.set()
