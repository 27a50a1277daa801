"""Export the smallest member of each family, compare it with PyTorch, and write ``docs/reference/export-families.md``.

Nothing is downloaded: all weights are random.

make export-table
python -m benchmarks.export_table --families lraspp,segformer    # replaces only these rows
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.inputs import ASSETS
from benchmarks.machine import describe_machine
from vision_infer.core.errors import VisionInferError
from vision_infer.core.geometry import Size
from vision_infer.engine.registry import runtime_version
from vision_infer.model.export.custom_model import custom_family
from vision_infer.model.export.exporting import RECORD_FILE, ExportRequest, Run, export_model
from vision_infer.model.export.families import family_names, read_family
from vision_infer.model.export.family import Family, Refused
from vision_infer.model.importing import Proposal
from vision_infer.precision.verification.comparison import read_images
from vision_infer.precision.verification.export_check import verify_export
from vision_infer.precision.verification.import_check import verify_import

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "export-families.md"
TABLE = re.compile(r"(<!-- export-table -->\n).*?(<!-- end -->)", re.DOTALL)
HEADER = (
    "| Family | Smallest member | Million parameters | Input | Largest difference | Agree | Opset | Seconds | CPU s |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)
POSE = "benchmarks.pose_network:simcc_resnet18"
"""No library of the export extra has a pose model that can be exported, so this row is the user's own model."""
PHOTOGRAPHS = ASSETS / "images" / "coco_val_ccby" / "images"


def row(name: str, family: Family, folder: Path) -> str:
    """Export the smallest member of a family; return a row of the table."""
    variant = family.variants[0]
    images = read_images(PHOTOGRAPHS) if PHOTOGRAPHS.is_dir() else None

    def verify(proposal: Proposal, runs: Mapping[Size, Run]) -> list[dict[str, Any]]:
        verify_import(proposal, images, untrained=True)
        return [entry.to_dict() for entry in verify_export(proposal, runs, images)]

    shown = f"SimCC pose, ResNet-18 | `{name}`" if name == POSE else f"{family.title} | `{name}/{variant}`"
    before = time.process_time()
    try:
        made = export_model(
            ExportRequest(name, name.rpartition(":")[2], folder, variant, prompts=("dog", "cat") * family.prompts),
            family,
            lambda _: None,
            verify,
        )
    except VisionInferError as error:
        return f"| {shown} | – | – | {error.message} | – | – | – | – |"
    record = json.loads((made.parent / RECORD_FILE).read_text(encoding="utf-8"))
    (entry,) = record["proofs"]
    boxes = f"{entry['boxes_px']:.1g} px, " if "boxes_px" in entry else ""
    unit = {"embed": "element", "segment": "other pixels"}.get(family.task, "score")
    agrees = f"{entry['agreement_percent']:g} % of {entry['compared']}"
    agrees += f", mask IoU {entry['mask_iou']:.4f}" if "mask_iou" in entry else ""
    size = f"{entry['height']}×{entry['width']}"
    cells = (shown, f"{record['parameters'] / 1e6:.1f}", size, f"{boxes}{unit} {entry['values']:.0e}", agrees)
    return f"| {' | '.join(cells)} | {record['opset']} | {record['seconds']:.0f} | {time.process_time() - before:.0f} |"


def main() -> None:
    """Export all families, or some of them, and write the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", default="", help="Their names, with commas; default: all.")
    chosen = [name for name in parser.parse_args().families.split(",") if name]
    machine = describe_machine()
    text = PAGE.read_text(encoding="utf-8")
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen or [*family_names(), POSE]:
            family = custom_family(name) if name == POSE else read_family(name)
            if isinstance(family, Refused):
                lines.append(f"| {family.title} | `{name}` | | | cannot be exported: {family.reason} | | | | |")
            else:
                lines.append(row(name, family, Path(folder)))
            print(lines[-1], flush=True)
    versions = ", ".join(f"{name} {runtime_version(name)}" for name in ("torch", "onnxruntime") if runtime_version(name))
    images = "photographs" if PHOTOGRAPHS.is_dir() else "synthetic images"
    command = f"`python -m benchmarks.export_table --families {','.join(chosen)}`" if chosen else "`make export-table`"
    note = (
        f"{command}, {str(machine['date'])[:10]}: {machine['cpu']}, {machine['cores']} CPUs, load "
        f"{machine['load_before']} before the start, {versions}.\nRandom weights, batches of 1, 2 and 5 {images}."
    )
    PAGE.write_text(
        TABLE.sub(lambda match: match[1] + joined(match[0], note, lines, whole=not chosen) + match[2], text), encoding="utf-8"
    )


def joined(before: str, note: str, rows: list[str], whole: bool) -> str:
    """Return the notes and the table, whose other rows and notes stay unless the table is ``whole``."""
    old = [] if whole else before.splitlines()
    notes = [part for part in "\n".join(line for line in old if not line.startswith(("|", "<!--"))).split("\n\n") if part.strip()]
    kept = {line.split("|")[1].strip(): line for line in old if line.startswith("|")}
    table = {title: line for title, line in kept.items() if title.lower() != "family" and not title.startswith("-")}
    table |= {line.split("|")[1].strip(): line for line in rows}
    ordered = [table[title] for title in sorted(table, key=str.casefold)]
    return "\n" + "\n\n".join([*(one.strip() for one in notes), note, "\n".join([*HEADER, *ordered])]) + "\n\n"


if __name__ == "__main__":
    main()
