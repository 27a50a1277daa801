"""The options that commands share or that are long to tell, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Video files, pictures, folders, patterns, http(s) URLs, @LIST (a file with one a line), - (standard input).",
        show_default=False,
    ),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Search folders with all that is below them.")]
TrackIndex = Annotated[int, typer.Option(min=0, help="Which video track of a file, from 0.")]
Start = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Begin there, exact to the frame.")]
End = Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="End there, exact to the frame.")]
Fps = Annotated[float | None, typer.Option(metavar="F", help="Infer at most F frames a second of video.")]
Keyframes = Annotated[bool, typer.Option("--keyframes", help="Decode and infer key frames only.")]
Decode = Annotated[
    Literal["auto", "cpu", "nvdec"],
    typer.Option(metavar="auto|cpu|nvdec", help="Decode on the CPU or an NVIDIA GPU; auto: where pictures are inferred."),
]
MaxPixels = Annotated[int, typer.Option(min=1, metavar="N", help="Refuse pictures with more pixels.")]
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
PerClass = Annotated[
    str | None, typer.Option(metavar="A=0.5,B=0.3", help="Least scores of single classes, instead of --confidence.")
]
MinSize = Annotated[float, typer.Option(min=0, metavar="PIXELS", help="Least width and height of a box.")]
Region = Annotated[Path | None, typer.Option(metavar="FILE", help="Polygons in which we look, and masks where we do not (YAML).")]
Then = Annotated[
    str | None, typer.Option(metavar="MODEL", help="A second model that looks at each detection: classification or embeddings.")
]
Top = Annotated[int, typer.Option(min=1, help="Classes that are told, of a model for classification.")]
Hook = Annotated[str | None, typer.Option(metavar="MODULE:FUNCTION", help="Called with each result; may change or drop it.")]
Every = Annotated[int, typer.Option(min=1, help="Infer every N-th frame.")]

Gate = Annotated[
    Literal["motion"] | None,
    typer.Option(metavar="motion", help="Leave out frames in which nothing moves: their rows repeat what was found last."),
]
GateHeartbeat = Annotated[
    float, typer.Option(min=0.01, max=3600, metavar="SECONDS", help="With --gate, infer a frame at least so often.")
]

Engine = Annotated[str, typer.Option(metavar="auto|NAME", help="Engine, such as onnxruntime-cpu-fp32.")]
EngineDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where engines are kept. Default: $VISION_INFER_HOME/engines.")
]
Device = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda:N", help="Where to run; of several GPUs, cuda:0,cuda:1, each engine takes the next.")
]
Workers = Annotated[int | None, typer.Option(min=1, max=256, help="Batches in flight. Default: CPUs / threads; 2 on a GPU.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=256, help="CPU threads of each batch. Default: 1, which is best for throughput.")
]
Batch = Annotated[int | None, typer.Option(min=1, max=256, help="Largest batch. Default: 1 on the CPU, 8 on a GPU.")]

Out = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE|DIR/|-",
        help="FILE.jsonl, .csv, .parquet, .json (COCO) take all sources; .txt (MOT), .mp4 (annotated) take one; DIR/ gets a set "
        "for each source; - is rows on standard output. Repeatable.",
    ),
]
Formats = Annotated[str | None, typer.Option(metavar="jsonl,mp4,…", help="What DIR/ gets for each source. Default: jsonl,mp4.")]
Crops = Annotated[Path | None, typer.Option(metavar="DIR", help="Cut out each detection as a picture.")]
PreviewFps = Annotated[float | None, typer.Option(metavar="F", help="Frame rate of the annotated video. Default: the source's.")]
PreviewSize = Annotated[
    int | None, typer.Option(min=16, metavar="HEIGHT", help="Height of the annotated video. Default: the source's.")
]
RotateMb = Annotated[float | None, typer.Option(metavar="MB", help="JSONL goes on in a new file after so many megabytes.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an earlier run with the same options was cut off.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")]
SummaryFile = Annotated[Path | None, typer.Option("--summary", metavar="FILE.json", help="Write the summary as JSON.")]
JsonSummary = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no table.")]
