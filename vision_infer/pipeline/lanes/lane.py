"""The third seam: a lane is one model with one input size on one or more devices, and the selection of its detections."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import lru_cache

from vision_infer.analyze.describe import TOP, Describer
from vision_infer.analyze.select import Selector
from vision_infer.analyze.similar import PER_CLASS, Groups, similar_classes
from vision_infer.config.validation_errors import SettingsError, ValidationProblem
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import UsageError
from vision_infer.core.geometry import Letterbox, Size, letterbox
from vision_infer.engine.engine import Engine, device_of, gpu_of
from vision_infer.engine.placeholder import PlaceholderEngine
from vision_infer.schedule.lane_state import LaneSettings

GROUP_IOU = 0.7
"""The IoU threshold of NMS over several classes for models whose card has none, as they give one object several classes."""


class Lane:
    """An engine, or several of one model on several devices, and the selector of its detections.

    Args:
        name: The name, unique among the lanes of a supervisor.
        engine: Runs the batches; the owner of the lane closes all its engines.
        selector: Selects the candidates that become detections, if the model is a detector.
        max_wait_ns: The maximum wait of a frame for a fuller batch.
        top: The number of classes to report, if the model is a classifier.
        group: The name that all lanes of a model with different input sizes share: an image goes into the one that fits it.
            None: the lane is alone.
    """

    want: Callable[[], None] | None = None
    """Called for every image for this lane while its engine is not open; it must be quick."""

    def __init__(
        self, name: str, engine: Engine, selector: Selector, max_wait_ns: int = 0, top: int = TOP, group: str | None = None
    ) -> None:
        self.name = name
        self.group = group or name
        self.engines = [engine]
        """The engines of its replicas."""
        self.next_gpus: set[int] = set()
        """The GPUs of engines that are being built for this lane: sources that open meanwhile are decoded there."""
        self.selector = selector
        self.describer = None if engine.card.task == "detect" else Describer(engine.card, top)
        self._max_wait_ns = max_wait_ns
        self.replicas = [self._settings_for(engine)]
        """What the scheduler knows about each engine."""
        self._letterbox = lru_cache(maxsize=256)(self._fit)
        self._last = self._letterbox(engine.input_size)
        """The last letterbox: nearly all images of a lane have one size, and the hash of a size costs as much as the rest."""

    @property
    def engine(self) -> Engine:
        """The first engine; those of other devices are for the same model and the same images."""
        return self.engines[0]

    @property
    def settings(self) -> LaneSettings:
        """What the scheduler knows about the first engine."""
        return self.replicas[0]

    def add_engine(self, engine: Engine) -> LaneSettings:
        """Add a replica.

        Raises:
            ValueError: The engine is for other images, another task or other classes.
        """
        self._check(engine)
        self.engines.append(engine)
        self.replicas.append(self._settings_for(engine))
        return self.replicas[-1]

    def change_engine(self, engine: Engine, replica: int = 0) -> LaneSettings:
        """Replace the engine of a replica.

        Raises:
            ValueError: The engine is for other images, another task or other classes.
        """
        self._check(engine)
        self.engines[replica] = engine
        self.replicas[replica] = self._settings_for(engine)
        return self.replicas[replica]

    def close(self) -> None:
        """Close the engines; one that fails while it is closed does not affect the others."""
        with ExitStack() as engines:
            for engine in self.engines:
                engines.push(engine)

    def _settings_for(self, engine: Engine) -> LaneSettings:
        sizes, in_flight, ready = engine.batch_sizes, engine.in_flight, is_there(engine)
        return LaneSettings(self.name, sizes, in_flight, self._max_wait_ns, ready, device_of(engine), gpu_of(engine))

    def _check(self, engine: Engine) -> None:
        old, new = self.engine.card, engine.card
        for what in ("task", "detail", "keypoints", "unclip", "input", "fit", "fill", "labels"):
            if getattr(old, what) != getattr(new, what):
                raise ValueError(f"lane {self.name!r} cannot use {engine.name}: its {what} differs")

    def letterbox(self, size: Size) -> Letterbox:
        """Return how an image of this size is fitted into the engine's slots."""
        last = self._last
        if last.source.width != size.width or last.source.height != size.height:
            self._last = last = self._letterbox(size)
        return last

    def _fit(self, size: Size) -> Letterbox:
        card = self.engine.card
        return letterbox(size, self.engine.input_size, card.fit, card.fill)


