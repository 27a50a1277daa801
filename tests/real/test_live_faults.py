"""One of four cameras has every kind of fault, and the other three are not affected.

One service experiences all faults in sequence; the observations are checked afterwards, fault by fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from tests.support.cameras import ClockMount, Encoded, Mount, ReplayMount, RtspServer, SoundMount
from tests.support.fault_proxy import FaultProxy
from tests.support.live_control import NAME, Control, Reference
from tests.support.live_service import Running, Seen, camera, gaps, longest_pause_s
from vision_infer.pipeline.status import StreamEvent, StreamState

BACKING_OFF, LIVE, REFUSED, STALLED = StreamState.BACKING_OFF, StreamState.LIVE, StreamState.REFUSED, StreamState.STALLED
FPS = 10
OTHERS = ("one", "two", "three")
SECRET = "s3cret"
CONTROL_S = 4.0
MIN_S = 2.5
"""The minimum time to watch each fault, in seconds."""
MAX_AGE_MS = 500.0
NOISE_MS = 250.0
"""The additional delay on a busy machine."""
LIMIT_S = 40.0
"""The time limit to detect a fault and to recover, 5–20 times the usual time."""


def mount(path: str, **more: object) -> ClockMount:
    return ClockMount(path, **{"width": 320, "height": 180, "fps": FPS, "key_interval": 5, "kbit_s": 500, **more})  # type: ignore[arg-type]


STREET = Encoded(width=640, height=360, fps=30, kbit_s=4000, key_interval=10)
"""Real images in so many packets that a loss of 1 % affects every few frames."""


@dataclass
class Scene:
    """The cameras, the faulty network of one of them, and the service."""

    running: Running
    control: Control
    server: RtspServer
    network: FaultProxy

    def since(self, began_ns: int) -> list[Seen]:
        return self.running.seen("bad", began_ns)

    def happened(self, began_ns: int, state: StreamState, *words: str) -> bool:
        """Return whether the faulty camera entered a state with a reason that contains one of these words."""
        events = self.running.events_of("bad", began_ns)
        return any(event.state is state and any(word in event.reason for word in words or ("",)) for event in events)


Trouble = Callable[[Scene], AbstractContextManager[object]]


def on_the_way(begin: Callable[[FaultProxy], object]) -> Trouble:
    """Apply a fault of the network."""

    @contextmanager
    def trouble(scene: Scene) -> Iterator[None]:
        begin(scene.network)
        yield
        scene.network.heal()

    return trouble


def in_its_place(other: Mount) -> Trouble:
    """Replace the camera with another one at the same address for a while."""

    @contextmanager
    def trouble(scene: Scene) -> Iterator[None]:
        with RtspServer(other) as server:
            scene.network.server_port = server.port
            scene.network.drop()
            yield
            scene.network.server_port = scene.server.port

    return trouble


@contextmanager
def flipped_bits(scene: Scene) -> Iterator[None]:
    with in_its_place(ReplayMount("/bad", STREET))(scene), on_the_way(FaultProxy.flip_bits)(scene):
        yield


@contextmanager
def killed(scene: Scene) -> Iterator[None]:
    scene.server.kill()
    scene.running.wait(lambda: scene.running.status("bad").state is BACKING_OFF, "the end to be detected")
    scene.network.refuse()
    yield
    scene.server.restart()
    scene.network.heal()


@contextmanager
def times_that_jump(scene: Scene) -> Iterator[None]:
    for seconds in (100.0, -50.0, 3.0):
        scene.network.shift_times(seconds)
        scene.running.wait_for_results("bad", 2 * FPS)
    yield
    scene.network.heal()


@contextmanager
def a_name_that_nobody_knows(scene: Scene) -> Iterator[None]:
    scene.running.service.replace("bad", camera(f"rtsp://user:{SECRET}@camera.invalid/bad"))
    yield
    scene.running.service.replace("bad", camera(scene.network.url("/bad", "user", SECRET)))


@dataclass(frozen=True)
class Case:
    """A fault and its symptoms."""

    trouble: Trouble
    state: StreamState = LIVE
    reasons: tuple[str, ...] = ()
    """The words of which the reason contains at least one."""
    lasts: Callable[[Scene, int], bool] | None = None
    """An additional condition for the end of the fault."""
    slow: bool = False
    """Whether it is excluded from `make test`, because other tests in tests/real cover it with a single connection."""


def _until_flipped(scene: Scene, began_ns: int) -> bool:
    return scene.network.flips >= 20 and len(scene.since(began_ns)) >= 60


def _until_both_sizes(scene: Scene, began_ns: int) -> bool:
    return len({seen.result.size for seen in scene.since(began_ns)}) == 2 and len(scene.since(began_ns)) > 30


CASES = {
    "frozen": Case(on_the_way(FaultProxy.freeze), BACKING_OFF, ("no data for 2 s", "no answer within 2 s")),
    "killed": Case(killed, BACKING_OFF, ("connection refused",)),
    "dripping": Case(on_the_way(lambda network: network.drip(3000)), BACKING_OFF, ("frames keep arriving",), slow=True),
    "garbage": Case(
        on_the_way(FaultProxy.garbage),
        BACKING_OFF,
        ("FFmpeg cannot read it", "no answer", "cannot be opened"),
        slow=True,
    ),
    "only sound": Case(in_its_place(SoundMount("/bad")), REFUSED, ("it contains only audio",), slow=True),
    "changing size": Case(
        in_its_place(mount("/bad", next_size=(480, 270), frames_per_size=10)), lasts=_until_both_sizes, slow=True
    ),
    "times that jump": Case(times_that_jump, slow=True),
    "flipped bits": Case(flipped_bits, lasts=_until_flipped, slow=True),
    "unknown": Case(in_its_place(mount("/other")), REFUSED, ("the server has no such stream (404)",), slow=True),
    "locked": Case(
        in_its_place(mount("/bad", user="user", password="another")), REFUSED, ("authentication failed (401)",), slow=True
    ),
    "silent": Case(
        in_its_place(mount("/bad", stop_after=0)), BACKING_OFF, ("no answer within 2 s", "no data for 2 s"), slow=True
    ),
    "one picture": Case(
        in_its_place(mount("/bad", stop_after=1)), BACKING_OFF, ("no data for 2 s", "no answer within 2 s"), slow=True
    ),
    "no such host": Case(a_name_that_nobody_knows, BACKING_OFF, ("host name cannot be resolved", "no answer"), slow=True),
}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if case.slow else name for name, case in CASES.items()]


SILENT = ("frozen", "dripping", "garbage")
"""The symptoms that appear while the connection is still open."""


@dataclass
class Episode:
    """The observations of one fault."""

    began_ns: int
    healed_ns: int = 0
    back_ns: int = 0
    """The time of the faulty camera's second result after the end of the fault."""
    failure: str = ""
    events: list[StreamEvent] = field(default_factory=list)
    bad: list[Seen] = field(default_factory=list)
    others: dict[str, list[Seen]] = field(default_factory=dict)
    control: list[Reference] = field(default_factory=list)

    def finish(self, running: Running, control: Control) -> Episode:
        self.control = control.seen(self.began_ns, self.back_ns)
        self.events = running.events_of("bad", self.began_ns)
        self.bad = running.seen("bad", self.began_ns, self.back_ns)
        self.others = {name: running.seen(name, self.began_ns, self.back_ns) for name in OTHERS}
        return self

    @property
    def lasted_s(self) -> float:
        return (self.back_ns - self.began_ns) / 1e9


