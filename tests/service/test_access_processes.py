"""Roles with cameras in front of real worker processes: lists, rows, and previews that end with their token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.test_processes import OFFER, Reader, Site, _send
from tests.support.serve_process import LIMIT_S

SEEN = {"s0", "s1"}
ACCESS = "access: {roles: {some: {level: admin, cameras: [s0, s1]}}}\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), 4, ACCESS) as running:
        running.wait_until_live()
        yield running


def made(site: Site) -> dict[str, Any]:
    """Create an API token with the limited role."""
    status, text = site.ask("POST", "/api/v1/tokens", {"person": "ada", "role": "some", "days": 1})
    assert status == 201, text
    token: dict[str, Any] = json.loads(text)
    return token


@pytest.mark.slow
def test_workers_show_the_cameras_of_the_role_and_end_its_previews(site: Site) -> None:
    assert len(set(site.placement().values())) == 2
    admin, token = site.token, made(site)
    everything = Reader(site)
    site.token = token["token"]
    try:
        assert set(site.streams()) == SEEN
        reader = Reader(site, "?states=true")
        site.wait(lambda: all(len(reader.frames(name)) >= 3 for name in SEEN), "rows of both cameras")
        site.wait(lambda: all(len(everything.frames(f"s{number}")) >= 3 for number in range(4)), "rows of all cameras")
        assert {row["stream"] for row in list(reader.rows)} == SEEN
        for path in ("s2", "s3/snapshot.jpg", "s2/frames", "s3/why", "s2/counts"):
            assert site.ask("GET", f"/api/v1/streams/{path}")[0] == 404
        events = json.loads(site.ask("GET", "/api/v1/events")[1])
        assert {event["stream"] for event in events if "stream" in event} <= SEEN
        assert site.ask("GET", "/api/v1/streams/s0/snapshot.jpg")[0] == 200
        assert site.ask("DELETE", "/api/v1/streams/s2")[0] == 404
        assert site.ask("GET", "/metrics")[0] == 403
        status, headers, _ = _send(site, "POST", "/api/v1/streams/s0/whep", OFFER.encode(), "application/sdp")
        assert status == 201
        assert site.ask("GET", headers["Location"])[0] == 200
    finally:
        site.token = admin

    def viewers() -> float:
        lines = site.ask("GET", "/metrics")[1].splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith('vision_infer_preview_viewers{stream="s0"')
        )

    assert viewers() == 1
    assert site.ask("DELETE", f"/api/v1/tokens/{token['id']}")[0] == 204
    site.wait(lambda: viewers() == 0, "the preview to end")
    reader._thread.join(LIMIT_S)  # the stream of rows ends as well
    assert not reader._thread.is_alive()
    assert set(site.streams()) == {"s0", "s1", "s2", "s3"}
    log = (Path(site.folder) / "home" / "serve" / "audit.jsonl").read_text()
    assert [json.loads(line)["status"] for line in log.splitlines()] == [201, 404, 204]
