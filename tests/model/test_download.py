"""A download from a server that breaks in all the usual ways."""

from __future__ import annotations

import errno
import hashlib
import itertools
import random
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.model.bad_server import ETAG, BadServer, Reply
from vision_infer.core.errors import ModelError
from vision_infer.model import download as module
from vision_infer.model.checksum import parse_checksum
from vision_infer.model.download import Downloaded, Limits, download, part_of

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
CUT = 200_000
QUICK = Limits(timeout_s=0.3, attempts=3)


class Pull:
    """One download, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.target = folder / "downloads" / "network.onnx"
        self.said: list[str] = []
        self.waited: list[float] = []
        self.progress: list[tuple[int, int | None]] = []

    def __call__(self, url: str, checksum: str = "", limits: Limits = QUICK, **more: Any) -> Downloaded:
        return download(
            url,
            self.target,
            parse_checksum(checksum),
            limits=limits,
            say=self.said.append,
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


def test_a_good_server(pull: Pull) -> None:
    with BadServer(DATA) as server:
        got = pull(server.url)
        assert (got.sha256, got.first_time) == (SHA256, True)
        pull.is_right()
        assert pull.progress[0] == (0, len(DATA))
        assert pull.progress[-1] == (len(DATA), len(DATA))
        assert pull.progress == sorted(pull.progress)
        assert not pull(server.url).first_time, "its checksum was noted"
        assert len(server.asked) == 1, "what is here is not fetched again"


def test_what_breaks_off_goes_on_where_it_was(pull: Pull) -> None:
    with BadServer(DATA, Reply(send=CUT), Reply(send=50_000)) as server:
        pull(server.url)
    pull.is_right()
    assert [one.range for one in server.asked] == ["", f"bytes={CUT}-", f"bytes={CUT + 50_000}-"]
    assert {one.if_range for one in server.asked[1:]} == {ETAG}
    assert pull.said[0] == "network.onnx: broke off at 0.2 of 0.3 MB: trying again in 1 s"
    assert pull.waited == [1.0, 2.0], "the second brought too little to count as one that got on"


def test_another_day_it_goes_on_too(pull: Pull) -> None:
    with BadServer(DATA, *[Reply(send=CUT), *[Reply(status=500)] * 3]) as server:
        assert "the server failed (500); 0.2 MB are kept, and the same command goes on from there" in pull.refused(server.url)
        assert pull.part_size == CUT
        pull(server.url)
    pull.is_right()
    assert server.asked[-1].range == f"bytes={CUT}-"


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (Reply(ranges=False), "the server does not resume"),
        (Reply(etag='"second"'), "the file has changed at its source"),
    ],
)
def test_what_cannot_go_on_begins_anew(pull: Pull, second: Reply, why: str) -> None:
    old = random.Random(1).randbytes(len(DATA))
    with BadServer(DATA, Reply(send=CUT, data=old if second.etag != ETAG else None), second) as server:
        pull(server.url)
    pull.is_right()
    assert f"network.onnx: begins anew: {why}" in pull.said


def test_without_a_version_nothing_is_joined(pull: Pull) -> None:
    with BadServer(DATA, Reply(send=CUT, etag=""), Reply(etag="")) as server:
        pull(server.url)
    pull.is_right()
    assert [one.range for one in server.asked] == ["", ""]


def test_a_weak_version_does_not_count_but_a_date_does(pull: Pull) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    with BadServer(DATA, Reply(send=CUT, etag="W/" + ETAG, headers={"Last-Modified": date}), Reply(etag=date)) as server:
        pull(server.url)
    pull.is_right()
    assert server.asked[1].if_range == date


@pytest.mark.parametrize(
    "wrong",
    [
        Reply(first=0, content_range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}"),
        Reply(first=7, content_range=f"bytes 7-{len(DATA) - 1}/{len(DATA)}"),
        Reply(content_range=f"bytes {CUT}-{CUT + 9}/{len(DATA)}", length=10, send=10),
        Reply(content_range=f"bytes {CUT}-{len(DATA)}/{len(DATA) + 1}", length=len(DATA) - CUT + 1),
        Reply(content_range="nonsense"),
        Reply(status=416),
    ],
)
def test_a_wrong_part_is_never_joined(pull: Pull, wrong: Reply) -> None:
    with BadServer(DATA, Reply(send=CUT), wrong) as server:
        pull(server.url)
    pull.is_right()


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_server_that_fails_is_asked_again(pull: Pull, status: int) -> None:
    with BadServer(DATA, Reply(status=status, headers={"Retry-After": "7"}), Reply(status=status)) as server:
        pull(server.url)
    pull.is_right()
    assert pull.waited == [7.0, 4.0]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(status=404), "the server has no such file (404); it was moved perhaps"),
        (Reply(status=403), "the server refused it (403)"),
        (Reply(headers={"Content-Type": "text/html; charset=utf-8"}), "a web page came in its place"),
        (Reply(headers={"Content-Encoding": "gzip"}), "came compressed (gzip)"),
        (Reply(length=5_000_000_000, send=10), "is larger than 4000 MB, the most that is taken: 5000 MB"),
        (Reply(status=302, headers={"Location": "ftp://127.0.0.1/x"}), "was sent on from http:// to ftp://, which is refused"),
        (Reply(status=302, headers={"Location": "http://[::/x"}, length=0, send=0), "its address cannot be meant"),
        (Reply(status=302, headers={"Location": "file:///etc/passwd"}), "to what is no web address"),
    ],
)
def test_what_is_refused_at_once(pull: Pull, reply: Reply, says: str) -> None:
    with BadServer(DATA, reply) as server:
        said = pull.refused(server.url)
    assert said.startswith("http://127.0.0.1:")
    assert says in said
    assert said.endswith("fetch it where it can be reached, and give it with --file PATH")
    assert pull.waited == []


def test_redirects_are_followed_and_bounded(pull: Pull) -> None:
    def moved(to: str) -> Reply:
        return Reply(status=302, headers={"Location": to}, length=0, send=0)

    with BadServer(DATA, *[moved(f"/{number}") for number in range(5)]) as server:
        pull(server.url)
    pull.is_right()
    pull.target.unlink()
    with BadServer(DATA, *[moved(f"/{number}") for number in range(6)]) as server:
        assert "was sent on more than 5 times, in a circle" in pull.refused(server.url)
    with BadServer(DATA, *[moved("/network.onnx")] * 9) as server:
        assert "was sent on more than 5 times, in a circle" in pull.refused(server.url)


def test_https_is_never_left(pull: Pull) -> None:
    from vision_infer.model.http_file import FetchError, _Redirects

    request = SimpleNamespace(full_url="https://example.org/a")
    with pytest.raises(FetchError, match="from https:// to http://, which is refused"):
        _Redirects().redirect_request(request, SimpleNamespace(close=int), 302, "", {}, "http://example.org/a")  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [len(DATA) + 1000, -1])
def test_a_length_that_is_wrong_or_missing(pull: Pull, length: int) -> None:
    replies = [Reply(length=length)] * 9
    with BadServer(DATA, *replies) as server:
        if length == -1:
            pull(server.url, f"sha256:{SHA256}")
            pull.is_right()
        else:
            assert "the server contradicts itself" in pull.refused(server.url)
            assert pull.said[0].startswith("network.onnx: broke off at 0.3 of 0.3 MB")


def test_a_length_that_is_too_small_is_seen_by_the_checksum(pull: Pull) -> None:
    with BadServer(DATA, Reply(length=CUT)) as server:
        assert "its checksum is wrong" in pull.refused(server.url, f"sha256:{SHA256}")
    assert pull.part_size == 0


def test_more_than_the_most_is_not_taken_even_unannounced(pull: Pull) -> None:
    limits = Limits(nbytes=100_000, timeout_s=0.3)
    with BadServer(DATA, Reply(length=-1)) as server:
        assert "more came than 0 MB, the most that is taken" in pull.refused(server.url, limits=limits)
    assert pull.part_size <= 100_000


def test_nothing_is_no_file(pull: Pull) -> None:
    with BadServer(b"") as server:
        assert "nothing came" in pull.refused(server.url)


def test_a_server_that_falls_silent_is_left(pull: Pull) -> None:
    with BadServer(DATA, Reply(drip=True)) as server:
        pull(server.url)
    pull.is_right()
    assert pull.said[0] == "network.onnx: nothing came within the time-out: trying again in 1 s"
    assert server.asked[1].range == f"bytes={len(DATA) - 1}-"


def test_a_server_that_drips_is_left_and_asked_again(pull: Pull) -> None:
    class Hours:
        """A clock on which an hour passes between the first look and the second."""

        times = itertools.chain([0], itertools.repeat(3_600_000_000_000))

        def monotonic_ns(self) -> int:
            return next(self.times)

        def wall_ns(self) -> int:
            return 0

    with BadServer(DATA) as server:
        pull(server.url, clock=Hours())
    pull.is_right()
    assert pull.said[0].startswith("network.onnx: too slow: ")


@pytest.mark.parametrize("stated", [f"sha256:{SHA256}", f"sha256:{SHA256[:8]}", f"md5:{hashlib.md5(DATA).hexdigest()}"])
def test_the_checksum_is_looked_at(pull: Pull, stated: str) -> None:
    with BadServer(DATA) as server:
        assert not pull(server.url, stated).first_time
        pull.is_right()
        pull.target.unlink()
        wrong = stated.replace(stated[-8:], "00000000")
        said = pull.refused(server.url, wrong)
    assert "its checksum is wrong" in said
    assert "00000000" in said
    assert pull.part_size == 0, "nothing of it is kept"


def test_where_none_is_stated_the_first_one_counts(pull: Pull) -> None:
    other = random.Random(2).randbytes(1000)
    with BadServer(DATA) as server:
        pull(server.url)
        pull.target.unlink()
        pull(server.url)
        pull.target.unlink()
        server.data = other
        assert "is not the file that was fetched before" in pull.refused(server.url)


def test_a_damaged_file_here_is_seen(pull: Pull) -> None:
    with BadServer(DATA) as server:
        pull(server.url)
        pull.target.write_bytes(DATA[:-1])
        assert "is not the file that was fetched before" in pull.refused(server.url)
        pull(server.url)
    pull.is_right()


@pytest.mark.parametrize("text", ["sha256:xyz", "sha1:00000000", "md5:00", "0" * 64])
def test_a_checksum_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(ValueError, match="write sha256: and 8 to 64"):
        parse_checksum(text)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://nowhere.invalid/x", "ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_what_cannot_be_reached(pull: Pull, url: str) -> None:
    said = pull.refused(url)
    assert ("this machine seems to be offline" in said) == url.startswith(("http://127", "http://now")), said


def test_a_disk_that_is_too_full(pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    with BadServer(DATA) as server:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
            assert "the disk is too full: 0 MB are needed, and 0 MB are free" in pull.refused(server.url)
        with monkeypatch.context() as patch:
            patch.setattr(module._Fetch, "_copy", _full)
            assert "No space left on device: make room, and pull again" in pull.refused(server.url)
        pull(server.url)
    pull.is_right()


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "downloads").write_text("a file")
    with BadServer(DATA) as server, pytest.raises(ModelError, match="cannot be written"):
        Pull(tmp_path)(server.url)


def test_an_interrupted_one_keeps_what_has_come(pull: Pull) -> None:
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


def test_of_two_at_once_one_waits_and_finds_it_there(pull: Pull, tmp_path: Path) -> None:
    second, waiting = Pull(tmp_path), threading.Event()
    second.said = _Signal(waiting)

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
    assert second.said[0] == "network.onnx is being fetched by another process: waiting for it"


class _Signal(list[str]):
    """Sets an event at the first line."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self._event = event

    def append(self, line: str) -> None:
        super().append(line)
        self._event.set()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_the_usual_proxy_is_asked(pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    with BadServer(DATA) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.rpartition("/")[0])
        pull("http://nowhere.invalid/network.onnx")
    pull.is_right()
    assert proxy.asked[0].path == "http://nowhere.invalid/network.onnx"
