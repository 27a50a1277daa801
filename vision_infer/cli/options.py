"""The options that commands share or that are long to tell, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Sources = Annotated[list[str], typer.Argument(metavar="SOURCE", help="Video files, pictures and folders.", show_default=False)]
Model = Annotated[str, typer.Option(help="Name of a model, or a deployment graph (.onnx).")]
ModelDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Your own models. Default: $VISION_INFER_HOME/models.")]

Confidence = Annotated[float | None, typer.Option(min=0, max=1, help="Least score. Default: the model's.")]
Iou = Annotated[
    float | None, typer.Option(min=0.01, max=1, help="Overlap above which the worse of two boxes goes. Default: the model's.")
]
Classes = Annotated[str | None, typer.Option(metavar="A,B,…", help="Only these labels.")]
Track = Annotated[
    bool,
    typer.Option(
        "--track",
        help="Number the objects across frames (ByteTrack); a numbered object is followed below --confidence too.",
    ),
]
Every = Annotated[int, typer.Option(min=1, help="Infer every N-th frame.")]

Engine = Annotated[str, typer.Option(metavar="auto|NAME", help="Engine, such as onnxruntime-cpu-fp32.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda:N", help="Where to run.")]
Workers = Annotated[int | None, typer.Option(min=1, max=256, help="Batches in flight. Default: CPUs / threads; 2 on a GPU.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=256, help="CPU threads of each batch. Default: 1, which is best for throughput.")
]
Batch = Annotated[int | None, typer.Option(min=1, max=256, help="Largest batch. Default: 1 on the CPU, 8 on a GPU.")]

Out = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE.jsonl|FILE.mp4|DIR/|-",
        help="Rows of all sources, annotated video, a set of both for each source, or rows on standard output. Repeatable.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")]
SummaryFile = Annotated[Path | None, typer.Option("--summary", metavar="FILE.json", help="Write the summary as JSON.")]
JsonSummary = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no table.")]
