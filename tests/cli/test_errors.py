"""Each user error is one line with the subject and the next step, a documented exit status, and no traceback."""

from __future__ import annotations

import os
import signal
import stat
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import av
import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli.conftest import Command
from tests.support.media import BUNDLED, ONLY_SOUND, SONG, bikes, clip


def one_line(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0]


def bad_source(kind: str, folder: Path) -> tuple[str, str]:
    """Return an unreadable source and a word that the error must contain."""
    path = folder / f"{kind}.mp4"
    if kind == "missing":
        return str(path), "no such file"
    if kind == "folder":
        (folder / "empty").mkdir()
        (folder / "empty" / "notes.txt").write_text("no media")
        return str(folder / "empty"), "the folder contains no video or image"
    if kind == "text":
        path.write_text("not a video\n" * 100)
        return str(path), "cannot read it as video"
    if kind == "zero":
        path.touch()
        return str(path), "empty"
    if kind in ("sound", "cover"):
        return str(clip(ONLY_SOUND if kind == "sound" else SONG)), "only audio"
    image = folder / "broken.jpg"
    image.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    return str(image), "cannot be decoded. It is damaged or incomplete. Check the file."


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "zero", "sound", "cover", "picture"])
def test_sources(in_process: Command, tmp_path: Path, kind: str) -> None:
    source, word = bad_source(kind, tmp_path)
    one_line(in_process("run", source, "--out", "rows.jsonl"), 1, source, word)


def foreign_onnx(path: Path) -> Path:
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [images], [result])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def external_onnx(path: Path) -> Path:
    """Write a graph with weights outside its folder."""
    model = onnx.load(str(BUNDLED))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/hostname")
    path.write_bytes(model.SerializeToString())
    return path


def card_onnx(path: Path) -> Path:
    model = onnx.load(str(BUNDLED))
    for entry in model.metadata_props:
        if entry.key == "vision_infer.card":
            entry.value = entry.value.replace('"center"', '"middle"')
    path.write_bytes(model.SerializeToString())
    return path


def test_models(in_process: Command, tmp_path: Path) -> None:
    one_line(in_process("run", bikes(), "--model", "nanodet-461"), 3, "nanodet-461", "nanodet-416")
    one_line(in_process("run", bikes(), "--model", "gone.onnx"), 3, "gone.onnx", "no such file")
    foreign = foreign_onnx(tmp_path / "foreign.onnx")
    one_line(in_process("run", bikes(), "--model", foreign), 3, "not a deployment graph", f"vision-infer model import {foreign}")
    one_line(
        in_process("run", bikes(), "--model", external_onnx(tmp_path / "outside.onnx")), 3, "outside its folder", "etc/hostname"
    )
    one_line(in_process("model", "import", tmp_path / "outside.onnx", "--name", "x"), 3, "outside")
    one_line(in_process("run", bikes(), "--model", card_onnx(tmp_path / "card.onnx")), 3, "field 'fit'", "middle")
    (tmp_path / "text.onnx").write_text("hello")
    one_line(in_process("run", bikes(), "--model", tmp_path / "text.onnx"), 3, "text.onnx")