def is_there(engine: Engine) -> bool:
    """Return whether batches can go to an engine, even if they fail there."""
    return not isinstance(engine, PlaceholderEngine) or engine.failure is not None


def make_selector(
    card: ModelCard,
    confidence: float | None,
    iou: float | None,
    classes: tuple[str, ...] | None,
    per_class: Mapping[int, float] | None = None,
    groups: Groups = PER_CLASS,
) -> Selector:
    """Make a selector from the user's settings, with the card's values for the others.

    Args:
        card: The card of the model.
        confidence: The minimum confidence; None: the card's.
        iou: The IoU threshold for non-maximum suppression; None: the card's.
        classes: The labels of the classes that count; None: all.
        per_class: The minimum confidence by class number, see :func:`scores_by_class`.
        groups: The groups of classes whose boxes suppress each other, also if the model needs no NMS for each class.

    Raises:
        UsageError: The model does not know a class; the message names similar ones.
    """
    if iou is None:
        iou = GROUP_IOU if groups != PER_CLASS and card.iou is None else card.iou
    return Selector(
        confidence=card.confidence if confidence is None else confidence,
        iou=iou,
        classes=classes_by_number(card, classes),
        label_names=card.labels,
        keypoints=card.keypoints,
        unclip=card.unclip or 0.0,
        per_class=per_class or {},
        groups=groups,
    )


def class_groups(card: ModelCard, compared: str) -> Groups:
    """Return the groups of a model's classes for a setting of ``nms``."""
    if compared == "agnostic":
        return None
    return similar_classes(card.labels or ()) if compared == "similar" else PER_CLASS


def classes_by_number(card: ModelCard, classes: tuple[str, ...] | None) -> frozenset[int] | None:
    """Return the numbers of classes from their labels; None for all.

    Raises:
        UsageError: The model does not know a class.
    """
    return None if classes is None else frozenset(class_id(card, name.strip()) for name in classes)


def scores_by_class(card: ModelCard, per_class: Mapping[str, float]) -> dict[int, float]:
    """Return minimum confidences by class number, 0–1, from those by label.

    Raises:
        UsageError: The model does not know a class, or a class is given twice.
    """
    scores: dict[int, float] = {}
    for name, score in per_class.items():
        number = class_id(card, name)
        if number in scores:
            problem = ValidationProblem(("per_class",), f"{name} is given twice")
            raise SettingsError([problem], "Give one confidence for each class.")
        scores[number] = score
    return scores


def class_id(card: ModelCard, name: str) -> int:
    """Return the number of a class from its label, or from its number if the model has no labels.

    Raises:
        UsageError: The model does not know it; the message names similar classes.
    """
    labels = card.labels
    if labels is None:
        if name.isdecimal():
            return int(name)
        raise UsageError(f"unknown class {name!r}: {card.name} has no labels", "Give class numbers.")
    by_name = {label.casefold(): number for number, label in enumerate(labels)}
    found = by_name.get(name.casefold())
    if found is not None:
        return found
    near = _alike(name.casefold(), by_name)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Run 'vision-infer model show {card.name}' to list them."
    raise UsageError(f"unknown class {name!r} for {card.name}", hint)


def _alike(name: str, labels: Iterable[str]) -> list[str]:
    """Return the most similar label, and those that are nearly as similar; empty if none is similar."""
    scores = {label: difflib.SequenceMatcher(None, name, label).ratio() for label in labels}
    least = max(0.6, max(scores.values(), default=0.0) - 0.05)
    return sorted((label for label, score in scores.items() if score >= least), key=lambda label: -scores[label])[:3]
