"""Changes of the configuration file while the service runs affect only the changed streams, and errors only one stream."""

from __future__ import annotations

import threading

from tests.pipeline.fakes import wait_for
from tests.pipeline.live_fakes import Camera, Connection
from tests.service.site import Engines, Site, engines, settings, wanted
from tests.support.waiting import wait_until
from vision_infer.core.errors import RefusedError
from vision_infer.pipeline.status import StreamState
from vision_infer.stream.source import SourceSpec

__all__ = ["engines"]
S = StreamState


def test_an_invalid_stream_in_the_file_is_failed_until_it_is_corrected(engines: Engines) -> None:
    good, bad = Camera(0), Camera(1)
    of = settings({"s1": wanted(bad, model="nonsense"), "s0": wanted(good)})
    with Site(good, bad, of=of) as site:
        status = site.wait_state("s1", S.FAILED)
        assert status.reason == "unknown model 'nonsense': there are one, two, three"
        assert status.since_ns > 0
        assert status.since_wall_ns > 10**18
        assert site.states("s1") == ["failed"]
        site.give(good)
        site.service.reload(settings({"s1": wanted(bad, model="broken"), "s0": wanted(good)}))
        assert site.status("s1").reason.startswith("broken: cannot be loaded")
        site.service.reload(settings({"s1": wanted(bad, model="two"), "s0": wanted(good)}))
        site.give(bad)
        assert (site.status("s1").state, site.status("s1").reason) == (S.LIVE, "")
        site.service.reload(settings({"s1": wanted(bad, hook="no_such:hook"), "s0": wanted(good)}))
        assert site.status("s1").state is S.FAILED
        assert "no_such" in site.status("s1").reason
        wait_until(lambda: bad.opened[-1].closed.is_set())
        site.give(good)
        assert good.attempts == 1


def test_an_unexpected_error_of_one_stream_does_not_affect_others(engines: Engines) -> None:
    one, two, three = Camera(0), Camera(1), Camera(2)
    of = settings({"s0": wanted(one), "s1": wanted(two, model="two"), "s2": wanted(three)})

    def before_open(model: str) -> None:
        if model == "two":
            raise RuntimeError("no such instruction")

    engines.before_open = before_open
    with Site(one, two, three, of=of) as site:
        site.give(one)
        site.give(three)
        assert "unexpected RuntimeError: no such instruction" in site.status("s1").reason
        engines.before_open = lambda model: None
        site.service.reload(of)
        site.give(two)


def test_a_changed_file_affects_only_changed_streams(engines: Engines) -> None:
    same, changed, moved, gone, new, api = (Camera(number) for number in range(6))
    elsewhere = Camera(2, path="rtsp://elsewhere/")
    before = settings({camera.name: wanted(camera) for camera in (same, changed, moved, gone)})
    with Site(same, changed, moved, gone, new, api, elsewhere, of=before) as site:
        site.service.create("s5", wanted(api))
        for camera in (same, changed, moved, gone, api):
            site.give(camera, 2)
        after = settings({"s0": wanted(same), "s1": wanted(changed, weight=2), "s2": wanted(elsewhere), "s4": wanted(new)})
        site.service.reload(after)
        for camera in (same, changed, elsewhere, new, api):
            site.give(camera, 2)
        assert {view.name for view in site.service.streams()} == {"s0", "s1", "s2", "s4", "s5"}
        assert {camera.number: camera.attempts for camera in (same, changed, moved, gone, new, api)} == dict.fromkeys(range(6), 1)
        assert site.status("s1").weight == 2
        assert site.states("s0") == site.states("s1") == site.states("s5") == ["connecting", "live"]
        assert site.sink.indices("s0") == [0, 1, 2, 3]
        wait_until(lambda: gone.opened[0].closed.is_set())
        site.service.reload(after)
        assert elsewhere.attempts == 1
        assert set(site.keep.kept) == {"s5"}


class Watched(Site):
    """A service that records the user names that its sources may use."""

    users: dict[str, list[str]]

    def open(self, spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> Connection:
        self.users = {**getattr(self, "users", {}), spec.name: [entry.user for entry in spec.live.credentials]}
        return super().open(spec, decode_threads, stopping)


def test_changed_credentials_are_used_for_new_connections(engines: Engines) -> None:
    """A camera that is live stays connected; one that was refused, and whose entry has changed, is connected again at once."""

    def entries(user: str) -> list[dict[str, str]]:
        return [{"match": "10.0.0.0/24", "user": user, "password": "s3cret"}]

    live, api, other = Camera(0), Camera(1), Camera(2, path="rtsp://elsewhere/")
    api.refusals, other.refusals = [RefusedError("401")], [RefusedError("401")]
    streams = {camera.name: wanted(camera) for camera in (live, other)}
    site = Watched(live, api, other, of=settings(streams, credentials=entries("old")))
    with site:
        site.service.create("s1", wanted(api))
        site.give(live)
        for camera in (api, other):
            site.wait_state(camera.name, S.REFUSED)
        assert site.users == {name: ["old"] for name in ("s0", "s1", "s2")}
        site.service.reload(settings(streams, credentials=entries("new")))
        site.give(api)
        site.give(live)
        assert site.users == {"s0": ["old"], "s1": ["new"], "s2": ["old"]}
        assert [camera.attempts for camera in (live, api, other)] == [1, 2, 1]
        live.end()
        site.give(live)
        assert site.users["s0"] == ["new"]


def test_a_stream_of_the_api_takes_precedence_over_a_changed_file(engines: Engines) -> None:
    api, file = Camera(0), Camera(0, path="rtsp://file/")
    with Site(api, file) as site:
        site.service.create("s0", wanted(api))
        site.give(api)
        site.service.reload(settings({"s0": wanted(file)}))
        site.give(api)
        assert site.service.stream("s0").origin == "api"
        site.service.reload(settings({}))
        site.give(api)
        assert file.attempts == 0


def test_a_file_that_changes_while_the_engine_loads(engines: Engines) -> None:
    """No stream is started early or twice."""
    old, new = Camera(0), Camera(1)
    loading, go = threading.Event(), threading.Event()

    def before_open(model: str) -> None:
        loading.set()
        wait_for(go)

    engines.before_open = before_open
    with Site(old, new, of=settings({"s0": wanted(old)}), ready=False) as site:
        wait_for(loading)
        site.service.reload(settings({"s1": wanted(new)}))
        site.service.create("s5", wanted(Camera(5)))
        assert [site.status(name).state for name in ("s1", "s5")] == [S.WAITING, S.WAITING]
        site.service.delete("s5")
        go.set()
        site.give(new)
        assert (old.attempts, new.attempts, engines.opened) == (0, 1, ["one"])
