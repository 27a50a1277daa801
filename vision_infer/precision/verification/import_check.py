"""Every import is proved: the deployment graph against the network as it came, on pictures, alone and in batches.

The raw network's outputs are decoded once more, in NumPy (``reference_heads``), and the graph has to
give the same boxes and scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import ModelError, StreamError, UsageError
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.engine import HostSlot
from vision_infer.engine.runtimes.raw_model import RawSession
from vision_infer.model.importing import Proposal
from vision_infer.precision.verification.reference_heads import DETECTORS, VECTORS, Arrays, Raw
from vision_infer.stream.files.images import read_image
from vision_infer.stream.image import ArrayImage

BATCHES = (1, 2, 5)
BOX_TOLERANCE = 1e-2
"""input pixels; of coordinates beyond :data:`FAR`, in proportion"""
UNTRAINED_BOX_TOLERANCE = 1e-1
"""the same of a network with random weights, which makes more of the last bit of its input"""
SCORE_TOLERANCE = 1e-5
HALF_BOX_TOLERANCE, HALF_SCORE_TOLERANCE = 1 / 128, 4e-3
"""of a network in float16, whose 11 bits are rounded at other places where other nodes follow: a share of the input; a score"""
FAR = 4096.0
"""pixels: float32 does not hold larger coordinates as exactly, and only networks without training give them"""
PICTURES = max(BATCHES)
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class _Tolerance:
    """How far a graph may be from its network."""

    boxes: float
    """input pixels"""
    scores: float


@dataclass(frozen=True, slots=True)
class Proof:
    """How near a graph is to the network that it was made of."""

    where: str
    size: Size
    pictures: str
    against: str
    """what it was compared with"""
    boxes: float
    """largest difference, input pixels; 0 where the task has none"""
    values: float
    """largest difference of scores, or of the elements of an embedding"""
    task: str

    def __str__(self) -> str:
        batches = f"{', '.join(map(str, BATCHES[:-1]))} and {BATCHES[-1]}"
        values = "values" if self.task == "embed" else "scores"
        boxes = f"boxes within {self.boxes:.2g} px, " if self.task == "detect" else ""
        size = f"{self.size.width} wide and {self.size.height} high"
        return (
            f"{self.where}: proved {size}, in batches of {batches}, on {self.pictures}, against {self.against}: "
            f"{boxes}{values} within {self.values:.1g}"
        )


def read_pictures(folder: Path) -> list[NDArray[np.uint8]]:
    """Five pictures of a folder, evenly from all of it; fewer where there are fewer.

    Returns:
        Each uint8 [H, W, 3] RGB.

    Raises:
        UsageError: there are none that can be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise UsageError(f"--pictures {folder}: {error.strerror or error}", "give a folder of pictures") from error
    chosen = [files[index] for index in np.unique(np.linspace(0, len(files) - 1, PICTURES).astype(int))] if files else []
    found = []
    for path in chosen:
        try:
            found.append(read_image(str(path)))
        except StreamError as error:
            raise UsageError(error.message, "leave it out of the folder of --pictures") from error
    if not found:
        raise UsageError(f"--pictures {folder}: holds no pictures", f"give a folder of {', '.join(_SUFFIXES[:3])} files")
    return found


@cache
def made_up_pictures() -> tuple[NDArray[np.uint8], ...]:
    """Five pictures of gradients, patches, bars and noise: edges and areas of all sizes. Each uint8 [240, 320, 3]."""
    found = []
    for number in range(PICTURES):
        random = np.random.default_rng(number)
        rows, columns = np.mgrid[0:240, 0:320].astype(np.float32)
        angle = random.uniform(0, np.pi)
        slope = np.cos(angle) * columns / 320 + np.sin(angle) * rows / 240
        image = slope[..., None] * random.uniform(-160, 160, 3) + random.uniform(60, 200, 3)
        for _ in range(12):
            x, y, half = random.uniform(0, 320), random.uniform(0, 240), random.uniform(4, 70)
            tall, square = random.uniform(0.4, 2.5), random.random() < 0.5
            apart = np.abs(columns - x), np.abs(rows - y)
            far = np.maximum(apart[0], apart[1] / tall) if square else np.hypot(*apart)
            bars = 1 + 0.4 * np.sign(np.sin((columns + rows * tall) / random.uniform(1, 10)))
            inside = far < half
            image[inside] = bars[inside, None] * random.uniform(0, 220, 3)
        noise = random.normal(0, 24, (60, 80, 3)).repeat(4, axis=0).repeat(4, axis=1) + random.normal(0, 6, (240, 320, 3))
        found.append(np.clip(image + noise, 0, 255).astype(np.uint8))
    return tuple(found)


