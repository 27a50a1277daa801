"""OpenCV, which reads, resizes, writes and draws images. Rows of video files do not need it, so it is an extra."""

from __future__ import annotations

from vision_infer.core.packages import require

require("an image", "cv2")

import cv2 as cv2  # noqa: E402

# OpenCV would write lines about damaged images to standard error, next to the log. Callers report these errors themselves.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

__all__ = ["cv2"]
