"""Compare trackers on fabricated sequences of known truth with TrackEval: HOTA, IDF1 and switches of numbers.

The trackers of the package ``trackers`` get the same detections, times, images and minimum confidence. They and TrackEval run in
another environment in ``benchmarks/results``: they need the package opencv-python, which replaces opencv-python-headless.

    python -m benchmarks.tracking
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import RESULTS
from benchmarks.machine import describe_machine, source_line
from benchmarks.tracking_scenes import HEIGHT, SCENES, WIDTH, FabricatedSequence, fabricate
from vision_infer.analyze.camera_motion import MAX_WIDTH, CameraMotion
from vision_infer.analyze.track import Tracker
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size
from vision_infer.stream.image import ArrayImage

PACKAGES = ("trackeval==1.3.0", "trackers==2.6.1")
SEEDS = 2


def main() -> None:
    """Print the table of the documentation."""
    python = make_environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lengths: dict[str, int] = {}
        for number, scene in enumerate(SCENES.values()):
            for seed in range(SEEDS):
                sequence, key = fabricate(scene, seed), f"{number}-{seed}"
                lengths[key] = len(sequence.times_s)
                write_tracks(folder / "truth" / key / "gt" / "gt.txt", sequence.truth)
                for compensated in (False, True):
                    tracker = "bytetrack-cmc" if compensated else "bytetrack"
                    write_tracks(folder / "tracks" / tracker / "data" / f"{key}.txt", _tracks(sequence, compensated))
                np.savez(
                    folder / f"{key}.npz",
                    times=sequence.times_s,
                    counts=[len(rows) for rows in sequence.detections],
                    rows=np.concatenate(sequence.detections),
                    images=np.stack(sequence.images),
                )
        (folder / "lengths.json").write_text(json.dumps(lengths))
        other = Path(__file__).with_name("tracking_other.py")
        done = subprocess.run([python, other, folder], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, dict[str, list[float]]] = json.loads(done.stdout.splitlines()[-1])
    print(f"| Tracker | {' | '.join(SCENES)} |\n" + "| --- " * (len(SCENES) + 1) + "|")
    for tracker, figures in found.items():
        cells = [f"{hota:.2f} {idf1:.2f} {switches:.0f}" for hota, idf1, switches in figures.values()]
        print(f"| {tracker} | {' | '.join(cells)} |")
    print(source_line(describe_machine()))


def make_environment() -> Path:
    """Return the interpreter of the environment with TrackEval, which is made once."""
    folder = RESULTS / "tracking"
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (folder / "complete").touch()
    return python


def _tracks(sequence: FabricatedSequence, compensated: bool) -> Sequence[NDArray[np.float64]]:
    """Return for each frame the tracks, [N, 5]: the number and the box."""
    tracker, camera, size = Tracker(), CameraMotion(), Size(WIDTH, HEIGHT)
    tracks = []
    for time_s, rows, image in zip(sequence.times_s.tolist(), sequence.detections, sequence.images, strict=True):
        if compensated:
            affine = camera(ArrayImage(np.repeat(image[..., None], 3, axis=2)).luma(MAX_WIDTH), size)
            if affine is not None:
                tracker.move(affine)
        rows = rows[np.argsort(-rows[:, 4])]
        found = tracker.update(Detections(rows[:, :4], rows[:, 4], np.zeros(len(rows), np.int32)), time_s)
        numbers = np.zeros(0) if found.track_ids is None else found.track_ids
        tracks.append(np.concatenate([numbers[:, None], found.boxes[: len(numbers)]], axis=1))
    return tracks


def write_tracks(path: Path, frames: Sequence[NDArray[np.float64]]) -> None:
    """Write tracks in the format of the MOT Challenge."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="ascii") as file:
        for number, rows in enumerate(frames, 1):
            for track, x1, y1, x2, y2 in rows.tolist():
                file.write(f"{number},{track:.0f},{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},1,1,1\n")


if __name__ == "__main__":
    main()
