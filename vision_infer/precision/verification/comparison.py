"""What the verifications of imports and exports share: the images, the batches, and the matching of boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import ModelError, StreamError, UsageError
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.engine import HostSlot
from vision_infer.engine.runtimes.raw_model import RawSession
from vision_infer.model.heads import find_head
from vision_infer.model.importing import Proposal
from vision_infer.model.reference import Arrays, RawOutputs, ReferenceBoxes
from vision_infer.stream.files.images import read_image
from vision_infer.stream.image import ArrayImage

BATCHES = (1, 2, 5)
IMAGES = max(BATCHES)
FAR = 4096.0
"""The coordinate, in pixels, from which differences count in proportion: float32 cannot represent larger coordinates as exactly,
and only models without training return them."""
COARSE = 100
"""The ratio of the tolerances of mask coefficients, prototypes and angles to that of scores."""
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class GraphVerification:
    """The differences between a deployment graph and the model that it was made from."""

    where: str
    size: Size
    images: str
    against: str
    """What the graph was compared with."""
    task: str
    boxes: float
    """The largest difference of boxes or keypoints, in input pixels; 0 if the task has none."""
    values: float
    """The largest difference of scores, or of the elements of an embedding; or the share of pixels with another class."""
    agreement: float = 100.0
    """The percentage of boxes found by both, of images with the same best class, or of equal embeddings, pixels or keypoints."""
    compared: int = 0
    """The number of boxes, images, embeddings, pixels or keypoints in the agreement; 0: all must be equal."""
    mask_iou: float | None = None
    """The mean IoU of the masks of boxes found by both; None if there are no masks, or if their parts were compared instead."""
    batches: tuple[int, ...] = BATCHES
    """The batch sizes at which the graph ran."""

    def __str__(self) -> str:
        places = {"detect": "boxes", "keypoints": "keypoints"}.get(self.task)
        boxes = "" if places is None else f"{places} within {self.boxes:.2g} px, "
        values = {"embed": "values", "segment": "share of other pixels"}.get(self.task, "scores")
        *smaller, largest = map(str, self.batches)
        batches = f"batches of {', '.join(smaller)} and {largest}" if smaller else f"batches of {largest}"
        units = {"classify": "best classes", "embed": "embeddings", "segment": "pixels", "keypoints": "keypoints"}
        unit = units.get(self.task, "boxes")
        agree = f", {self.agreement:.4g} % of {self.compared} {unit} agree" if self.compared else ""
        agree += "" if self.mask_iou is None else f", masks with a mean IoU of {self.mask_iou:.4f}"
        return (
            f"{self.where}: verified at {self.size} (width x height), in {batches}, on {self.images}, "
            f"against {self.against}: {boxes}{values} within {self.values:.1g}{agree}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        found = {"width": self.size.width, "height": self.size.height, "batches": list(self.batches), "pictures": self.images}
        found |= {"boxes_px": self.boxes} if self.task in ("detect", "keypoints") else {}
        found |= {} if self.mask_iou is None else {"mask_iou": round(self.mask_iou, 5)}
        return found | {"values": self.values, "agreement_percent": round(self.agreement, 3), "compared": self.compared}


def compared_as(card: ModelCard) -> str:
    """Return the task as which the outputs of a graph are compared: those of a text detector are maps."""
    return card.task if card.unclip is None else "segment"


def read_images(folder: Path) -> list[NDArray[np.uint8]]:
    """Read five images of a folder, evenly spread over its files; fewer if it has fewer.

    Returns:
        The images, uint8 [H, W, 3] RGB each.

    Raises:
        UsageError: The folder has no images that can be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise UsageError(f"--images {folder}: {error.strerror or error}", "Give a folder of images.") from error
    chosen = [files[index] for index in np.unique(np.linspace(0, len(files) - 1, IMAGES).astype(int))] if files else []
    found = []
    for path in chosen:
        try:
            found.append(read_image(str(path)))
        except StreamError as error:
            raise UsageError(error.message, "Remove the file from the folder of --images.") from error
    if not found:
        raise UsageError(f"--images {folder}: the folder has no images", f"Give a folder of {', '.join(_SUFFIXES[:3])} files.")
    return found


@cache
def synthetic_images() -> tuple[NDArray[np.uint8], ...]:
    """Return five images of gradients, patches, bars and noise, with edges and areas of all sizes; uint8 [240, 320, 3] each."""
    found = []
    for number in range(IMAGES):
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


def choose_images(images: Sequence[NDArray[np.uint8]] | None) -> tuple[list[NDArray[np.uint8]], str]:
    """Return five images to verify on, and their description; None selects the synthetic ones."""
    given = synthetic_images() if images is None else images
    text = f"{len(given)} {'synthetic ' if images is None else ''}image{'' if len(given) == 1 else 's'}"
    return [given[index % len(given)] for index in range(IMAGES)], text