def test_a_card_in_the_model_folder_with_a_wrong_field(in_process: Command, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text("name: mine\ninput: {width: 0, height: 10}\n")
    one_line(in_process("run", bikes(), "--model", "mine"), 3, "mine", "input.width")
    listed = in_process("model", "list")
    assert listed.returncode == 0
    assert "nanodet-416" in listed.stdout
    assert "invalid: " in listed.stdout


def test_outputs(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").write_text("precious\n")
    one_line(in_process("run", bikes(), "--out", "there.jsonl"), 5, "there.jsonl", "--overwrite")
    assert (tmp_path / "there.jsonl").read_text() == "precious\n"
    one_line(in_process("run", bikes(), "--out", "there.jsonl/x.jsonl"), 5, "there.jsonl")
    one_line(in_process("run", bikes(), "--out", "/proc/nowhere/x.jsonl"), 5, "/proc/nowhere/x.jsonl")
    one_line(in_process("run", bikes(), bikes(), "--out", "both.mp4"), 2, "both.mp4", "FOLDER/")
    one_line(in_process("run", bikes(), "--out", "rows.xlsx"), 2, "rows.xlsx", "FILE.jsonl")
    one_line(in_process("run", bikes(), "--out", "-", "--json"), 2, "--json", "--summary")
    one_line(in_process("run", bikes(), "--summary", "there.jsonl"), 5, "there.jsonl", "--overwrite")


def test_a_read_only_folder_is_an_error(command: Command, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(locked, os.W_OK):  # root may write everywhere
        assert command("run", bikes(), "--out", "locked/rows.jsonl", "--every", "250", "--quiet").returncode == 0
    else:
        one_line(command("run", bikes(), "--out", "locked/rows.jsonl"), 5, "not writable")


def test_options(in_process: Command) -> None:
    one_line(in_process("run", bikes(), "--classes", "persn"), 2, "persn", "person")
    one_line(in_process("run", bikes(), "--foo"), 2, "--foo", "--help")
    one_line(in_process("run", bikes(), "--every", "0"), 2, "--every", "greater than or equal to 1")
    one_line(in_process("run", bikes(), "--confidence", "1.5"), 2, "--confidence", "less than or equal to 1")
    one_line(in_process("run", bikes(), "--device", "tpu"), 2, "tpu", "cuda:N")
    one_line(in_process("run", bikes(), "--engine", "onxruntime"), 4, "onxruntime", "onnxruntime")
    one_line(in_process("run"), 2, "SOURCE", "--help")
    one_line(in_process("rum"), 2, "rum", "--help")


def test_debug_shows_the_traceback(command: Command) -> None:
    done = command("run", bikes(), "--classes", "persn", "--debug")
    assert "Traceback" in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_and_completes_its_outputs(number: signal.Signals, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "vision_infer", "run", str(bikes()), "--out", "cut.mp4", "--out", "-", "--quiet"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        seen = [process.stdout.readline() for _ in range(20)]
        process.send_signal(number)
        seen += process.stdout.readlines()
        assert process.wait(timeout=60) == 128 + number
        assert process.stderr.read() == ""
    with av.open(str(tmp_path / "cut.mp4")) as container:
        drawn = sum(1 for _ in container.decode(video=0))
    assert 20 <= drawn == len(seen) < 250
    assert not list(tmp_path.glob(".*partial"))


def test_a_closed_standard_output_is_not_an_error(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "vision_infer", "run", str(bikes()), "--out", "-", "--quiet"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith('{"stream": "bikes"')
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == ""


def test_a_missing_engine_names_the_package_to_install(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((8, 8, 3), 90, np.uint8))
    hide = (
        "import sys; sys.modules['onnxruntime'] = sys.modules['openvino'] = None; from vision_infer.cli.main import main; main()"
    )
    words = [sys.executable, "-c", hide, "run", str(tmp_path / "gray.png")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    one_line(done, 4, "pip install '.[cpu]'")


def test_a_huge_image_is_rejected_from_its_header(in_process: Command, tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "huge.png").write_bytes(data + bytes(5000))
    one_line(in_process("run", "huge.png"), 1, "huge.png", "20000x20000", "--max-pixels")


INTERRUPTED = """
import sys
class Finder:
    def find_spec(self, name, *_):
        if name == "vision_infer.cli.app":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
from vision_infer.cli.main import main
main()
"""


def test_ctrl_c_during_start_up_shows_no_traceback() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")


def test_a_cluster_needs_ray(in_process: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.core.packages.find_spec", lambda module: None if module == "ray" else module)
    done = in_process("run", "film.mp4", "--cluster", "auto", "--out", f"{tmp_path}/")
    one_line(done, 2, "run --cluster needs the package ray", "pip install '.[ray]'")