def prove_import(proposal: Proposal, pictures: Sequence[NDArray[np.uint8]] | None = None, untrained: bool = False) -> list[Proof]:
    """Run each graph of a proposed model, and the network it was made of, on the same pictures.

    Args:
        proposal: the model, not yet in its place.
        pictures: uint8 [H, W, 3] RGB each; None: made-up ones.
        untrained: its weights are random.

    Returns:
        A proof for each input size.

    Raises:
        ModelError: the graph gives something else than the network, or one of them cannot be run or gives no numbers.
    """
    shown = made_up_pictures() if pictures is None else pictures
    told = f"{len(shown)} {'made-up ' if pictures is None else ''}picture{'' if len(shown) == 1 else 's'}"
    shown = [shown[index % len(shown)] for index in range(PICTURES)]
    proofs = []
    for size, path in proposal.graphs.items():
        images = fit_pictures(shown, size, proposal.card)
        graph = RawSession(path)
        alone = [_finite(graph.run({"images": images[index : index + 1]}), proposal.where) for index in range(PICTURES)]
        _check_values(alone, size, proposal)
        tolerance = _tolerance(proposal, size, untrained)
        expected, against = _expected(proposal, size, images, alone, tolerance)
        worst = [0.0, 0.0]
        for count in BATCHES:
            for start in range(0, PICTURES if count == 1 else 1, count):
                found = alone[start] if count == 1 else _finite(graph.run({"images": images[:count]}), proposal.where)
                for place in range(count):
                    one = {name: array[place] for name, array in found.items()}
                    differences = _differences(one, expected[start + place], tolerance)
                    _check(proposal, size, count, differences, tolerance)
                    worst = [max(pair) for pair in zip(worst, differences, strict=True)]
        proofs.append(Proof(proposal.where, size, told, against, worst[0], worst[1], proposal.card.task))
    return proofs


def _tolerance(proposal: Proposal, size: Size, untrained: bool) -> _Tolerance:
    if not proposal.half:
        return _Tolerance(UNTRAINED_BOX_TOLERANCE if untrained else BOX_TOLERANCE, SCORE_TOLERANCE)
    return _Tolerance(HALF_BOX_TOLERANCE * max(size.width, size.height), HALF_SCORE_TOLERANCE)


def fit_pictures(pictures: Sequence[NDArray[np.uint8]], size: Size, card: ModelCard) -> NDArray[np.uint8]:
    """The pictures as a run writes them into an engine's slots, [P, H, W, 3]."""
    images = np.empty((len(pictures), size.height, size.width, 3), np.uint8)
    for place, pixels in zip(images, pictures, strict=True):
        image = ArrayImage(pixels)
        image.write_into(HostSlot(place), letterbox(image.size, size, card.fit, card.fill))
    return images


def _expected(
    proposal: Proposal, size: Size, images: NDArray[np.uint8], alone: list[Arrays], tolerance: _Tolerance
) -> tuple[list[Arrays], str]:
    """What the graph has to give for each picture, and where that is from."""
    raw, head = proposal.raws.get(size), proposal.card.head
    if raw is None or (head not in DETECTORS and head not in VECTORS):
        reason = "it came as a deployment graph" if raw is None else f"head '{head}' has no reference"
        return [{name: array[0] for name, array in one.items()} for one in alone], f"itself alone, for {reason}"
    session = RawSession(raw)
    runs = [_finite(session.run(_feeds(session, image, size, proposal.card)), proposal.where) for image in images]
    outputs = {name: np.concatenate([one[name][:1] for one in runs]) for name in runs[0]}
    labels = proposal.card.labels
    given = Raw(outputs, size, None if labels is None else len(labels), proposal.scores)
    source = "the network as it came" if raw.name == proposal.where else "the network, rewritten for this size"
    try:
        if head in VECTORS:
            name = "embedding" if head == "embed" else "scores"
            return [{name: row} for row in VECTORS[head](given)], source
        pairs = DETECTORS[head](given)
    except (ValueError, IndexError, StopIteration) as error:
        message = f"{proposal.where}: its outputs cannot be read as those of head '{head}': {error}"
        raise ModelError(message, "is it of that family? see --head, --labels and --scores") from error
    # All that may stand among the graph's: scores that nearly tie come in any order.
    least = [float(one["scores"].min()) - tolerance.scores for one in alone]
    return [pairs.above(index, least[index]) for index in range(PICTURES)], source


def _feeds(session: RawSession, image: NDArray[np.uint8], size: Size, card: ModelCard) -> Arrays:
    """The raw network's inputs for one picture."""
    values = normalise(image, card)
    feeds: Arrays = {}
    for name, (shape, dtype) in session.inputs.items():
        one = values[None].astype(dtype) if len(shape) == 4 else np.array([[size.width, size.height]]).astype(dtype)
        feeds[name] = one.repeat(shape[0] or 1, axis=0)  # a file whose batch is fixed gets the same picture in all its places
    return feeds


