"""The detections of one frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.description import Description
from vision_infer.core.details import Details, Keypoints, Masks, RotatedBoxes
from vision_infer.core.geometry import Size
from vision_infer.core.packages import require

if TYPE_CHECKING:
    import supervision


LabelText = Literal["scores", "names", "none"]
"""The text at the boxes of drawn detections: labels with scores, labels only, or no text."""
SHOWN = 5
"""The maximum number of detections in the text of ``repr()``."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One of the :class:`Detections` of a frame, as plain values."""

    label: str
    """The label of the class; its number if the model has no labels."""
    score: float
    """The score, 0–1."""
    box: tuple[float, float, float, float]
    """The edges x1, y1, x2, y2, pixels of the source image."""
    class_id: int
    track_id: int | None = None
    """The number of the track, from 1; None without tracking, or without a track."""
    description: Description | None = None
    """The output of a secondary model; None if there is none."""
    keypoints: list[list[float]] | None = None
    """Each keypoint's x and y, pixels of the source image, and score, 0–1; None for a model without keypoints."""
    mask: dict[str, Any] | None = None
    """The mask as run lengths in the format of COCO, which ``pycocotools.mask.decode`` reads; None for a model without masks."""
    box_rotated: list[float] | None = None
    """Center x and y, width, height in pixels, and angle in radians; None for a model without rotated boxes."""
    identity: int | None = None
    """The number of the object, from 1, which stays the same when it comes back; None without re-identification."""

    def __str__(self) -> str:
        track = "" if self.track_id is None else f" #{self.track_id}"
        return f"{self.label}{track} {self.score:.2f} [{', '.join(f'{edge:.0f}' for edge in self.box)}]"


