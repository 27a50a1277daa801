"""OpenCV, which reads, resizes, writes and draws images. Rows of video files do not need it, so it is an extra."""

from __future__ import annotations

from vision_infer.core.packages import require

require("an image", "cv2")

import cv2 as cv2  # noqa: E402

__all__ = ["cv2"]
