"""The tokens of a service: configured, or generated and stored as a hash."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.service.fakes import ADMIN, VIEW
from tests.support.hand_clock import HandClock
from vision_infer.config.serve import ServiceSettings
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.service.http.auth import is_loopback, tokens_for


def test_a_token_is_generated_once_and_only_its_hash_is_stored(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    made = tokens_for(ServiceSettings(host="0.0.0.0"), folder, HandClock())
    assert made.made is not None
    assert made.tokens.role_of(made.made) == "admin"
    path = folder / "token.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.made not in path.read_text()
    again = tokens_for(ServiceSettings(host="0.0.0.0"), folder, HandClock())
    assert again.made is None
    assert again.tokens.role_of(made.made) == "admin"
    assert [one.name for one in folder.iterdir()] == ["token.json"]


def test_tokens_of_a_service(tmp_path: Path) -> None:
    assert not tokens_for(ServiceSettings(), tmp_path).tokens.needed
    chosen = tokens_for(ServiceSettings(token=SecretStr(ADMIN), view_token=SecretStr(VIEW), host="0.0.0.0"), tmp_path)
    assert (chosen.made, chosen.tokens.role_of(ADMIN), chosen.tokens.role_of(VIEW)) == (None, "admin", "view")
    assert not (tmp_path / "token.json").exists()
    on_loopback = tokens_for(ServiceSettings(view_token=SecretStr(VIEW)), tmp_path)
    assert on_loopback.made is not None
    assert tokens_for(ServiceSettings(allow_hosts=("cameras.example",)), tmp_path / "proxied").made is not None
    with pytest.raises(UsageError, match="is the same"):
        tokens_for(ServiceSettings(token=SecretStr(ADMIN), view_token=SecretStr(ADMIN)), tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"sha256": "00"}', '{"sha256": 5}', '{"sha256": "zz"}', "[" * 100_000])
def test_a_damaged_token_file_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "token.json").write_text(text)
    with pytest.raises(UsageError, match="contains no valid token hash"):
        tokens_for(ServiceSettings(host="0.0.0.0"), tmp_path)


def test_a_read_only_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"token\.json"):
        tokens_for(ServiceSettings(host="0.0.0.0"), tmp_path / "file" / "state")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("cam", False),
    ],
)
def test_loopback_addresses(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_the_hash_file_is_json_with_its_date(tmp_path: Path) -> None:
    tokens_for(ServiceSettings(host="0.0.0.0"), tmp_path, HandClock())
    values = json.loads((tmp_path / "token.json").read_text())
    assert values["created"] == "2023-11-14T22:30:00.000Z"
    assert len(values["sha256"]) == 64