@dataclass(frozen=True, slots=True, repr=False)
class Detections:
    """Boxes, scores and classes of one frame, best score first unless tracked.

    It is a sequence of :class:`Detection`: ``found[0]``, ``for one in found``, ``len(found)``. A slice, a mask or an array of
    numbers selects some of them: ``found[found.scores > 0.5]``.
    """

    boxes: NDArray[np.float32]
    """The boxes, float32 [N, 4] xyxy, pixels of the source image."""
    scores: NDArray[np.float32]
    """The scores, float32 [N], 0–1."""
    class_ids: NDArray[np.int32]
    """The class numbers, int32 [N]."""
    label_names: tuple[str, ...] | None = None
    """The labels by class number; None: the number is the label."""
    track_ids: NDArray[np.int32] | None = None
    """The track numbers, int32 [N], from 1, 0 for a detection without a track; None without tracking."""
    descriptions: tuple[Description | None, ...] | None = None
    """N descriptions by a secondary model, None for a detection without one; None if there is no secondary model."""
    details: Details | None = None
    """The keypoints, masks or rotated boxes of the N detections; None for a model without them, or without detections."""
    identities: NDArray[np.int32] | None = None
    """The numbers of the objects, int32 [N], from 1, 0 while one is not known; None without re-identification."""

    def __post_init__(self) -> None:
        count = self.scores.shape[0] if self.scores.ndim == 1 else -1
        if self.boxes.shape != (count, 4):
            raise ValueError(f"boxes must be [N, 4] with N scores, got {self.boxes.shape} with scores {self.scores.shape}")
        if self.class_ids.shape != (count,):
            raise ValueError(f"class_ids must be [{count}], got {self.class_ids.shape}")
        if self.track_ids is not None and self.track_ids.shape != (count,):
            raise ValueError(f"track_ids must be [{count}], got {self.track_ids.shape}")
        if self.identities is not None and self.identities.shape != (count,):
            raise ValueError(f"identities must be [{count}], got {self.identities.shape}")
        if self.descriptions is not None and len(self.descriptions) != count:
            raise ValueError(f"descriptions must be {count}, got {len(self.descriptions)}")
        if self.details is not None and len(self.details) != count:
            raise ValueError(f"details must be {count}, got {len(self.details)}")

    def __len__(self) -> int:
        return self.scores.size

    def __repr__(self) -> str:
        shown = [str(one) for one in self[:SHOWN]]
        more = [f"{len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return f"<{len(self)} detection{'s' * (len(self) != 1)}{': ' * bool(shown)}{', '.join([*shown, *more])}>"

    def __iter__(self) -> Iterator[Detection]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Detection: ...
    @overload
    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Detections: ...

    def __getitem__(self, index: int | np.integer[Any] | NDArray[np.bool_] | NDArray[np.intp] | slice) -> Detection | Detections:
        """Return one detection by its number, or the selected detections in the order of ``index``."""
        if isinstance(index, (int, np.integer)):
            return self._one(int(index))
        return Detections(
            self.boxes[index],
            self.scores[index],
            self.class_ids[index],
            self.label_names,
            None if self.track_ids is None else self.track_ids[index],
            None if self.descriptions is None else tuple(np.array((*self.descriptions, None), object)[:-1][index]),
            None if self.details is None else self.details[index],
            None if self.identities is None else self.identities[index],
        )

    def _one(self, index: int) -> Detection:
        class_id = int(self.class_ids[index])
        x1, y1, x2, y2 = (round(edge, 2) for edge in self.boxes[index].tolist())
        track = 0 if self.track_ids is None else int(self.track_ids[index])
        description = None if self.descriptions is None else self.descriptions[index]
        label, score = self.label_of(class_id), round(float(self.scores[index]), 4)
        details = {} if self.details is None else self.details.row(index)
        identity = None if self.identities is None else int(self.identities[index]) or None
        return Detection(label, score, (x1, y1, x2, y2), class_id, track or None, description, **details, identity=identity)

    @property
    def labels(self) -> list[str]:
        """The label of each detection."""
        names = self.label_names or ()
        count = len(names)
        return [names[class_id] if 0 <= class_id < count else str(class_id) for class_id in self.class_ids.tolist()]

    def label_of(self, class_id: int) -> str:
        """Return the label of a class; its number if it has none."""
        names = self.label_names
        return names[class_id] if names is not None and 0 <= class_id < len(names) else str(class_id)

    def scaled(self, source: Size, target: Size) -> Detections:
        """Return the detections of an image of size ``source`` for the same image in size ``target``."""
        x, y = target.width / source.width, target.height / source.height
        details = None if self.details is None else self.details.scaled(x, y)
        return replace(self, boxes=(self.boxes * np.array([x, y, x, y])).astype(np.float32), details=details)

    def draw(self, image: Any, labels: LabelText = "scores") -> NDArray[np.uint8]:
        """Return a copy of an image with the detections drawn on it, uint8 [H, W, 3] RGB.

        Args:
            image: An array uint8 [H, W, 3] RGB, a path or a PIL image.
            labels: The text at the boxes: labels with ``scores``, ``names`` only, or ``none``.

        Raises:
            VisionInferError: The file cannot be read as an image, or OpenCV is not installed.
            ValueError: The value is not an image, or an array is not uint8 [H, W, 3].
        """
        # Drawing is on a higher floor. Its module is imported by name, as those of outputs are, when it is first used.
        drawn: NDArray[np.uint8] = import_module("vision_infer.pipeline.runs.image_input").draw(image, self, labels)
        return drawn

    def to_supervision(self) -> supervision.Detections:
        """Return ``supervision.Detections`` with labels under ``data["class_name"]``.

        The results of a secondary model are under ``data["secondary_label"]`` (empty if there is none) and ``data["embedding"]``
        (float32 [N, D], NaN if there is none), identities under ``data["identity"]``. Masks are in ``mask``, rotated boxes under
        ``data["xyxyxyxy"]``, as supervision's annotators for oriented boxes expect them; for keypoints see
        :meth:`to_supervision_keypoints`.

        Raises:
            MissingPackageError: supervision is not installed.
        """
        require("to_supervision()", "supervision")
        import supervision

        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.class_ids.astype(np.int_),
            tracker_id=None if self.track_ids is None else self.track_ids.astype(np.int_),
            mask=self.details.pixels() if isinstance(self.details, Masks) else None,
            data={
                "class_name": np.array(self.labels, dtype=np.str_),
                **({} if self.identities is None else {"identity": self.identities.astype(np.int_)}),
                **self._secondary_data(),
                **self._corner_data(),
            },
        )

    def to_supervision_keypoints(self) -> supervision.KeyPoints:
        """Return ``supervision.KeyPoints`` with labels under ``data["class_name"]``.

        Raises:
            MissingPackageError: supervision is not installed.
            ValueError: There are detections without keypoints.
        """
        require("to_supervision_keypoints()", "supervision")
        import supervision

        if not len(self):
            return supervision.KeyPoints.empty()
        if not isinstance(self.details, Keypoints):
            raise ValueError("the detections have no keypoints; the model needs the detail 'keypoints'")
        points = self.details.points
        return supervision.KeyPoints(
            points[..., :2],
            self.class_ids.astype(np.int_),
            keypoint_confidence=points[..., 2],
            detection_confidence=self.scores,
            data={"class_name": np.array(self.labels, dtype=np.str_)},
        )

    def _corner_data(self) -> dict[str, NDArray[np.float32]]:
        return {"xyxyxyxy": self.details.corners().astype(np.float32)} if isinstance(self.details, RotatedBoxes) else {}

    def _secondary_data(self) -> dict[str, NDArray[np.str_] | NDArray[np.float32]]:
        """Return the results of a secondary model, by name."""
        data: dict[str, NDArray[np.str_] | NDArray[np.float32]] = {}
        descriptions = [Description() if entry is None else entry for entry in self.descriptions or ()]
        if any(entry.best is not None for entry in descriptions):
            data["secondary_label"] = np.array(
                ["" if entry.best is None else entry.best.label for entry in descriptions], dtype=np.str_
            )
        sizes = {len(entry.embedding) for entry in descriptions if entry.embedding is not None}
        if sizes:
            missing = np.full(max(sizes), np.nan, np.float32)
            data["embedding"] = np.stack([missing if entry.embedding is None else entry.embedding for entry in descriptions])
        return data

    @classmethod
    def empty(cls, label_names: tuple[str, ...] | None = None) -> Detections:
        """Return no detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), label_names)
