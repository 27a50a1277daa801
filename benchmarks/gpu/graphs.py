"""The inputs of the engines: the bundled model in three precisions, and images."""

from __future__ import annotations

from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import onnx

from benchmarks.inputs import ASSETS, RESULTS, clip, graph
from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import letterbox
from vision_infer.engine.engine import HostSlot
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.precision.frames import FrameSet
from vision_infer.precision.quantization.fp16 import float_tensors, large_tensors, to_half
from vision_infer.precision.quantization.int8 import Int8Recipe, calibrated_tensors, quantize, simplify
from vision_infer.precision.quantization.ranges import collect_activations, find_ranges
from vision_infer.precision.verification.agreement import Judge
from vision_infer.stream.find import find_sources, open_source

IMAGES = 40
CALIBRATION = 16
PHOTOGRAPHS = ASSETS / "images" / "coco_val_ccby" / "images"


def sample_images(card: ModelCard) -> tuple[FrameSet, str]:
    """Return letterboxed images and their description: 40 photographs of COCO if they are here, otherwise frames of a clip.

    Raises:
        InputMissingError: If there is no clip either.
    """
    source = PHOTOGRAPHS if PHOTOGRAPHS.is_dir() else clip("768x432")
    pixels, layouts, names = [], [], []
    with open_source(find_sources([str(source)]).specs[0]) as opened:
        for frame in islice(opened.frames(), IMAGES):
            layout = letterbox(frame.image.size, card.input_size, card.fit, card.fill)
            slot = HostSlot(np.zeros((card.input.height, card.input.width, 3), np.uint8))
            frame.image.write_into(slot, layout)
            pixels.append(slot.pixels)
            layouts.append(layout)
            names.append(str(frame.index))
    kind = "photographs of COCO" if source == PHOTOGRAPHS else f"frames of {source.name}"
    return FrameSet(pixels, tuple(layouts), tuple(names)), f"{len(names)} {kind}"


class Inputs:
    """What the parts of the benchmark share. Each value is made when it is used first.

    Args:
        folder: The folder of the graphs that are made.
    """

    def __init__(self, folder: Path = RESULTS / "gpu-graphs") -> None:
        self._folder = folder

    @cached_property
    def card(self) -> ModelCard:
        """The card of the bundled model."""
        return read_graph_facts(graph("nanodet")).card

    @cached_property
    def frames(self) -> FrameSet:
        """The images."""
        return sample_images(self.card)[0]

    @cached_property
    def judge(self) -> Judge:
        """Compares engines with ONNX Runtime in FP32 on the CPU."""
        reference = open_engine(graph("nanodet"), EngineRequest("onnxruntime-cpu-fp32", "cpu", workers=1))
        return Judge(reference, self.frames)

    @cached_property
    def _made(self) -> dict[str, Path]:
        self._folder.mkdir(parents=True, exist_ok=True)
        return precisions(self._folder, self.frames)

    def graph(self, precision: str) -> Path:
        """Return the bundled model in a precision: ``fp32``, ``fp16`` or ``int8``."""
        return graph("nanodet") if precision == "fp32" else self._made[precision]


def precisions(folder: Path, frames: FrameSet) -> dict[str, Path]:
    """Return the bundled model by precision: unmodified, in FP16, and in INT8 in TensorRT's form with all layers.

    INT8 is calibrated on some of the evaluated images. That is enough to verify the computation of the engine, but it does not
    measure the accuracy of INT8; see docs/reference/measured-precision.md.
    """
    source = graph("nanodet")
    name = read_graph_facts(source).card.name
    simple, calibration = simplify(onnx.load(str(source)), name), frames.pixels[:CALIBRATION]
    large = large_tensors(collect_activations(simple, float_tensors(simple), calibration, name))
    ranges = find_ranges(collect_activations(simple, calibrated_tensors(simple), calibration, name), "squares")
    made = {"fp16": to_half(simple, large, name).model, "int8": quantize(simple, ranges, Int8Recipe("tensorrt"), name)}
    paths = {"fp32": source, **{precision: folder / f"{precision}.onnx" for precision in made}}
    for precision, model in made.items():
        onnx.save(model, str(paths[precision]))
    return paths
