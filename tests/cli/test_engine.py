"""``vision-infer engine``."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from tests.cli.conftest import Command
from tests.engine.candidates_of_a_graph import INT8, ORT, loss, passport, possible
from tests.engine.graphs import tiny_graph
from vision_infer.cli.engines.passport_page import engine_row, engine_table, notes
from vision_infer.core.card import ModelCard
from vision_infer.engine.selection.candidates import EngineCandidate, candidates
from vision_infer.engine.selection.tuning_store import EngineChoice, TuningStore

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

__all__ = ["possible"]


@pytest.fixture
def graph(tmp_path: Path, card: ModelCard) -> Path:
    return tiny_graph(tmp_path / "model.onnx", card)


@pytest.mark.slow
def test_list_build_show_and_prune(command: Command, in_process: Command, graph: Path, tmp_path: Path) -> None:
    listed = in_process("engine", "list", graph)
    assert listed.returncode == 0, listed.stderr
    first, headings, row, *_ = listed.stdout.splitlines()
    assert first == "32x32 input (width x height)"
    assert headings.split() == ["ENGINE", "×", "FP32", "FPS", "P95", "MS", "POINTS", "LOST", "DETECTIONS", "'AUTO'"]
    assert row.split() == ["onnxruntime-cpu-fp32", "not", "measured"]
    assert f"vision-infer engine choose {graph}" in listed.stdout
    none = in_process("engine", "show", graph)
    assert none.returncode == 4
    assert "has no passport for any engine" in none.stderr

    built = command("engine", "build", graph, "--engine", "openvino-cpu-fp32", "--workers", "1", "--json")
    assert built.returncode == 0, built.stderr
    assert "building openvino-cpu-fp32 for tiny (not cached yet)" in built.stderr
    (passport,) = json.loads(built.stdout)
    jsonschema.validate(passport, json.loads(in_process("schema", "passport").stdout))
    assert passport["speed"][0]["workers"] == 1
    assert len(list((tmp_path / "home" / "engines").glob("*/passport.json"))) == 1

    shown = in_process("engine", "show", graph, "openvino-cpu-fp32")
    assert shown.stdout.startswith("openvino-cpu-fp32 of tiny\n")
    assert "accuracy   not measured" in shown.stdout
    again = json.loads(in_process("engine", "list", graph, "--json").stdout)
    assert [row["engine"] for row in again["engines"]] == [one.engine for one in candidates(graph)]
    assert [row["engine"] for row in again["engines"] if row["passport"]] == ["openvino-cpu-fp32"]
    assert sum(row["auto"] for row in again["engines"]) == 1
    assert again["reason"]

    pruned = in_process("engine", "prune", "--max-mb", "0")
    assert pruned.stdout.splitlines()[-1] == "0 engines kept, 0.0 MB"
    assert "removed openvino-cpu-fp32 of tiny" in pruned.stdout


def test_an_engine_that_failed_in_autotune_is_listed_with_the_reason(command: Command, graph: Path, tmp_path: Path) -> None:
    possible = candidates(graph)
    failures = TuningStore(tmp_path / "home" / "engines", 1.0)
    failures.end(next(one for one in possible if one.engine == "openvino-cpu-fp32"), "it does not load")
    message = "failed in autotune: it does not load (engine choose --again tries it again)"
    (line,) = [line for line in command("engine", "list", graph).stdout.splitlines() if "openvino-cpu-fp32" in line]
    assert line.endswith(f"  {message}")
    rows = json.loads(command("engine", "list", graph, "--json").stdout)["engines"]
    assert {row["engine"]: row["notes"] for row in rows if row["notes"]} == {"openvino-cpu-fp32": [message]}


def test_every_input_size_is_listed(command: Command) -> None:
    found = json.loads(command("engine", "list", "nanodet-416", "--json").stdout)
    assert list(found["reasons"]) == ["model.onnx", "model-256x416.onnx"]
    assert found["reason"] == found["reasons"]["model.onnx"]
    graphs = {row["graph"] for row in found["engines"]}
    assert graphs == {f"{name}{kind}.onnx" for name in ("model", "model-256x416") for kind in ("", ".int8")}
    strict = json.loads(command("engine", "list", "nanodet-416", "--budget", "0.1", "--json").stdout)["engines"]
    left = {row["engine"]: row["notes"] for row in strict if row["graph"] == "model.int8.onnx"}
    assert [note for note in left["onnxruntime-cpu-int8"] if note.startswith("not selected: ") and "the budget is 0.1" in note]


def test_the_table_has_a_reason_for_each_engine_of_each_input_size(command: Command) -> None:
    listed = command("engine", "list", "nanodet-416", "--budget", "0.01").stdout
    tables = [table.splitlines() for table in listed.split("\n\n")]
    assert [table[0] for table in tables[:2]] == ["416x416 input (width x height)", "416x256 input (width x height)"]
    for table in tables[:2]:
        cells = {line[2:].split()[0]: line for line in table[2:]}
        assert all(line[table[1].index("'AUTO'") :] for line in cells.values()), "a reason is missing"
        assert "the budget is 0.01" in cells["onnxruntime-cpu-int8"]
        assert sum("selected: " in line and line.startswith("*") for line in cells.values()) <= 1
    assert "With a budget of 0.01 points. 'run' and 'serve' use 1 point; name another engine with --engine." in listed


def test_choose_is_remembered(command: Command, in_process: Command, graph: Path) -> None:
    chosen = command("engine", "choose", graph, "--seconds", "0.2", "--workers", "1")
    assert chosen.returncode == 0, chosen.stderr
    assert "trying openvino-cpu-fp32" in chosen.stderr
    assert chosen.stdout.startswith("auto selects o")
    listed = in_process("engine", "list", graph).stdout
    (selected,) = [line for line in listed.splitlines() if line.startswith("* ")]
    engine, reason = chosen.stdout.removeprefix("auto selects ").strip().split(": ", 1)
    assert selected.split()[1] == engine
    assert selected.endswith(f"selected: {reason}")


@pytest.mark.slow  # timing takes seconds, as in the test above; tests/engine covers recipes
def test_build_by_a_recipe(command: Command, graph: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: model.onnx\nruntime: openvino\nworkers: 1\nthreads: 2\n")
    built = command("engine", "build", "mine.yaml", "--engine-dir", tmp_path / "here")
    assert built.returncode == 0, built.stderr
    assert "1 × 2 threads" in built.stdout
    assert len(list((tmp_path / "here").glob("*/engine.bin"))) == 2  # including FP32 for comparison


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["build", "nanodt"], 3, "nanodet-416"),
        (["build", "none.yaml"], 4, "none.yaml"),
        (["build", "nanodet-416", "--engine", "openvino-cpu-fp16"], 4, "the available ones are onnxruntime-cpu-fp32"),
        (["list", "none.onnx"], 3, "no such file"),
        (["build", "nanodet-416", "--engine-dir", "/proc/nothing"], 4, "cannot create"),
    ],
)
def test_errors_are_one_line(in_process: Command, words: list[str], status: int, message: str) -> None:
    done = in_process("engine", *words)
    assert done.returncode == status
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_folder_that_other_users_can_write_is_rejected(command: Command, graph: Path, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    done = command("engine", "build", graph, "--engine-dir", tmp_path / "open")
    assert done.returncode == 4
    assert "other users may write there" in done.stderr


@pytest.mark.parametrize("chosen", [True, False])
def test_an_accepted_loss_is_shown_in_the_table(possible: list[EngineCandidate], chosen: bool) -> None:
    int8 = possible[3]
    accepted = passport(int8, 2.6, loss(3.0, 4.2), accepted=True)
    choice = (
        EngineChoice(int8, f"{INT8}: 2.6× as fast, loss accepted") if chosen else EngineChoice(possible[0], f"{ORT}: fastest")
    )
    lines = engine_table("32x32", [engine_row(int8, accepted, choice, notes(accepted, "", 1.0))])
    assert lines[-2].endswith("selected: 2.6× as fast, loss accepted" if chosen else "5 % faster than FP32, loss accepted")
