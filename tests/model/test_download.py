"""Downloads from servers with common failures."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import pytest

from tests.model.bad_server import ETAG, BadServer, Reply
from tests.model.pulling import CUT, DATA, SHA256, Pull, no_proxy, pull

__all__ = ["no_proxy", "pull"]


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


def test_a_broken_download_continues_from_its_part(pull: Pull) -> None:
    with BadServer(DATA, Reply(send=CUT), Reply(send=50_000)) as server:
        pull(server.url)
    pull.is_right()
    assert [one.range for one in server.asked] == ["", f"bytes={CUT}-", f"bytes={CUT + 50_000}-"]
    assert {one.if_range for one in server.asked[1:]} == {ETAG}
    assert pull.messages[0] == "network.onnx: the connection broke at 0.2 of 0.3 MB; retrying in 1 s"
    assert pull.waited == [1.0, 2.0], "the second brought too little to count as one that got on"


def test_a_later_command_continues_the_download(pull: Pull) -> None:
    with BadServer(DATA, *[Reply(send=CUT), *[Reply(status=500)] * 3]) as server:
        assert "the server failed (500); 0.2 MB are kept, and the same command continues from there" in pull.refused(server.url)
        assert pull.part_size == CUT
        pull(server.url)
    pull.is_right()
    assert server.asked[-1].range == f"bytes={CUT}-"


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (Reply(ranges=False), "the server cannot resume"),
        (Reply(etag='"second"'), "the file has changed on the server"),
    ],
)
def test_a_download_that_cannot_continue_restarts(pull: Pull, second: Reply, why: str) -> None:
    old = random.Random(1).randbytes(len(DATA))
    with BadServer(DATA, Reply(send=CUT, data=old if second.etag != ETAG else None), second) as server:
        pull(server.url)
    pull.is_right()
    assert f"network.onnx: restarting: {why}" in pull.messages


def test_parts_without_a_validator_are_not_joined(pull: Pull) -> None:
    with BadServer(DATA, Reply(send=CUT, etag=""), Reply(etag="")) as server:
        pull(server.url)
    pull.is_right()
    assert [one.range for one in server.asked] == ["", ""]


def test_a_date_is_a_validator_but_a_weak_etag_is_not(pull: Pull) -> None:
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
def test_a_failed_request_is_repeated(pull: Pull, status: int) -> None:
    with BadServer(DATA, Reply(status=status, headers={"Retry-After": "7"}), Reply(status=status)) as server:
        pull(server.url)
    pull.is_right()
    assert pull.waited == [7.0, 4.0]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(status=404), "the file does not exist on the server (404); it may have been moved"),
        (Reply(status=403), "the server refused the request (403)"),
        (Reply(headers={"Content-Type": "text/html; charset=utf-8"}), "the server sent a web page instead of the file"),
        (Reply(headers={"Content-Encoding": "gzip"}), "the server sent compressed data (gzip)"),
        (Reply(length=5_000_000_000, send=10), "the file has 5000 MB, more than the limit of 4000 MB"),
        (Reply(status=302, headers={"Location": "ftp://127.0.0.1/x"}), "redirected from http:// to ftp://, which is refused"),
        (Reply(status=302, headers={"Location": "http://[::/x"}, length=0, send=0), "the URL is invalid"),
        (Reply(status=302, headers={"Location": "file:///etc/passwd"}), "or an invalid redirect"),
    ],
)
def test_permanent_errors_are_not_retried(pull: Pull, reply: Reply, says: str) -> None:
    with BadServer(DATA, reply) as server:
        said = pull.refused(server.url)
    assert said.startswith("http://127.0.0.1:")
    assert says in said
    assert said.endswith("Download it on another machine, and add --file PATH.")
    assert pull.waited == []


def test_redirects_are_followed_and_bounded(pull: Pull) -> None:
    def moved(to: str) -> Reply:
        return Reply(status=302, headers={"Location": to}, length=0, send=0)

    with BadServer(DATA, *[moved(f"/{number}") for number in range(5)]) as server:
        pull(server.url)
    pull.is_right()
    pull.target.unlink()
    with BadServer(DATA, *[moved(f"/{number}") for number in range(6)]) as server:
        assert "more than 5 redirects" in pull.refused(server.url)
    with BadServer(DATA, *[moved("/network.onnx")] * 9) as server:
        assert "more than 5 redirects" in pull.refused(server.url)


def test_a_redirect_from_https_to_http_is_refused(pull: Pull) -> None:
    from vision_infer.model.pull.http_file import FetchError, _Redirects

    request = SimpleNamespace(full_url="https://example.org/a")
    with pytest.raises(FetchError, match="from https:// to http://, which is refused"):
        _Redirects().redirect_request(request, SimpleNamespace(close=int), 302, "", {}, "http://example.org/a")  # type: ignore[arg-type]


def test_a_silent_server_times_out(pull: Pull) -> None:
    with BadServer(DATA, Reply(drip=True)) as server:
        pull(server.url)
    pull.is_right()
    assert pull.messages[0] == "network.onnx: no data arrived within the time-out; retrying in 1 s"
    assert server.asked[1].range == f"bytes={len(DATA) - 1}-"


def test_a_slow_connection_is_closed_and_retried(pull: Pull) -> None:
    class Hours:
        """A clock on which an hour passes between two readings."""

        times = itertools.chain([0], itertools.repeat(3_600_000_000_000))

        def monotonic_ns(self) -> int:
            return next(self.times)

        def wall_ns(self) -> int:
            return 0

    with BadServer(DATA) as server:
        pull(server.url, clock=Hours())
    pull.is_right()
    assert pull.messages[0].startswith("network.onnx: too slow: ")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://nowhere.invalid/x", "ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_an_unreachable_server_is_reported(pull: Pull, url: str) -> None:
    said = pull.refused(url)
    assert ("this machine seems to be offline" in said) == url.startswith(("http://127", "http://now")), said


def test_the_proxy_of_the_environment_is_used(pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    with BadServer(DATA) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.rpartition("/")[0])
        pull("http://nowhere.invalid/network.onnx")
    pull.is_right()
    assert proxy.asked[0].path == "http://nowhere.invalid/network.onnx"
