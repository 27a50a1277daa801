"""``vision-infer diff``: compare the results of two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from vision_infer.cli import options
from vision_infer.core.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from vision_infer.compare.runs import DiffReport

STREAMS_SHOWN = 20
DIFFERENT = 1
"""The exit status if the results differ."""


def diff_command(
    a: Annotated[str, Argument(metavar="A.jsonl", help="The results of a run.")],
    b: Annotated[str, Argument(metavar="B.jsonl", help="The results of another run on the same sources.")],
    iou: Annotated[float, Option(metavar="IOU", help="The minimum IoU of two boxes to be the same object.")] = 0.5,
    score_tolerance: Annotated[float, Option(metavar="SCORE", help="The maximum difference between two scores.")] = 0.05,
    top: Annotated[int, Option(min=0, metavar="N", help="The number of most different frames to list and draw.")] = 6,
    images: Annotated[Path | None, Option(metavar="DIR", help="Save these frames as images, A left, B right.")] = None,
    video: Annotated[list[str] | None, Option(metavar="SOURCE", help="A source of the runs, for --images. Repeatable.")] = None,
    overwrite: options.Overwrite = False,
    json_output: options.Json = False,
) -> int:
    """Compare the results of two runs: frames and detections that only one has, and the differences of the others.

    The exit status is 0 if the results are the same: the same frames, a match for each detection, scores within the tolerance. It
    is 1 if they differ, and 2 if they cannot be compared. Masks, keypoints and rotated boxes are compared by IoU or OKS, which
    must be at least --iou. Track numbers and embeddings are not compared.
    """
    from vision_infer.compare.runs import DiffSettings, diff

    settings = DiffSettings(iou, score_tolerance, top)
    if (images is None) != (not video):
        raise UsageError("--images and --video must be used together", "Write --images DIR --video SOURCE")
    if images is None:
        report, drawn = diff(a, b, settings), []
    else:
        from vision_infer.compare.diff_images import DiffImages

        drawer = DiffImages(images, video or (), overwrite)
        report = diff(a, b, settings)
        drawn = drawer.write(report)
    if json_output:
        typer.echo(json.dumps(report.to_dict() | {"images": drawn}, indent=2))
    else:
        _print(report, drawn)
    if images is not None and len(drawn) < len(report.most_different):
        missing = len(report.most_different) - len(drawn)
        typer.echo(f"warning: --video: {missing} of the frames were not found in the sources", err=True)
    return 0 if report.same else DIFFERENT


def _print(report: DiffReport, drawn: list[str]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if len(report.streams) > 1:
        console.print(_streams(report))
    if report.classes:
        console.print(_classes(report))
    frames = report.frames
    if report.resized:
        console.print(f"the images of {report.resized} frames differ in size, so their boxes cannot be compared", soft_wrap=True)
    if report.secondary_changed:
        console.print(f"the secondary models report different classes for {report.secondary_changed} detections", soft_wrap=True)
    if any(entry.detailed for entry in report.classes.values()):
        console.print(_details(report), soft_wrap=True)
    if report.most_different:
        worst = ", ".join(f"{entry.stream} {entry.frame}" for entry in report.most_different)
        console.print(f"frames with the largest differences: {worst}", soft_wrap=True, markup=False)
    for path in drawn:
        console.print(f"wrote {path}", soft_wrap=True, markup=False)
    verdict = "the same" if report.same else "different"
    console.print(
        f"{verdict}: {frames.both} frames in both, {frames.different} of them differ, {frames.only_a} only in A, "
        f"{frames.only_b} only in B",
        soft_wrap=True,
    )


def _details(report: DiffReport) -> str:
    pairs = sum(entry.detailed for entry in report.classes.values())
    mean = sum(entry.similarity_sum for entry in report.classes.values()) / pairs
    return (
        f"masks, keypoints or rotated boxes of {pairs} detections: mean similarity {mean:.4f}, "
        f"{report.details_changed} below {report.settings.iou:g}"
    )


def _streams(report: DiffReport) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("stream", overflow="fold")
    for heading in ("frames in both", "differ", "only A", "only B"):
        table.add_column(heading, justify="right")
    for name, count in list(report.streams.items())[:STREAMS_SHOWN]:
        table.add_row(_plain(name), *map(str, (count.both, count.different, count.only_a, count.only_b)))
    if len(report.streams) > STREAMS_SHOWN:
        table.add_row(f"… and {len(report.streams) - STREAMS_SHOWN} more")
    return table


def _classes(report: DiffReport) -> Table:
    from rich.table import Table

    from vision_infer.compare.runs import class_figures

    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="ellipsis", no_wrap=True)
    over = f">{report.settings.score_tolerance:g}"  # matches whose scores differ by more
    for heading in ("matched", "only A", "only B", "IoU", "score B-A", "|B-A|", "max", over):
        table.add_column(heading, justify="right")
    for label, entry in report.by_label():
        figures = class_figures(entry)
        means = (
            figures["mean_iou"],
            figures["mean_score_change"],
            figures["mean_score_difference"],
            figures["max_score_difference"],
        )
        shown = ("–" if value is None else f"{value:.4f}" for value in means)
        table.add_row(_plain(label), *map(str, (entry.matched, entry.only_a, entry.only_b)), *shown, str(entry.score_changed))
    return table


def _plain(text: str) -> Any:
    """Return text from a file without interpreting markup."""
    from rich.text import Text

    return Text(text)