@dataclass
class Story:
    """All observations."""

    episodes: dict[str, Episode]
    controls: list[Episode]
    reconnects: dict[str, int]
    shown: str


def _quiet(scene: Scene) -> Episode:
    """Observe a time without faults."""
    running, episode = scene.running, Episode(time.monotonic_ns())
    running.wait(lambda: time.monotonic_ns() - episode.began_ns > CONTROL_S * 1e9, "time to pass")
    episode.back_ns = time.monotonic_ns()
    return episode.finish(running, scene.control)


def _go_through(scene: Scene, case: Case) -> Episode:
    running, episode = scene.running, Episode(time.monotonic_ns())
    try:
        with case.trouble(scene):
            if case.lasts is not None:
                lasts = case.lasts
                running.wait(lambda: lasts(scene, episode.began_ns), "the fault to last", LIMIT_S)
            running.wait(
                lambda: scene.happened(episode.began_ns, case.state, *case.reasons) or case.state is LIVE,
                "the symptom to appear",
                LIMIT_S,
            )
            episode.healed_ns = time.monotonic_ns()
        running.wait_for_results("bad", 3, LIMIT_S)
        running.wait(lambda: running.status("bad").state is LIVE, "the camera to be live again", LIMIT_S)
        running.wait(lambda: time.monotonic_ns() - episode.began_ns > MIN_S * 1e9, "enough results to count")
    except AssertionError as error:
        episode.failure = str(error)
    scene.network.heal()
    scene.network.server_port = scene.server.port
    episode.back_ns = time.monotonic_ns()
    return episode.finish(running, scene.control)


