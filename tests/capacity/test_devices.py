"""The files of published figures and of requirements."""

from __future__ import annotations

from pathlib import Path

import pytest

from vision_infer.capacity.devices import devices_file, read_devices
from vision_infer.capacity.need import read_need
from vision_infer.core.errors import UsageError


def test_the_devices_of_the_package_name_their_sources_and_no_price() -> None:
    devices = read_devices()
    assert devices
    for device in devices:
        assert device.price_per_hour is None, "prices are the user's"
        assert device.sources, device.name
        expected = devices_file().with_name("README.md").read_text(encoding="utf-8")
        assert "devices.yaml" in expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devices:\n  - name: a\n    kind: tpu\n", r"devices.0.kind"),
        ("devices:\n  - name: a\n    kind: gpu\n    price_per_hour: 0\n", r"d.yaml:4: devices.0.price_per_hour"),
        ("devices:\n  - {name: a, kind: gpu}\n  - {name: a, kind: cpu}\n", "two devices are named a"),
        ("devices:\n  - {name: a, kind: gpu, published: [{what: decode, fps: 1}]}\n", r"published.0.source"),
        ("- a\n", "contains no fields"),
        ("devices: [", "d.yaml"),
    ],
)
def test_an_invalid_device_file_is_reported_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "d.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        read_devices(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_devices(tmp_path / "none.yaml")


def test_requirements_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "need.yaml"
    path.write_text(
        "cameras: 12\nvideo: {codec: hevc, width: 1280, height: 720, fps: 25}\ntarget: {fps: 50, age_ms: 100}\n"
        "prices: {this machine: 0.2}\n",
        encoding="utf-8",
    )
    need = read_need(path)
    assert need.fps == 25, "at most the rate of the camera"
    assert need.summary() == "12 cameras, hevc 1280×720 at 25 frames/s, 25 results/s each, 99% within 100 ms"
    path.write_text("cameras: 12\nprices: {here: 0}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"need.yaml:2: prices: the price of here is 0; leave it out if it is unknown"):
        read_need(path)
    path.write_text("cameras: 12\ntarget: {fsp: 10}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"need.yaml:2: target.fsp"):
        read_need(path)
