"""The motion of the camera between two frames, for tracking with cameras that shake or pan.

Corners of the earlier image are found again in the later one by the optical flow of Lucas and Kanade, and a shift, rotation and
scale is fitted to them with RANSAC, which leaves out the corners on objects that move themselves. BoT-SORT (Aharon et al., 2022)
compensates the motion of the camera in this way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.geometry import Size

MAX_WIDTH = 480
"""The maximum width of the compared images, pixels."""
_CORNERS, _MIN_CORNERS = 150, 12
_MIN_AGREEING = 0.3
"""The fraction of the corners that must move in the same way; otherwise the motion is unknown, as after a cut."""


@dataclass(slots=True)
class CameraMotion:
    """Compares each image of a stream with the one before. Not thread-safe."""

    _before: NDArray[np.uint8] | None = field(default=None, init=False, repr=False)

    def __call__(self, luma: NDArray[np.uint8], image: Size) -> NDArray[np.float64] | None:
        """Return how positions have moved since the last image.

        Args:
            luma: Samples of the image's luma, uint8 [H, W].
            image: The size of the image, pixels.

        Returns:
            float64 [2, 3], which maps a position in the last image to this one, in pixels of the image; None if unknown.
        """
        from vision_infer.core.opencv import cv2  # rows of video need no OpenCV

        now = np.ascontiguousarray(luma)
        before, self._before = self._before, now
        if before is None or before.shape != now.shape:
            return None
        corners = cv2.goodFeaturesToTrack(before, _CORNERS, 0.01, 8)
        if corners is None or len(corners) < _MIN_CORNERS:
            return None
        moved, status, _ = cv2.calcOpticalFlowPyrLK(before, now, corners, np.empty_like(corners))
        seen = status.ravel() == 1
        if seen.sum() < _MIN_CORNERS:
            return None
        found, agreeing = cv2.estimateAffinePartial2D(corners[seen], moved[seen], ransacReprojThreshold=2.0)
        if found is None or agreeing.mean() < _MIN_AGREEING:
            return None
        scale = np.array([image.width / now.shape[1], image.height / now.shape[0]])
        warp = np.asarray(found, np.float64)
        return np.concatenate([warp[:, :2] * scale[:, None] / scale, (warp[:, 2] * scale)[:, None]], axis=1)
