"""Files of the service: who may read them."""

from __future__ import annotations

import stat
from pathlib import Path

from tests.hostile.conftest import Serve
from tests.support.waiting import wait_until


def test_files_of_the_service_are_readable_by_its_account_only(serve: Serve, tmp_path: Path) -> None:
    results = tmp_path / "results"
    served = serve(
        f"model: clock\nresults: {{jsonl: {results}/rows.jsonl, parquet: {results}/rows.parquet}}\n"
        f"state_dir: {tmp_path}/state\nstreams: {{one: {{url: 'test://'}}}}\n"
    )
    assert served.ask("PUT", "/api/v1/streams/two", {"detect": "test://"})[0] in (200, 201)
    rows = results / "rows.jsonl"
    wait_until(lambda: rows.exists() and rows.stat().st_size > 0)
    served.stop()
    made = [results, *results.rglob("*"), *(tmp_path / "state").rglob("*")]
    assert len(made) >= 5
    modes = {str(path): stat.S_IMODE(path.stat().st_mode) for path in made}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
