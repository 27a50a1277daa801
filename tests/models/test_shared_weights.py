"""Shared weights: graphs of one model read them from the first one's file, in every runtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.precision.tiny import SIDE, noise_frames, tiny_model
from tests.support.bundled_scripts import bundled_script
from vision_infer.engine import external_data
from vision_infer.engine.external_data import external_files
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.store.engine_key import graph_sha256

with bundled_script("nanodet-416/shared_weights") as script:
    MIN_BYTES, share_weights = script.MIN_BYTES, script.share_weights

pytest.importorskip("onnxruntime")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A graph, and another that reads its weights from it."""
    model = tiny_model()
    grown = np.random.default_rng(0).normal(0, 0.1, (16, 8, 4, 4)).astype(np.float32)  # large enough to be worth sharing
    for tensor in model.graph.initializer:
        if tensor.name == "network/w3":
            tensor.CopyFrom(numpy_helper.from_array(grown, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.name == "network/conv3" and attribute.name == "kernel_shape":
                attribute.ints[:] = (4, 4)
    first, second = tmp_path / "model.onnx", tmp_path / "model-other.onnx"
    onnx.save(model, first)
    onnx.save(share_weights(model, {first.name: first.read_bytes()}), second)
    return first, second


def tensors_in(message: Any, kinds: Mapping[str, Mapping[int, str]], kind: str, seen: set[str]) -> None:
    """Each field of ONNX that leads to a tensor must be known by its number."""
    for field in message.fields:
        reached = field.message_type
        if reached is not None and leads_to_tensor(reached, set()):
            assert field.number in kinds[kind], f"{message.name}.{field.name}"
            if reached.name not in seen:
                seen.add(reached.name)
                tensors_in(reached, kinds, kinds[kind][field.number], seen)


def leads_to_tensor(message: Any, seen: set[str]) -> bool:
    if message.name == "TensorProto":
        return True
    seen.add(message.name)
    inside = (field.message_type for field in message.fields if field.message_type is not None)
    return any(leads_to_tensor(one, seen) for one in inside if one.name not in seen or one.name == "TensorProto")


def test_all_message_types_with_tensors_are_known() -> None:
    kinds = {**external_data._INSIDE, "tensor": {}}
    tensors_in(onnx.ModelProto.DESCRIPTOR, kinds, "model", {"TensorProto"})


def test_reading_external_file_names_does_not_import_onnx(pair: tuple[Path, Path]) -> None:
    told = f"""
import sys
from pathlib import Path
from vision_infer.engine.external_data import external_files
print(external_files(Path({str(pair[1])!r}))[0].name, "onnx" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "model.onnx False\n"


def test_ambiguous_files_are_read_with_onnx(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Path] = []
    plain = external_data._parse_names

    def noted(path: Path) -> Iterator[str]:
        parsed.append(path)
        return plain(path)

    monkeypatch.setattr(external_data, "_parse_names", noted)
    assert external_files(pair[1]) == (pair[0],)
    assert not parsed
    model = onnx.load(pair[1], load_external_data=False)
    model.graph.doc_string = "the location of something"
    onnx.save(model, pair[1])
    assert external_files(pair[1]) == (pair[0],)
    assert parsed == [pair[1]]


def scores(path: Path, request: EngineRequest) -> NDArray[np.float32]:
    with open_engine(path, request, lambda _: None) as engine:
        loan = engine.lend(1)
        loan.slots[0].pixels[:] = noise_frames(1)[0]
        found: NDArray[np.float32] = engine.collect(engine.submit(loan)).outputs["scores"]
        return found


def test_large_weights_are_read_from_the_other_file(pair: tuple[Path, Path]) -> None:
    first, second = pair
    assert second.stat().st_size < first.stat().st_size - 16 * 8 * 16 * 4 + 500
    assert external_files(second) == (first,)
    assert external_files(first) == ()
    assert read_graph_facts(second) == read_graph_facts(first)
    inside = {tensor.name for tensor in onnx.load(second, load_external_data=False).graph.initializer if tensor.raw_data}
    assert "network/w3" not in inside
    assert "network/w1" in inside, f"of less than {MIN_BYTES} bytes"
    whole = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(second).graph.initializer}
    for tensor in onnx.load(first).graph.initializer:
        np.testing.assert_array_equal(whole[tensor.name], numpy_helper.to_array(tensor))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_runtime_and_cached_engine_reads_shared_weights(pair: tuple[Path, Path], runtime: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    first, second = pair
    wanted = scores(first, EngineRequest(runtime, "cpu", workers=1))
    for folder in (None, tmp_path / "engines", tmp_path / "engines"):  # built, and loaded as it is kept
        np.testing.assert_array_equal(scores(second, EngineRequest(runtime, "cpu", workers=1, engine_dir=folder)), wanted)


def test_the_checksum_includes_external_data(pair: tuple[Path, Path]) -> None:
    first, second = pair
    before = graph_sha256(second)
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    assert graph_sha256(second) != before
    first.unlink()
    assert graph_sha256(second) != before


def test_nothing_to_share() -> None:
    model = tiny_model()
    assert share_weights(model, {"other.onnx": bytes(SIDE)}) == model