@pytest.fixture(scope="module")
def story(request: pytest.FixtureRequest) -> Story:
    chosen = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    urls = ("bad", *OTHERS)
    with (
        RtspServer(*(mount(f"/{name}") for name in (*OTHERS, NAME))) as well,
        RtspServer(mount("/bad")) as server,
        FaultProxy(server.port) as network,
        Running({name: camera(well.url(f"/{name}")) for name in OTHERS}, batch=4) as running,
        Control(well.url(f"/{NAME}")) as control,
    ):
        running.service.create("bad", camera(network.url("/bad", "user", SECRET)))
        for name in urls:
            running.wait_for_results(name, 5)
        scene = Scene(running, control, server, network)
        controls = [_quiet(scene)]
        STREET.file()  # created in advance if necessary
        episodes: dict[str, Episode] = {}
        for name, case in CASES.items():
            if not case.slow or name in chosen:
                episodes[name] = _go_through(scene, case)
        running.wait_for_results("bad", 1)
        controls.append(_quiet(scene))
        reconnects = {name: running.status(name).reconnects for name in OTHERS}
        shown = "\n".join(map(repr, (*running.events, *running.service.events(), *running.service.streams())))
    return Story(episodes, controls, reconnects, shown)


@pytest.mark.parametrize("name", NAMES)
def test_the_fault_is_reported_and_recovers(story: Story, name: str) -> None:
    case, episode = CASES[name], story.episodes[name]
    assert not episode.failure
    reasons = [event.reason for event in episode.events if event.state is case.state]
    if case.state is LIVE:
        assert not any(event.state is REFUSED for event in episode.events)
    else:
        assert any(word in reason for word in case.reasons for reason in reasons), reasons
        if name in SILENT:
            assert STALLED in [event.state for event in episode.events]
        assert episode.events[-1].state is LIVE
    if case.state is REFUSED:
        assert all("attempt in" in reason for reason in reasons)


@pytest.mark.parametrize("name", NAMES)
def test_other_cameras_lose_no_frames(story: Story, name: str) -> None:
    """Each camera has as many results as without faults, and no result is delayed."""
    episode = story.episodes[name]
    usual = sum(len(seen) for control in story.controls for seen in control.others.values())
    usual_fps = usual / len(OTHERS) / sum(control.lasted_s for control in story.controls)
    expected = usual_fps * episode.lasted_s
    # The control is a service in a separate process: only the machine can delay it.
    noise = max(gaps(episode.control), expected - len(episode.control), 0)
    for other, seen in episode.others.items():
        lost = max(gaps(seen), expected - len(seen))
        assert lost <= 0.1 * expected + 2 + noise, (other, lost, expected, noise)
        assert longest_pause_s(seen, episode.began_ns, episode.back_ns) < 1.0, other
        assert _p90(seen) < _p90(episode.control) + 1000 / FPS, other


def _p90(seen: Sequence[Seen] | Sequence[Reference]) -> float:
    return sorted(one.age_ms for one in seen)[len(seen) * 9 // 10]


def test_other_cameras_keep_their_connection(story: Story) -> None:
    assert sum(len(control.others["one"]) for control in story.controls) > 0.8 * 2 * CONTROL_S * FPS
    assert story.reconnects == dict.fromkeys(OTHERS, 0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "flipped bits"])  # it has no time code
def test_nothing_stale_is_inferred(story: Story, name: str) -> None:
    """Ages are measured by the time code in the image, independent of the stream's timestamps."""
    ages = [seen.true_age_ms - seen.after_decoding_ms for seen in story.episodes[name].bad if seen.true_age_ms is not None]
    assert len(ages) >= 3, "the camera is live again, and its time code is readable"
    assert max(ages) < MAX_AGE_MS + NOISE_MS, name


@pytest.mark.slow
def test_frames_of_both_sizes_have_results(story: Story) -> None:
    sizes = [seen.result.size for seen in story.episodes["changing size"].bad]
    assert len(set(sizes)) == 2
    assert sum(earlier != later for earlier, later in pairwise(sizes)) >= 2


@pytest.mark.slow
def test_damage_costs_frames_but_not_the_connection(story: Story) -> None:
    seen = [one for one in story.episodes["flipped bits"].bad if one.at_ns < story.episodes["flipped bits"].healed_ns]
    assert len(seen) >= 50
    assert any(one.result.damaged for one in seen) or gaps(seen)


def test_no_password_is_logged(story: Story) -> None:
    assert SECRET not in story.shown
    assert "***" in story.shown
