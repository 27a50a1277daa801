"""The streams of a service, from the configuration file and over the API; changes do not affect other streams."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from tests.pipeline.fakes import LONG_S, wait_for
from tests.pipeline.live_fakes import Camera
from tests.service.site import Engines, Keeper, Site, engines, settings, wanted
from tests.support.waiting import wait_until
from vision_infer.core.errors import EngineError
from vision_infer.pipeline.status import StreamState
from vision_infer.service.errors import UnavailableError, UnknownStreamError

__all__ = ["engines"]


S = StreamState


def test_streams_of_the_file_and_of_the_api_run(engines: Engines) -> None:
    file, kept, made = Camera(0), Camera(1), Camera(2)
    keep = Keeper({"s1": wanted(kept)})
    with Site(file, kept, made, of=settings({"s0": wanted(file)}), keep=keep) as site:
        view = site.service.create("s2", wanted(made, weight=2))
        assert (view.name, view.origin) == ("s2", "api")
        for camera in (file, kept, made):
            site.give(camera, 3)
        views = {view.name: view for view in site.service.streams()}
        assert {name: view.origin for name, view in views.items()} == {"s0": "file", "s1": "api", "s2": "api"}
        assert {site.status(name).state for name in views} == {S.LIVE}
        assert set(keep.kept) == {"s1", "s2"}
        assert site.service.stream("s2") == site.service.stream("s2")
        assert engines.opened == ["one"]
        assert {event.stream for event in site.events} == {"s0", "s1", "s2"}
    assert engines.loaded == set()


def without_threads(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """Let threads whose name begins with this fail to start."""
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)


def test_a_stream_without_a_thread_can_be_created_later(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera(0)
    with Site(camera, of=settings({})) as site:
        with monkeypatch.context() as patch:
            without_threads(patch, "stream-")
            with pytest.raises(UnavailableError, match="s0: the stream cannot start now: can't start new thread"):
                site.service.create("s0", wanted(camera))
        assert (site.service.streams(), site.keep.kept) == ([], {})
        site.service.create("s0", wanted(camera))
        site.give(camera)


@pytest.mark.parametrize("thread", ["stream-", "service-degrade"])
def test_too_few_threads_at_the_start_end_the_service(engines: Engines, monkeypatch: pytest.MonkeyPatch, thread: str) -> None:
    without_threads(monkeypatch, thread)
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)}), ready=False) as site:
        wait_until(lambda: site.service.error)
        assert "can't start new thread" in str(site.service.error)
        assert site.service.ready()[0] is False


def test_a_disabled_stream_is_listed_but_not_opened(engines: Engines) -> None:
    camera = Camera(0)
    with Site(camera) as site:
        site.service.create("s0", wanted(camera, enabled=False, model="two"))
        assert site.service.stream("s0").status is None
        assert engines.loaded == {"one"}
        with pytest.raises(UnavailableError) as raised:
            site.service.snapshot("s0", False, 1)
        assert raised.value.state == "disabled"
        site.service.replace("s0", wanted(camera, model="two"))
        site.give(camera)
        assert engines.loaded == {"one", "two"}
        site.service.replace("s0", wanted(camera, enabled=False, model="two"))
        assert site.service.stream("s0").status is None
        wait_until(lambda: camera.opened[0].closed.is_set())
        assert engines.loaded == {"one"}
        assert camera.attempts == 1


def test_models_are_loaded_once_and_closed_when_unused(engines: Engines) -> None:
    cameras = [Camera(number) for number in range(4)]
    with Site(*cameras) as site:
        for camera in cameras[:3]:
            site.service.create(camera.name, wanted(camera, model="two"))
            site.give(camera)
        assert engines.opened == ["one", "two"]
        assert {lane.model for lane in site.service.lanes()} == {"one", "two"}
        site.service.delete("s0")
        site.service.replace("s1", wanted(cameras[1], model="three"))
        site.give(cameras[1])
        site.give(cameras[2])
        assert engines.loaded == {"one", "two", "three"}
        site.service.delete("s2")
        assert engines.loaded == {"one", "three"}
        site.service.delete("s1")
        assert engines.loaded == {"one"}
        assert [lane.model for lane in site.service.lanes()] == ["one"]
        site.service.create("s3", wanted(cameras[3], model="two"))
        site.give(cameras[3])
        assert engines.opened.count("two") == 2
    assert engines.loaded == set()


def test_an_ended_or_failed_stream_can_be_restarted(engines: Engines) -> None:
    file = Camera(0, path="/videos/door.mp4")
    given_up = Camera(1, refusals=[RuntimeError("no")])
    with Site(file, given_up, of=settings({"s0": wanted(file)})) as site:
        site.give(file)
        file.end()
        site.wait_state("s0", S.ENDED)
        site.service.reload(settings({"s0": wanted(file)}))
        assert site.status("s0").state is S.ENDED
        site.service.reload(settings({"s0": wanted(file, weight=2)}))
        site.give(file)
        site.service.create("s1", wanted(given_up, reconnect={"attempts": 1}))
        site.wait_state("s1", S.FAILED)
        site.service.replace("s1", wanted(given_up, reconnect={"attempts": 1}))
        site.give(given_up)


def test_readiness_before_while_and_after(engines: Engines) -> None:
    loading, go = threading.Event(), threading.Event()

    def before_open(model: str) -> None:
        loading.set()
        wait_for(go)

    engines.before_open = before_open
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)}), ready=False) as site:
        wait_for(loading)
        assert site.service.ready() == (False, "loading one")
        assert site.status("s0").state is S.WAITING
        with pytest.raises(UnavailableError):
            site.service.infer(b"x", None, None, None)
        go.set()
        wait_until(lambda: site.service.ready() == (True, ""))
        site.give(camera)
        site.close()
        assert site.service.ready() == (False, "stopping")
        with pytest.raises(UnavailableError):
            site.service.create("s1", wanted(camera))


def test_a_default_model_that_cannot_be_loaded_stops_the_service(engines: Engines) -> None:
    with Site(of=settings().model_copy(update={"model": "broken"}), ready=False) as site:
        wait_until(lambda: site.service.error is not None)
        assert isinstance(site.service.error, EngineError)
        assert site.service.ready() == (False, "broken: cannot be loaded: choose another")


def test_closing_with_hanging_cameras_writes_decoded_frames(engines: Engines) -> None:
    cameras = [Camera(number) for number in range(5)]
    with Site(*cameras, of=settings({camera.name: wanted(camera) for camera in cameras})) as site:
        for camera in cameras:
            site.give(camera, 3)
            camera.hang_here()
        for camera in cameras:
            wait_for(camera.hangs)
        site.close()
        assert site.sink.closes
        assert len(site.sink.written) == 15
        assert engines.loaded == set()
        for camera in cameras:
            camera.release.set()


def test_concurrent_changes_and_reads(engines: Engines) -> None:
    cameras = [Camera(number) for number in range(12)]
    failed: list[BaseException] = []
    ended = threading.Event()
    with Site(*cameras) as site:

        def change(camera: Camera) -> None:
            try:
                for round_ in range(6):
                    model = ("one", "two", "three")[round_ % 3]
                    site.service.create(camera.name, wanted(camera, model=model))
                    site.service.replace(camera.name, wanted(camera, model=model, weight=2))
                    site.service.delete(camera.name)
            except BaseException as error:  # noqa: BLE001
                failed.append(error)

        def look() -> None:
            try:
                while not ended.is_set():
                    for view in site.service.streams():
                        with suppress(UnknownStreamError):
                            site.service.stream(view.name)
                    site.service.lanes()
                    site.service.events()
            except BaseException as error:  # noqa: BLE001
                failed.append(error)

        threads = [threading.Thread(target=change, args=(camera,)) for camera in cameras[:6]]
        watcher = threading.Thread(target=look)
        for thread in (*threads, watcher):
            thread.start()
        for thread in threads:
            thread.join(2 * LONG_S)
        ended.set()
        watcher.join(LONG_S)
        assert not failed, failed
        assert site.service.streams() == []
        assert engines.loaded == {"one"}


def test_a_stream_that_another_process_accepted_runs_or_reports_why_not(engines: Engines) -> None:
    camera, broken = Camera(0), Camera(1)
    with Site(camera, broken, of=settings({}), keep=Keeper({})) as site:
        site.service.adopt("s0", wanted(camera), "api")
        site.service.adopt("s1", wanted(broken, model="nonsense"), "command_line")
        site.give(camera, 3)
        assert (site.service.stream("s0").origin, site.status("s0").state) == ("api", S.LIVE)
        assert (site.service.stream("s1").origin, site.status("s1").state) == ("command_line", S.FAILED)
