"""Every export is proved: the deployment graph, run by ONNX Runtime, against the network as PyTorch runs it.

PyTorch's outputs are decoded in NumPy (``reference_heads``), and the graph has to give the same on the
same pictures, alone and in batches. Two programs add up in another order, so that the last digits differ, and where scores
nearly tie a network that chooses inside (a DETR) may choose another query: what agrees is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.engine.runtimes.raw_model import RawSession
from vision_infer.model.importing import Proposal
from vision_infer.precision.verification.import_check import BATCHES, FAR, PICTURES, fit_pictures, made_up_pictures, normalise
from vision_infer.precision.verification.reference_heads import DETECTORS, VECTORS, Arrays, Raw

BOX_TOLERANCE = 1e-3
"""a share of the input's longer side"""
SCORE_TOLERANCE = 1e-3
MIN_AGREEMENT = 99.0
"""per cent of the boxes that have to be the same; of classes and embeddings all have to be"""
Run = Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]
"""float32 [B, 3, H, W], normalised, to the network's outputs by name"""


@dataclass(frozen=True, slots=True)
class ExportProof:
    """How near a graph is to the network as PyTorch runs it."""

    where: str
    size: Size
    pictures: str
    task: str
    boxes: float
    """largest difference of boxes that agree, input pixels; 0 where the task has none"""
    values: float
    """largest difference of their scores, or of the elements of an embedding"""
    agreement: float
    """per cent: of boxes that both give, of pictures with the same best class, of embeddings with the same direction"""
    compared: int
    """how many of those there were"""

    def __str__(self) -> str:
        batches = f"{', '.join(map(str, BATCHES[:-1]))} and {BATCHES[-1]}"
        unit = {"detect": "boxes", "classify": "best classes", "embed": "embeddings"}[self.task]
        boxes = f"boxes within {self.boxes:.2g} px, " if self.task == "detect" else ""
        values = "values" if self.task == "embed" else "scores"
        return (
            f"{self.where}: against PyTorch {self.size.width} wide and {self.size.height} high, in batches of {batches}, "
            f"on {self.pictures}: {boxes}{values} within {self.values:.1g}, "
            f"{self.agreement:.4g} % of {self.compared} {unit} agree"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found = {"width": self.size.width, "height": self.size.height, "batches": list(BATCHES), "pictures": self.pictures}
        found |= {"boxes_px": self.boxes} if self.task == "detect" else {}
        return found | {"values": self.values, "agreement_percent": round(self.agreement, 3), "compared": self.compared}


def prove_export(
    proposal: Proposal, runs: Mapping[Size, Run], pictures: Sequence[NDArray[np.uint8]] | None = None
) -> list[ExportProof]:
    """Run each graph of a proposed model, and the network in PyTorch, on the same pictures.

    Args:
        proposal: the model, not yet in its place.
        runs: the network in PyTorch, by input size.
        pictures: uint8 [H, W, 3] RGB each; None: made-up ones.

    Returns:
        A proof for each input size.

    Raises:
        ModelError: the graph gives something else than PyTorch, or PyTorch gives no numbers.
    """
    shown = made_up_pictures() if pictures is None else pictures
    told = f"{len(shown)} {'made-up ' if pictures is None else ''}picture{'' if len(shown) == 1 else 's'}"
    shown = [shown[index % len(shown)] for index in range(PICTURES)]
    proofs = []
    for size, run in runs.items():
        images = fit_pictures(shown, size, proposal.card)
        expected = _expected(proposal, size, run, images)
        graph = RawSession(proposal.graphs[size])
        seen = _Seen(proposal.card.task, BOX_TOLERANCE * max(size.width, size.height))
        for count in BATCHES:
            for start in range(0, PICTURES if count == 1 else 1, count):
                found = graph.run({"images": images[start : start + count]})
                for place in range(count):
                    seen.add({name: array[place] for name, array in found.items()}, start + place, expected)
        proof = ExportProof(
            proposal.where, size, told, proposal.card.task, seen.boxes, seen.values, seen.agreement, seen.compared
        )
        _check(proof)
        proofs.append(proof)
    return proofs


def _expected(proposal: Proposal, size: Size, run: Run, images: NDArray[np.uint8]) -> Callable[[int, float], Arrays]:
    """What PyTorch gives for a picture, decoded; of a detector all pairs of box and class from a score on."""
    rows = [run(normalise(image, proposal.card)[None]) for image in images]
    outputs = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    for name, array in outputs.items():
        if np.isnan(array).any():
            message = f"{proposal.where}: PyTorch gives values that are no numbers (NaN) as '{name}'"
            raise ModelError(message, "the weights are broken, or of another network")
    labels, head = proposal.card.labels, proposal.card.head
    raw = Raw(outputs, size, None if labels is None else len(labels), proposal.scores)
    if head in VECTORS:
        vectors, name = VECTORS[head](raw), "embedding" if head == "embed" else "scores"
        return lambda image, _: {name: vectors[image]}
    if head not in DETECTORS:
        raise ModelError(f"{proposal.where}: head '{head}' has no reference", "add it to precision/reference_heads.py")
    return DETECTORS[head](raw).above


class _Seen:
    """What was compared so far."""

    def __init__(self, task: str, box_tolerance: float) -> None:
        self._task = task
        self._box_tolerance = box_tolerance
        self.boxes = self.values = 0.0
        self.compared = self._same = 0

    @property
    def agreement(self) -> float:
        """Per cent."""
        return 100 * self._same / self.compared if self.compared else 0.0

    def add(self, found: Arrays, image: int, expected: Callable[[int, float], Arrays]) -> None:
        """Compare what the graph gives for a picture."""
        if self._task == "detect":
            truth = expected(image, float(found["scores"].min()) - SCORE_TOLERANCE)
            # What nearly has the last score may be another of the same score.
            sure = truth["scores"] > found["scores"].min() + SCORE_TOLERANCE
            self._match(found, truth)
            self._match({name: array[sure] for name, array in truth.items()}, found)
            return
        (name,) = found
        ours, theirs = found[name].astype(np.float64), expected(image, 0.0)[name]
        difference = float(np.abs(ours - theirs).max())
        self.values = max(self.values, difference)
        best = theirs[ours.argmax()] >= theirs.max() - SCORE_TOLERANCE
        self._same += bool(best) if self._task == "classify" else difference <= SCORE_TOLERANCE
        self.compared += 1

    def _match(self, left: Arrays, right: Arrays) -> None:
        """For each box on the left the nearest of its class on the right, by box and score and never by rank."""
        self.compared += len(left["scores"])
        for kind in np.unique(left["class_ids"]):
            ours, theirs = left["class_ids"] == kind, right["class_ids"] == kind
            if not theirs.any():
                continue
            scale = np.maximum(1, np.abs(left["boxes"][ours]) / FAR)[:, None]
            boxes = (np.abs(left["boxes"][ours][:, None] - right["boxes"][theirs][None]) / scale).max(axis=2)
            scores = np.abs(left["scores"][ours][:, None].astype(np.float64) - right["scores"][theirs][None])
            rows, nearest = np.arange(len(boxes)), np.argmin(boxes / self._box_tolerance + scores / SCORE_TOLERANCE, axis=1)
            box, score = boxes[rows, nearest], scores[rows, nearest]
            same = (box <= self._box_tolerance) & (score <= SCORE_TOLERANCE)
            self._same += int(same.sum())
            self.boxes = max(self.boxes, float(box[same].max(initial=0)))
            self.values = max(self.values, float(score[same].max(initial=0)))


def _check(proof: ExportProof) -> None:
    least = MIN_AGREEMENT if proof.task == "detect" else 100.0
    if proof.agreement >= least and (proof.task == "detect" or proof.values <= SCORE_TOLERANCE):
        return
    seen = f"{proof.agreement:.4g} % of {proof.compared} agree, values differ by up to {proof.values:.2g}"
    message = (
        f"{proof.where}: the graph does not give what PyTorch gives ({proof.size.width} wide, {proof.size.height} high): {seen}"
    )
    raise ModelError(message, "this network is not exported faithfully: try another --opset, and report it")
