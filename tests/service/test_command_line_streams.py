"""Streams that are URLs on the command line can be changed while the service runs, and saved as a configuration file."""

from __future__ import annotations

from pathlib import Path

from tests.pipeline.live_fakes import Camera
from tests.service.fakes import Api, FakeBackend, problem
from tests.service.site import Engines, Site, engines, settings, wanted
from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.service.streams.cameras_file import cameras_file
from vision_infer.service.views import StreamView

__all__ = ["engines"]
LINE = {"gate": {"units": "relative", "from": [0.1, 0.5], "to": [0.9, 0.5]}}
SECRET = "p@ss/w0rd$"


def test_the_urls_of_the_command_line_are_known(tmp_path: Path) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_text("streams: {front: {url: 'test://'}}")
    loaded = load_settings(file, ["rtsp://192.0.2.7/yard", "rtsp://192.0.2.7/front"], {}, {})
    assert loaded.url_streams == {"yard", "192.0.2.7-front"}
    assert load_settings(file, [], {}, {}).url_streams == frozenset()


def test_a_stream_of_the_command_line_is_changed_and_removed(engines: Engines) -> None:
    front, yard = Camera(0), Camera(1)
    given = settings({"s0": wanted(front), "s1": wanted(yard)}).with_url_streams(frozenset({"s0", "s1"}))
    with Site(front, yard, of=given) as site:
        site.give(front)
        assert site.service.stream("s0").origin == "command_line"
        changed = wanted(front, lines=LINE)
        assert site.service.replace("s0", changed).settings.lines
        site.give(front)
        site.service.delete("s1")
        site.service.reload(given)  # a reload of a file does not concern URLs
        assert [(view.name, view.settings) for view in site.service.streams()] == [("s0", changed)]
        assert site.keep.kept == {}, "changes last until the service stops"
        site.give(front)


def test_the_saved_file_starts_the_same_streams(tmp_path: Path) -> None:
    urls = (f"rtsp://admin:{SECRET}@192.0.2.7/a$b", "rtsp://admin:one@192.0.2.8/x?token=two&channel=1", "rtsp://192.0.2.9/")
    urls = (urls[0].replace(SECRET, "p%40ss%2Fw0rd%24"), *urls[1:])
    streams = {
        "1-front": StreamSettings.model_validate({"detect": urls[0], "lines": LINE, "fps": 5}),
        "yard": StreamSettings.model_validate({"detect": urls[1], "view": urls[0], "enabled": False}),
        "gate": StreamSettings(detect=urls[2]),
    }
    before = ServeSettings(model="yolox-nano", streams=streams)
    text = cameras_file(before, [StreamView(name, "command_line", one, None) for name, one in streams.items()])
    for secret in ("p%40ss", SECRET, ":one@", "two"):
        assert secret not in text
    assert "# It contains the streams and the default model only." in text
    (tmp_path / "cameras.yaml").write_text(text)
    environ = {
        "CAMERA_1_FRONT_PASSWORD": SECRET,
        "CAMERA_YARD_PASSWORD": "one",
        "CAMERA_YARD_PASSWORD_2": "two",
        "CAMERA_YARD_PASSWORD_3": SECRET,
    }
    assert [line.split()[1].rstrip(":") for line in text.splitlines() if line.startswith("#   ")] == list(environ)
    after = load_settings(tmp_path / "cameras.yaml", [], environ, {})
    assert (after.model, after.streams) == (before.model, before.streams)


def test_the_api_changes_streams_of_the_command_line_and_saves_them() -> None:
    """Such a stream may keep its own URL, which the API may not give to other streams."""
    backend = FakeBackend()
    backend.settings = ServeSettings(streams={"clip": StreamSettings(detect="/videos/clip.mp4")})
    backend.put("clip", "/videos/clip.mp4", origin="command_line")
    api = Api(backend)
    assert api.ask("PUT", "/api/v1/streams/clip", json={"detect": "/videos/clip.mp4", "lines": LINE}).status_code == 200
    problem(api.ask("PUT", "/api/v1/streams/clip", json={"detect": "/etc/passwd"}), 422, "invalid")
    problem(api.ask("PUT", "/api/v1/streams/other", json={"detect": "/videos/clip.mp4"}), 422, "invalid")
    saved = api.get("/api/v1/cameras.yaml")
    assert saved.headers["content-disposition"] == 'attachment; filename="cameras.yaml"'
    assert saved.headers["content-type"] == "application/yaml"
    assert "secret" not in saved.text
    assert "clip:" in saved.text
    assert "gate:" in saved.text
