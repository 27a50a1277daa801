"""The Open Inference Protocol v2 over HTTP and gRPC, with NVIDIA's client for Triton."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton_http
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.pipeline.fakes import LONG_S, SIDE, box_of
from tests.service.fakes import OPEN, Api
from tests.service.protocol_site import ALL, LIBRARIES, ON, Served, encoded, marked, site
from tests.service.site import Engines, Site, engines, settings
from tests.service.test_service_images import png
from tests.support.media import ROOT
from tests.support.serve_process import ServeProcess
from tests.support.waiting import wait_until
from vision_infer.config.serve import ServeSettings, ServiceSettings
from vision_infer.service.results.requests import MAX_WAITING
from vision_infer.service.service import Service

__all__ = ["engines", "site"]


def test_the_protocol_is_off_unless_it_is_configured() -> None:
    assert Api().get("/v2/health/live").status_code == 404
    assert ServiceSettings().inference_protocol is None


@ALL
def test_health_and_metadata(kind: str, site: Served) -> None:
    with site.client(kind) as client:
        assert client.call("is_server_live")
        assert client.call("is_server_ready")
        assert client.call("get_server_metadata")["name"]
        assert not client.call("is_model_ready", "nanodet-416")  # known, but not loaded
        assert client.call("get_server_metadata")["extensions"] == ["binary_tensor_data"]
        tensors = client.call("get_model_metadata", "one", "1")
        images = client.call("get_model_metadata", "one@image")
    assert tensors["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": _shown(kind, -1, SIDE, SIDE, 3)}]
    assert [output["name"] for output in tensors["outputs"]] == ["boxes", "scores", "class_ids"]
    assert images["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": _shown(kind, 1)}]
    assert [output["name"] for output in images["outputs"]] == ["boxes", "scores", "class_ids", "labels", "result"]
    assert "unknown model 'none'" in site.fails(404, kind, lambda client: client.call("get_model_metadata", "none"))
    assert "no version '7'" in site.fails(404, kind, lambda client: client.call("get_model_metadata", "one", "7"))


def _shown(kind: str, *shape: int) -> list[Any]:
    return list(shape) if kind == "http" else list(map(str, shape))


@pytest.mark.parametrize(("kind", "binary"), [("http", True), ("http", False), ("grpc", True), ("workers", True)])
def test_a_tensor_gives_the_outputs_of_the_graph(kind: str, binary: bool, site: Served) -> None:
    with site.client(kind) as client:
        more: dict[str, Any] = (
            {} if binary else {"outputs": [triton_http.InferRequestedOutput(name, binary) for name in ("boxes", "scores")]}
        )
        answer = client.infer(marked(5, 7, 6, client=3), binary=binary, request_id="four", **more)
        boxes = answer.as_numpy("boxes")
        assert boxes.shape == (3, 1, 4)
        assert boxes[:, 0].tolist() == [box_of(3, number) for number in (5, 7, 6)]
        np.testing.assert_allclose(answer.as_numpy("scores"), np.full((3, 1), 0.9, np.float32))
        assert (answer.as_numpy("class_ids") is None) == (not binary)
        response = answer.get_response()
        assert (response["id"] if kind == "http" else response.id) == "four"
        only = client.infer(marked(1), outputs=[client.library.InferRequestedOutput("scores")])
        assert (only.as_numpy("scores").shape, only.as_numpy("boxes")) == ((1, 1), None)


@ALL
def test_an_encoded_image_gives_detections(kind: str, site: Served) -> None:
    with site.client(kind) as client:
        answer = client.infer(encoded(png(size=(2 * SIDE, SIDE))), "one@image")
    assert answer.as_numpy("labels").tolist() == [b"person"]
    x1, y1, x2, y2 = box_of(7, 7 + 256 * 7)
    assert answer.as_numpy("boxes").tolist() == [[2 * x1, y1, 2 * x2, y2]]  # in pixels of the image, which is twice as wide
    assert (answer.as_numpy("class_ids").tolist(), answer.as_numpy("scores").dtype) == ([0], np.float32)
    assert json.loads(answer.as_numpy("result")[0])["detections"][0]["label"] == "person"


def test_json_alone_is_enough(site: Served) -> None:
    url = f"http://{site.addresses['http']}/v2/models/one@image/versions/1/infer"
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png()).decode()]}
    answer = httpx.post(url, json={"inputs": [image]})
    assert answer.status_code == 200
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    assert outputs["labels"] == {"name": "labels", "datatype": "BYTES", "shape": [1], "data": ["person"]}
    assert outputs["boxes"]["shape"] == [1, 4]


@ALL
@pytest.mark.parametrize(
    ("data", "name", "model", "words"),
    [
        (marked(1), "pixels", "one", "unknown input 'pixels'. The input is 'images'."),
        (marked(1).astype(np.float32), "", "one", "has the datatype FP32. Send UINT8."),
        (marked(1)[:, :8], "", "one", f"has the shape [1, 8, {SIDE}, 3]. Send [-1, {SIDE}, {SIDE}, 3]"),
        (encoded(png()), "images", "one", "has the datatype BYTES. Send UINT8."),
        (encoded(b"no image"), "", "one@image", "the image format is not supported"),
        (np.array([png(), png()], object), "", "one@image", "has the shape [2]. Send [1]"),
        (np.zeros((MAX_WAITING + 1, SIDE, SIDE, 3), np.uint8), "", "one", "65 images are too many for one request"),
    ],
)
def test_a_wrong_input_is_explained(kind: str, data: NDArray[Any], name: str, model: str, words: str, site: Served) -> None:
    assert words in site.fails(400, kind, lambda client: client.infer(data, model, name))


@ALL
def test_an_unknown_output_or_model_is_explained(kind: str, site: Served) -> None:
    wanted = [LIBRARIES[kind].InferRequestedOutput("masks")]
    message = site.fails(400, kind, lambda client: client.infer(marked(1), outputs=wanted))
    assert message == "unknown output 'masks'. The outputs are boxes, scores, class_ids."
    site.fails(404, kind, lambda client: client.infer(marked(1), "none"))
    message = site.fails(503, kind, lambda client: client.infer(marked(1), "nanodet-416"))
    assert message == "nanodet-416 is not loaded. Use a model that a stream uses."


ONE = {"name": "images", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3]}
IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1]}


@pytest.mark.parametrize(
    ("body", "length", "words"),
    [
        (b"{", None, "the body is not valid JSON"),
        ({"inputs": "none"}, None, "inputs: input should be a valid array"),
        ({"inputs": []}, None, "0 inputs were sent"),
        ({"inputs": [ONE]}, None, "input 'images' has no data"),
        ({"inputs": [{**ONE, "data": [1, 2]}]}, None, "has 2 elements, but its shape has 196608"),
        ({"inputs": [{**ONE, "data": [[1, 2], [3]]}]}, None, "are not numbers of the type UINT8"),
        ({"inputs": [{**ONE, "data": [256]}]}, None, "are not numbers of the type UINT8"),
        ({"inputs": [{**ONE, "data": [True]}]}, None, "are not numbers of the type UINT8"),
        ({"inputs": [{**ONE, "data": [1e999]}]}, None, "are not numbers of the type UINT8"),
        ({"inputs": [{**ONE, "data": [10**400]}]}, None, "are not numbers of the type UINT8"),
        ({"inputs": [{**IMAGE, "data": ["%%"]}]}, None, "are not text in Base64"),
        ({"inputs": [{**IMAGE, "data": [7]}]}, None, "are not text in Base64"),
        ({"inputs": [{**IMAGE, "data": [["QQ=="], ["QQ=="]]}]}, None, "has 2 elements"),
        (
            {"inputs": [{**ONE, "parameters": {"binary_data_size": 9}}]},
            None,
            "binary_data_size of input 'images' is not",
        ),
        ({"inputs": [{**ONE, "parameters": {"binary_data_size": "x"}}]}, None, "is not a length within the body"),
        ({"inputs": [ONE], "parameters": {"timeout": "soon"}}, None, "the parameter timeout is not a positive integer"),
        ({"inputs": [ONE]}, "9999", "is not the length of the JSON in this body"),
        ({"inputs": [ONE]}, "-1", "is not the length of the JSON in this body"),
        (b'{"inputs": []} and more', "14", "9 bytes after the last input"),
        (b'{"inputs": [' + b'{"name": "a", "shape": [1], "datatype": "UINT8"},' * 20 + b"]}", None, "the body is not valid JSON"),
    ],
)
def test_a_malformed_body_is_explained(body: Any, length: str | None, words: str, site: Served) -> None:
    model = "one@image" if b'"image"' in (content := body if isinstance(body, bytes) else json.dumps(body).encode()) else "one"
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    answer = httpx.post(f"http://{site.addresses['http']}/v2/models/{model}/infer", content=content, headers=headers)
    assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text


def test_a_message_that_is_too_large_is_refused(engines: Engines) -> None:
    small = {**ON, "max_upload_mb": 0.1}
    with Site(of=settings(service=small)) as running, Served(running.service, OPEN) as served:
        with served.client("grpc") as client, pytest.raises(InferenceServerException, match="larger than max"):
            client.infer(marked(1))
        url = f"http://{served.addresses['http']}/v2/models/one/infer"
        answer = httpx.post(url, content=bytes(200_000))
        assert (answer.status_code, answer.json()["error"]) == (413, "the request body exceeds 100000 bytes")
        packed = httpx.post(url, content=b"x", headers={"Content-Encoding": "gzip"})
        assert packed.status_code == 415


@pytest.mark.slow
@pytest.mark.usefixtures("bundled")
def test_outputs_equal_those_of_onnx_runtime_for_many_clients_at_once() -> None:
    """The bundled model: each client gets the outputs of the image that it sent, and images of several clients share batches."""
    of = ServeSettings(model="nanodet-416", engine="onnxruntime-cpu-fp32", batch=4, workers=1, service=ServiceSettings(**ON))
    images = np.random.default_rng(1).integers(0, 256, (12, 1, 416, 416, 3)).astype(np.uint8)
    with Service(of) as service, Served(service, OPEN) as served, ThreadPoolExecutor(len(images)) as pool:
        service.start()
        wait_until(lambda: service.ready()[0])

        def ask(number: int) -> list[NDArray[Any]]:
            with served.client("http" if number % 2 else "grpc") as client:
                answer = client.infer(images[number], "nanodet-416")
                return [answer.as_numpy(name) for name in ("boxes", "scores", "class_ids")]

        answers = list(pool.map(ask, range(len(images))))
        assert max(service.lanes()[0].batches) > 1, service.lanes()[0].batches
    session = onnxruntime.InferenceSession(ROOT / "models" / "nanodet-416" / "model.onnx", providers=["CPUExecutionProvider"])
    for image, (boxes, scores, class_ids) in zip(images, answers, strict=True):
        wanted = session.run(["boxes", "scores", "class_ids"], {"images": image})
        np.testing.assert_allclose(scores, wanted[1], atol=1e-4)
        same = class_ids == wanted[2]
        assert same.mean() > 0.95  # candidates with nearly equal scores may change places
        np.testing.assert_allclose(boxes[same], wanted[0][same], atol=0.5)


@pytest.mark.slow
def test_the_commands_of_the_page_work(tmp_path: Path) -> None:
    """The configuration and the program of docs/how-to/inference-protocol.md, next to a camera."""
    page = (ROOT / "docs" / "how-to" / "inference-protocol.md").read_text(encoding="utf-8")
    (configuration,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    configuration = configuration.replace("8081", "0") + "streams: {s0: {url: 'test://?size=320x180&fps=5'}}\n"
    with ServeProcess(tmp_path, configuration) as process:
        grpc_address = re.search(r"over gRPC on (\S+)", process.log)
        assert grpc_address, process.log
        by_http = program.replace("tritonclient.grpc", "tritonclient.http").replace(", client_timeout=5", "")
        for text, address in ((program, grpc_address[1]), (by_http, f"127.0.0.1:{process.port}")):
            command = [sys.executable, "-c", text.replace("127.0.0.1:8081", address)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG_S * 2, check=False)
            assert (done.returncode, "b'car'" in done.stdout) == (0, True), done.stderr
        process.wait(lambda: process.streams()["s0"]["status"]["results"] > 5, "results of the camera")
        assert process.stop()[0] == 0
