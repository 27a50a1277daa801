"""Run the trackers of the package ``trackers``, and evaluate all with TrackEval; see ``benchmarks/tracking.py``.

python tracking_other.py FOLDER [--evaluate-only]
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import supervision
import trackers
import trackeval

CONFIDENCE, LOST = 0.35, 45
"""Those of vision-infer: the minimum confidence, and 1.5 s at 30 frames/s."""


def makers(fps: float) -> dict[str, Callable[[], Any]]:
    """Return the trackers by name."""
    common = {"frame_rate": fps, "lost_track_buffer": LOST, "high_conf_det_threshold": CONFIDENCE}
    start = {"track_activation_threshold": CONFIDENCE}
    return {
        "trackers: ByteTrack": lambda: trackers.ByteTrackTracker(**common, **start),
        "trackers: OC-SORT": lambda: trackers.OCSORTTracker(**common),
        "trackers: BoT-SORT": lambda: trackers.BoTSORTTracker(**common, **start),
        "trackers: BoT-SORT without images": lambda: trackers.BoTSORTTracker(**common, **start, enable_cmc=False),
    }


def track(folder: Path, key: str) -> None:
    """Track one sequence with each of them."""
    with np.load(folder / f"{key}.npz") as values:
        times, counts, rows, images = (values[name] for name in ("times", "counts", "rows", "images"))
    parts = np.split(rows, np.cumsum(counts)[:-1])
    for name, make in makers(float(1 / np.median(np.diff(times)))).items():
        tracker = make()
        path = folder / "tracks" / name / "data" / f"{key}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="ascii") as file:
            for number, (time_s, part, image) in enumerate(zip(times, parts, images, strict=True), 1):
                seen = part[part[:, 4] >= 0.1]
                given = supervision.Detections(seen[:, :4], confidence=seen[:, 4], class_id=np.zeros(len(seen), int))
                found = tracker.update(given, frame=cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), timestamp=float(time_s))
                for (x1, y1, x2, y2), track_id in zip(found.xyxy, found.tracker_id, strict=True):
                    if track_id >= 0:
                        file.write(f"{number},{track_id + 1},{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},1,1,1\n")


def evaluate(folder: Path, lengths: dict[str, int]) -> dict[str, dict[str, list[float]]]:
    """Return HOTA, IDF1 and the number of switches for each tracker and scene."""
    quiet = {"PRINT_CONFIG": False}
    output = dict.fromkeys(["PRINT_RESULTS", "OUTPUT_SUMMARY", "OUTPUT_DETAILED", "PLOT_CURVES", "TIME_PROGRESS"], False)
    evaluator = trackeval.Evaluator({**quiet, **output, "LOG_ON_ERROR": None, "BREAK_ON_ERROR": True})
    places = {"GT_FOLDER": str(folder / "truth"), "TRACKERS_FOLDER": str(folder / "tracks")}
    data = trackeval.datasets.MotChallenge2DBox({**quiet, **places, "SKIP_SPLIT_FOL": True, "SEQ_INFO": lengths})
    metrics = [trackeval.metrics.HOTA(quiet), trackeval.metrics.CLEAR(quiet), trackeval.metrics.Identity(quiet)]
    found = evaluator.evaluate([data], metrics)[0]["MotChallenge2DBox"]
    report: dict[str, dict[str, list[float]]] = {}
    for name, results in found.items():
        for scene in sorted({key.partition("-")[0] for key in lengths}, key=int):
            runs = [results[key]["pedestrian"] for key in lengths if key.partition("-")[0] == scene]
            hota = np.mean([run["HOTA"]["HOTA"].mean() for run in runs])
            idf1 = np.mean([run["Identity"]["IDF1"] for run in runs])
            switches = sum(int(run["CLEAR"]["IDSW"]) for run in runs)
            report.setdefault(name, {})[scene] = [float(hota), float(idf1), switches]
    return report


def main() -> None:
    """Track, evaluate, and print the figures as JSON."""
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)
    folder = Path(sys.argv[1])
    lengths = json.loads((folder / "lengths.json").read_text())
    for key in lengths if "--evaluate-only" not in sys.argv else ():
        track(folder, key)
    print(json.dumps(evaluate(folder, lengths)))


if __name__ == "__main__":
    main()