def fit_images(images: Sequence[NDArray[np.uint8]], size: Size, card: ModelCard) -> NDArray[np.uint8]:
    """Return the images as a run writes them into an engine's slots, [P, H, W, 3]."""
    fitted = np.empty((len(images), size.height, size.width, 3), np.uint8)
    for slot, pixels in zip(fitted, images, strict=True):
        image = ArrayImage(pixels)
        image.write_into(HostSlot(slot), letterbox(image.size, size, card.fit, card.fill))
    return fitted


def normalize(image: NDArray[np.uint8], card: ModelCard) -> NDArray[np.float32]:
    """Return a fitted image [H, W, 3] as the raw model expects it, [3, H, W].

    The arithmetic is that of the graph: in float32, and with the reciprocal. Otherwise the last bit of the input would differ,
    which a deep model amplifies to 2e-5.
    """
    values = (image[:, :, ::-1] if card.color == "bgr" else image).astype(np.float32)
    values = (values - np.array(card.mean, np.float32)) * (1 / np.array(card.std, np.float64)).astype(np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def run_batches(
    graph: RawSession, images: NDArray[np.uint8], batches: Sequence[int] = BATCHES
) -> Iterator[tuple[int, int, Arrays]]:
    """Run a deployment graph on each image alone, then on the first images in batches.

    Yields:
        The size of the batch, the index of the image, and its outputs by name.
    """
    for count in batches:
        for start in range(len(images) if count == 1 else 1):
            outputs = graph.run({"images": images[start : start + count]})
            for place in range(count):
                yield count, start + place, {name: array[place] for name, array in outputs.items()}


def require_numbers(outputs: Arrays, where: str) -> Arrays:
    """Return the outputs unless one contains NaN.

    Raises:
        ModelError: An output contains NaN.
    """
    for name, array in outputs.items():
        if np.isnan(array).any():
            hint = "The model or its weights are damaged, or it needs another normalization; see --mean and --std."
            raise ModelError(f"{where}: the output '{name}' contains NaN", hint)
    return outputs


def decode(proposal: Proposal, size: Size, outputs: Arrays) -> Callable[[int, float], Arrays]:
    """Decode the outputs of a raw model with the reference of its head.

    Returns:
        A function that returns the results for an image; for a detector, all boxes with at least a score.
    """
    card = proposal.card
    points = 0 if card.keypoints is None else len(card.keypoints.names)
    raw = RawOutputs(outputs, size, None if card.labels is None else len(card.labels), proposal.scores, points)
    reference = find_head(card.head).reference(raw)
    if isinstance(reference, ReferenceBoxes):
        return reference.above
    return lambda image, _: {card.outputs[0]: reference[image]}


def nearest(
    left: Arrays, right: Arrays, box_tolerance: float, score_tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    """Return the differences of each box on the left to the nearest box of its class on the right.

    Boxes are matched by class, box, score and details, never by rank, because equal scores may come in any order.

    Returns:
        The differences of coordinates and of other values, float64 [n] each, infinite where the right has no box of the class;
        and the index of the nearest box, intp [n], there 0.
    """
    boxes, scores = np.full(len(left["scores"]), np.inf), np.full(len(left["scores"]), np.inf)
    index = np.zeros(len(boxes), np.intp)
    for kind in np.unique(left["class_ids"]):
        ours, theirs = left["class_ids"] == kind, right["class_ids"] == kind
        if not theirs.any():
            continue
        (places, values), (other_places, other_values) = _numbers(left, ours), _numbers(right, theirs)
        scale = np.maximum(1, np.abs(places) / FAR)[:, None]
        box = (np.abs(places[:, None] - other_places[None]) / scale).max(axis=2)
        score = np.abs(values[:, None] - other_values[None]).max(axis=2)
        rows, best = np.arange(len(box)), np.argmin(box / box_tolerance + score / score_tolerance, axis=1)
        boxes[ours], scores[ours], index[ours] = box[rows, best], score[rows, best], np.flatnonzero(theirs)[best]
    return boxes, scores, index


def _numbers(found: Arrays, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return all coordinates of the chosen boxes, [n, D], pixels, and all other values, [n, E].

    Coefficients of masks and angles are divided by 100, so that their tolerance is 0.001: a mask is the sign of a sum, and a
    rotation by 0.001 radians moves no corner of a box in the input by more than a pixel.
    """
    places, values = [found["boxes"]], [found["scores"][:, None]]
    if "keypoints" in found:
        points = found["keypoints"]
        places.append(points[..., :2].reshape(len(points), -1))
        values.append(points[..., 2])
    if "rotated_boxes" in found:
        places.append(found["rotated_boxes"][:, :4])
        values.append(found["rotated_boxes"][:, 4:] / COARSE)
    if "coefficients" in found:
        values.append(found["coefficients"] / COARSE)
    chosen_places, chosen_values = (np.concatenate(parts, axis=1)[chosen] for parts in (places, values))
    return chosen_places.astype(np.float64), chosen_values.astype(np.float64)
