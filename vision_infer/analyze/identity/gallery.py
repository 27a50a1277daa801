"""The appearances of the objects that may come back. They are in memory only, for a limited time, and their number is limited."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

MAX_IDENTITIES = 1000
"""The maximum number of identities in a gallery; the one that was not seen for the longest time is forgotten."""
_MAX_LOOKS = 100
"""The number of embeddings in a mean after which a new one counts as one of this many, so that the mean follows changes."""


@dataclass(slots=True)
class Appearance:
    """The mean of an object's embeddings."""

    mean: NDArray[np.float32]
    """The mean, float32 [D]."""
    looks: int = 1
    """The number of embeddings in it."""

    def add(self, embedding: NDArray[np.float32], looks: int = 1) -> None:
        """Add an embedding, or the mean of several, float32 [D]."""
        self.looks = min(self.looks + looks, _MAX_LOOKS)
        self.mean = self.mean + (embedding - self.mean) * np.float32(looks / self.looks)


@dataclass(frozen=True, slots=True)
class _Known:
    appearance: Appearance
    until_s: float
    """The time at which it is forgotten, seconds."""


class Gallery:
    """The identities of one camera, or of the cameras that share it. One thread uses it.

    Times are those of frames: of one camera, or of cameras with a common clock.
    """

    def __init__(self, limit: int = MAX_IDENTITIES) -> None:
        self._limit = limit
        self._known: dict[int, _Known] = {}  # the identity that was seen last is the last one
        self._next = 1
        self._swept_s = 0.0

    def __len__(self) -> int:
        return len(self._known)

    def forget(self, now_s: float) -> None:
        """Forget the identities whose time has passed, once a second."""
        if 0 <= now_s - self._swept_s < 1:
            return
        self._swept_s = now_s
        gone = [identity for identity, known in self._known.items() if known.until_s < now_s]
        for identity in gone:
            del self._known[identity]

    def see(self, identity: int, appearance: Appearance, until_s: float) -> None:
        """Keep an identity until this time, seconds."""
        self._known.pop(identity, None)
        if len(self._known) >= self._limit:
            del self._known[next(iter(self._known))]
        self._known[identity] = _Known(appearance, until_s)

    def new(self) -> int:
        """Return the number of a new identity, from 1; a number is not used again."""
        self._next += 1
        return self._next - 1

    def appearance(self, identity: int) -> Appearance:
        """Return the appearance of an identity in the gallery."""
        return self._known[identity].appearance

    def compare(self, appearances: list[Appearance], without: set[int]) -> tuple[list[int], NDArray[np.float64]]:
        """Return the identities in the gallery, M of them, and their distances to appearances.

        Args:
            appearances: N appearances.
            without: The identities to leave out.

        Returns:
            The identities, and the cosine distances, float64 [N, M], 0–2.
        """
        wanted = appearances[0].mean.shape
        known = {
            identity: one.appearance.mean
            for identity, one in self._known.items()
            if identity not in without and one.appearance.mean.shape == wanted
        }
        if not known:
            return [], np.zeros((len(appearances), 0))
        return list(known), 1 - _units([one.mean for one in appearances]) @ _units(list(known.values())).T


class Galleries:
    """The galleries that cameras share. A gallery and all it contains is gone when no camera uses it."""

    def __init__(self) -> None:
        self._shared: WeakValueDictionary[tuple[str, str | None], Gallery] = WeakValueDictionary()

    def of(self, group: str | None, model: str | None) -> Gallery:
        """Return the gallery of a camera.

        Args:
            group: The group of cameras that share it; None: the camera has its own.
            model: The model of the embeddings: those of two models cannot be compared.
        """
        return Gallery() if group is None else self._shared.setdefault((group, model), Gallery())


def _units(vectors: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return vectors with a length of 1, float64 [N, D]."""
    stacked = np.stack(vectors).astype(np.float64)
    units: NDArray[np.float64] = stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-12)
    return units