def normalise(image: NDArray[np.uint8], card: ModelCard) -> NDArray[np.float32]:
    """A fitted picture [H, W, 3] as the network wants it, [3, H, W]: in float32 and with the reciprocal, as in the graph.

    Otherwise the last bit of the input would be another one, and a deep network makes 2e-5 of that.
    """
    values = (image[:, :, ::-1] if card.color == "bgr" else image).astype(np.float32)
    values = (values - np.array(card.mean, np.float32)) * (1 / np.array(card.std, np.float64)).astype(np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _finite(outputs: Arrays, where: str) -> Arrays:
    for name, array in outputs.items():
        if np.isnan(array).any():
            message = f"{where}: its output '{name}' holds values that are no numbers (NaN)"
            raise ModelError(message, "the network is broken, or normalised otherwise: see --mean and --std")
    return outputs


def _check_values(alone: list[Arrays], size: Size, proposal: Proposal) -> None:
    """What has to hold whatever the reference says: scores are 0–1, boxes are in pixels, embeddings have the length 1."""
    where = proposal.where
    if "embedding" in alone[0]:
        if not all(np.allclose(np.linalg.norm(one["embedding"][0]), 1, atol=1e-4) for one in alone):
            raise ModelError(f"{where}: gives a vector of zeros", "is it an embedder, and the normalisation right?")
        return
    low, high = (float(best([best(one["scores"]) for one in alone])) for best in (np.min, np.max))
    if low < -SCORE_TOLERANCE or high > 1 + SCORE_TOLERANCE:
        message = f"{where}: its scores are {low:.3g} to {high:.3g}, and no probabilities"
        raise ModelError(message, "say --scores sigmoid or softmax, or another --head")
    far = max(float(np.abs(one["boxes"]).max()) for one in alone) if "boxes" in alone[0] else 0.0
    if proposal.card.head == "detr" and far > 10 * max(size.width, size.height):
        message = f"{where}: its boxes reach as far as {far:.0f} pixels: they are no shares of the input"
        raise ModelError(message, "is it of head 'detr'?")
    if proposal.card.head in ("yolov5", "yolov8", "end2end") and far <= 2:
        message = f"{where}: its boxes reach no further than 2: they are shares of the input, and not pixels"
        raise ModelError(message, "export it with boxes in pixels")


def _differences(found: Arrays, expected: Arrays, tolerance: _Tolerance) -> tuple[float, float]:
    """The largest difference of boxes and of values; infinite where a class is missing altogether."""
    if "boxes" not in found:
        (name,) = found
        return 0.0, float(np.abs(found[name] - expected[name]).max())
    count = len(found["scores"])
    best = {name: array[:count] for name, array in expected.items()}
    last = best["scores"][-1] if len(best["scores"]) else 0.0
    # What has the last score may be another of the same score.
    sure = best["scores"] > last + tolerance.scores if len(expected["scores"]) > count else np.ones(len(best["scores"]), bool)
    there = _nearest(found, expected, tolerance)
    back = _nearest({name: array[sure] for name, array in best.items()}, found, tolerance)
    return max(there[0], back[0]), max(there[1], back[1])


def _nearest(left: Arrays, right: Arrays, tolerance: _Tolerance) -> tuple[float, float]:
    """For each box on the left the nearest of its class on the right: the largest differences of boxes and scores.

    They are matched by class, box and score and never by rank, for scores that tie may come in any order.
    """
    worst = [0.0, 0.0]
    for kind in np.unique(left["class_ids"]):
        ours, theirs = left["class_ids"] == kind, right["class_ids"] == kind
        if not theirs.any():
            return np.inf, np.inf
        scale = np.maximum(1, np.abs(left["boxes"][ours]) / FAR)[:, None]
        boxes = (np.abs(left["boxes"][ours][:, None] - right["boxes"][theirs][None]) / scale).max(axis=2)
        scores = np.abs(left["scores"][ours][:, None].astype(np.float64) - right["scores"][theirs][None])
        nearest = np.argmin(boxes / tolerance.boxes + scores / tolerance.scores, axis=1)
        rows = np.arange(len(nearest))
        worst = [max(worst[0], float(boxes[rows, nearest].max())), max(worst[1], float(scores[rows, nearest].max()))]
    return worst[0], worst[1]


def _check(proposal: Proposal, size: Size, count: int, differences: tuple[float, float], tolerance: _Tolerance) -> None:
    boxes, values = differences
    if boxes <= tolerance.boxes and values <= tolerance.scores:
        return
    seen = "a class of it is missing" if np.isinf(boxes) else f"boxes differ by {boxes:.2g} px, values by {values:.2g}"
    if count == 1:
        message = (
            f"{proposal.where}: the graph does not give what the network gives ({size.width} wide, {size.height} high): {seen}"
        )
        raise ModelError(message, f"is it of head '{proposal.card.head}'? see --head, --labels and --scores")
    message = f"{proposal.where}: gives something else in a batch of {count} than for each picture alone: {seen}"
    raise ModelError(message, "a batch is fixed inside of it: export it with a dynamic batch")
