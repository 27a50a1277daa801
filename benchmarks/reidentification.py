"""Measure re-identification on fabricated sequences of known truth with TrackEval: HOTA, IDF1 and switches of numbers.

The tracks of ByteTrack are evaluated by their numbers, and by their identities with each of two embeddings. A row in which an
identity is not known yet is left out, which costs HOTA.

    python -m benchmarks.reidentification
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine, source_line
from benchmarks.tracking import make_environment, write_tracks
from benchmarks.tracking_appearance import Embed, embedders
from benchmarks.tracking_scenes import RETURNS, FabricatedSequence, fabricate
from vision_infer.analyze.identity.gallery import Gallery
from vision_infer.analyze.identity.identities import Identities
from vision_infer.analyze.track import Tracker
from vision_infer.core.description import Description
from vision_infer.core.detections import Detections

SEEDS = 2
PLAIN = "bytetrack"


def main() -> None:
    """Print the table of the documentation."""
    python = make_environment()
    appearances: dict[str, tuple[Embed | None, float]] = {PLAIN: (None, 0.0)}
    appearances |= {f"{PLAIN}, reidentify: {name}": found for name, found in embedders().items()}
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        lengths: dict[str, int] = {}
        for number, scene in enumerate(RETURNS.values()):
            for seed in range(SEEDS):
                sequence, key = fabricate(scene, seed), f"{number}-{seed}"
                lengths[key] = len(sequence.times_s)
                write_tracks(folder / "truth" / key / "gt" / "gt.txt", sequence.truth)
                for name, (embed, threshold) in appearances.items():
                    write_tracks(folder / "tracks" / name / "data" / f"{key}.txt", _numbers(sequence, embed, threshold))
        (folder / "lengths.json").write_text(json.dumps(lengths))
        words = (python, Path(__file__).with_name("tracking_other.py"), folder, "--evaluate-only")
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, dict[str, list[float]]] = json.loads(done.stdout.splitlines()[-1])
    print(source_line(describe_machine()))
    print(f"| Tracker | {' | '.join(RETURNS)} |\n" + "| --- " * (len(RETURNS) + 1) + "|")
    for name in appearances:
        cells = [f"{hota:.2f} {idf1:.2f} {switches:.0f}" for hota, idf1, switches in found[name].values()]
        print(f"| {name} | {' | '.join(cells)} |")


def _numbers(sequence: FabricatedSequence, embed: Embed | None, threshold: float) -> list[NDArray[np.float64]]:
    """Return for each frame the identities, or the tracks without an embedding, [N, 5]: the number and the box."""
    tracker, identities, frames = Tracker(), Identities(Gallery()), []
    identities.threshold = threshold
    for time_s, rows, crops in zip(sequence.times_s.tolist(), sequence.detections, sequence.crops, strict=True):
        order = np.argsort(-rows[:, 4])
        boxes, scores = rows[order, :4], rows[order, 4]
        found = tracker.update(Detections(boxes, scores, np.zeros(len(rows), np.int32)), time_s)
        numbers = np.zeros(0, np.int32) if found.track_ids is None else found.track_ids
        if embed is not None and len(found):
            shown = [crops[order[(boxes == box).all(axis=1).argmax()]] for box in found.boxes]
            descriptions = tuple(Description(embedding=one) for one in embed(shown))
            named = identities.assign(
                Detections(found.boxes, found.scores, found.class_ids, track_ids=numbers, descriptions=descriptions), time_s
            )
            assert named.identities is not None
            numbers = named.identities
        known = numbers > 0
        frames.append(np.concatenate([numbers[known, None], found.boxes[known]], axis=1).astype(np.float64))
    return frames


if __name__ == "__main__":
    main()
