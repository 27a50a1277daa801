"""The reference pages name everything that exists, and their examples work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from docs.generate import api, cli, integrations, metrics, results, service, settings
from docs.generate.markdown import anchor, plain, table
from tests.support.media import ROOT
from vision_infer.config.serve_file import load_settings
from vision_infer.config.serve_schema import config_schema
from vision_infer.core.errors import UsageError

SETTINGS = settings.page()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", SETTINGS, re.DOTALL)


def test_every_command_and_option_is_on_the_page() -> None:
    page = cli.page()
    names = [name for name, _ in cli.commands()]
    assert {"vision-infer doctor", "vision-infer model pull", "vision-infer model export"} <= set(names)
    for name, command in cli.commands():
        section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        assert section is not None, name
        for option in command.get_params(typer.Context(command)):
            if not getattr(option, "hidden", False) and option.param_type_name == "option":
                assert option.opts[-1] in section[1], (name, option.name)


def test_the_command_line_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    page = cli.page()
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("HOME", "/nonexistent")
    assert cli.page() == page
    assert str(Path.home()) not in page.replace("/nonexistent", "")


def test_every_metric_is_on_the_page() -> None:
    page = metrics.page()
    found = {metrics.exposed_name(metric) for metric in metrics.metrics(service.make_api())}
    assert len(found) > 40
    for name in found:
        assert f"`{name}`" in page
    files = [ROOT / "vision_infer" / "service" / file for file in ("operations/metrics.py", "processes/merge.py")]
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    for name in re.findall(r'"(vision_infer_\w+)"', source):
        assert any(f"`{name}{suffix}`" in page for suffix in ("", "_total", "_info")), name


def test_every_route_is_on_the_page() -> None:
    page = api.page()
    titles = api.routes(service.make_api())
    assert "GET /api/v1/results" in titles
    for title in titles:
        assert f"### {title}\n" in page


def test_routes_that_change_something_need_the_role_admin() -> None:
    page = api.page()
    for route, role in (
        ("PUT /api/v1/streams/{name}", "admin"),
        ("GET /api/v1/streams", "view"),
        ("POST /api/v1/infer", "view"),
        ("GET /healthz", "none"),
    ):
        assert re.search(rf"^\| \[`{re.escape(route)}`\]\(#\S+\) \| {role} \|", page, re.MULTILINE), route


def test_every_setting_is_on_the_page() -> None:
    schema = config_schema()
    for name, path in settings.paths_of(schema).items():
        section = SETTINGS.partition(f"## `{path}`\n")[2].partition("\n## ")[0]
        for field in schema["$defs"][name]["properties"]:
            assert f"| `{field}` |" in section or field == "url", (path, field)


def test_every_field_of_a_row_is_on_the_page() -> None:
    page = results.page()
    for field in ("stream", "detections", "latency_ms", "box", "track_id", "events", "place", "skipped"):
        assert f"| `{field}` |" in page


def test_the_example_settings_load(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-long-token")
    (tmp_path / "cam").write_text("p@ss")
    path = tmp_path / "cameras.yaml"
    first, second = EXAMPLES
    path.write_text(first)
    assert [stream.fps for stream in load_settings(path, [], {}, {}).streams.values()] == [10, 5]
    path.write_text(second.replace("/run/secrets", str(tmp_path)))
    loaded = load_settings(path, [], {"CAM_PASSWORD": "a b"}, {})
    assert loaded.service.token is not None
    assert loaded.streams["front"].detect == "rtsp://user:a%20b@192.0.2.10/sub"
    assert loaded.streams["front"].view == "rtsp://user:p%40ss@192.0.2.10/main"


def test_the_example_variables_are_settings(tmp_path: Path) -> None:
    found = re.findall(r"^    (VISION_INFER_\w+)=(\S+)", SETTINGS, re.MULTILINE)
    assert len(found) == 5
    path = tmp_path / "cameras.yaml"
    path.write_text("streams: {front-door: {url: 'test://'}}")
    loaded = load_settings(path, [], {name: value.strip("'") for name, value in found}, {})
    assert (loaded.service.port, loaded.streams["front-door"].fps) == (9000, 2)
    assert loaded.service.allow_networks == ("10.0.0.0/8",)


def test_the_example_errors_have_their_places() -> None:
    lines = settings.example_errors()
    for start in (
        "cameras.yaml: line 12: streams.front.fps: ",
        "cameras.yaml: line 14: streams.front.transprot: ",
        "VISION_INFER_SERVICE__PROT: ",
    ):
        assert any(line.startswith(start) for line in lines), lines
    with pytest.raises(UsageError):
        load_settings(ROOT / "nothing.yaml", [], {}, {})


def test_table_cells_and_text_are_escaped() -> None:
    assert table(["a"], [["x|y\nz"]]) == "| a |\n| --- |\n| x\\|y z |\n"
    assert plain("a*b <c>") == "a\\*b &lt;c>"
    assert anchor("GET /api/v1/streams/{name}") == "get-apiv1streamsname"


def test_the_named_tests_of_integrations_exist() -> None:
    rows = [line for line in integrations.page().splitlines() if line.startswith("| [")]
    named = {path for row in rows for path in re.findall(r"`([a-z_]+/[a-z_.]*)`", row)}
    assert len(rows) > 15
    assert not [path for path in named if not (ROOT / "tests" / path).exists()]
    extras = {"kafka", "nats", "redis", "amqp", "notify", "grpc", "otel", "oidc", "ray", "kuberay", "onvif"}
    assert not [extra for extra in extras if f"`{extra}`" not in integrations.page()]
