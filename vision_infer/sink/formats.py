"""The kinds of output of a run. To add one, write its module in ``sink/files`` and add an entry to :data:`FORMATS`.

Installed packages add kinds as entry points of the group ``vision_infer.sinks``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Any, Literal, get_args

from vision_infer.core.card import Task
from vision_infer.core.errors import UsageError
from vision_infer.core.packages import plugin, plugin_names
from vision_infer.sink.sink import OutputSpec, Sink, SinkStream

DETECT = frozenset(("detect",))
ALL_TASKS: frozenset[str] = frozenset(get_args(Task))


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """A kind of output."""

    kind: str
    """The name of the kind, as in :attr:`OutputSpec.kind`."""
    module: str
    """The module, with a function ``open_sink(spec: OutputSpec, stream: SinkStream) -> Sink``."""
    suffix: str | None
    """The suffix of its files and its name in ``--formats``; None: the output has a separate option."""
    shared: bool = False
    """Whether one file takes the rows of all streams."""
    file: str | None = None
    """The name of a file in messages, if ``--out FILE`` is possible for one source only."""
    folder: bool = False
    """Whether it is a folder of images and labels of all streams, named like the suffix, in ``--out FOLDER/``."""
    sources: Literal["video", "images"] | None = None
    """The only kind of source that it is for; None: any."""
    tasks: frozenset[str] = ALL_TASKS
    """The tasks of models whose results it can hold."""
    options: frozenset[str] = frozenset()
    """The optional fields of :class:`OutputSpec` that it uses."""
    packages: tuple[str, ...] = ()
    """The heavy packages that it imports; a run imports them before it begins."""

    def open(self, spec: OutputSpec, stream: SinkStream) -> Sink:
        """Open a sink.

        Raises:
            OutputError: It cannot be written.
        """
        sink: Sink = self.load().open_sink(spec, stream)
        return sink

    def load(self) -> Any:
        """Import and return the module of the sink.

        Raises:
            OutputError: A package that it requires is not installed.
        """
        module = import_module(self.module)
        if hasattr(module, "check_requirements"):
            module.check_requirements()
        return module


_FILES = "vision_infer.sink.files"
FORMATS: list[OutputFormat] = [
    OutputFormat("jsonl", f"{_FILES}.jsonl", "jsonl", shared=True, options=frozenset(("rotate_bytes",))),
    OutputFormat("csv", f"{_FILES}.csv_rows", "csv", shared=True, tasks=frozenset(("detect", "classify"))),
    OutputFormat(
        "parquet",
        f"{_FILES}.parquet",
        "parquet",
        shared=True,
        tasks=frozenset(("detect", "classify", "embed")),
        packages=("pyarrow.parquet",),
    ),
    OutputFormat("coco", f"{_FILES}.coco", "json", shared=True, tasks=DETECT, options=frozenset(("numbered", "file_names"))),
    OutputFormat("mot", f"{_FILES}.mot", "txt", file="MOT file", tasks=DETECT),
    OutputFormat(
        "video",
        f"{_FILES}.video",
        "mp4",
        file="video",
        sources="video",
        options=frozenset(("fps", "height", "labels")),
        packages=("vision_infer.core.opencv",),
    ),
    OutputFormat(
        "images",
        f"{_FILES}.images",
        "jpg",
        sources="images",
        options=frozenset(("labels",)),
        packages=("vision_infer.core.opencv",),
    ),
    OutputFormat("cvat-video", f"{_FILES}.cvat_video", "xml", file="CVAT file", sources="video", tasks=DETECT),
    *(
        OutputFormat(
            f"dataset-{name}",
            "vision_infer.sink.datasets.dataset_sink",
            name,
            folder=True,
            tasks=DETECT,
            options=frozenset(("sample", "samples")),
            packages=("vision_infer.core.opencv",),
        )
        for name in ("yolo", "coco", "voc", "cvat", "label-studio", "fiftyone", "datumaro")
    ),
    OutputFormat("crops", f"{_FILES}.crops", None, tasks=DETECT),
]
"""All kinds, in the order in which they are listed to users."""


GROUP = "vision_infer.sinks"
"""The entry points with which packages add kinds of output: objects of :class:`OutputFormat`, named by their suffix."""


def format_of(kind: str) -> OutputFormat:
    """Return the format of a kind that exists."""
    return next((entry for entry in FORMATS if entry.kind == kind), None) or _added()[kind]


def format_by_suffix(suffix: str) -> OutputFormat | None:
    """Return the format of files with this suffix; None if there is none.

    Raises:
        UsageError: A package adds it, but not as an :class:`OutputFormat`.
    """
    return next((entry for entry in FORMATS if entry.suffix == suffix), None) or (_added().get(suffix) if suffix else None)


def known_suffixes() -> list[str]:
    """Return the suffixes of all formats."""
    return [entry.suffix for entry in (*FORMATS, *_added().values()) if entry.suffix]


@cache
def _added() -> dict[str, OutputFormat]:
    found: dict[str, OutputFormat] = {}
    for name in plugin_names(GROUP):
        entry = plugin(GROUP, name)
        if not isinstance(entry, OutputFormat):
            raise UsageError(f"{GROUP} {name}: is not an OutputFormat", "See vision_infer/sink/formats.py.")
        found[name] = replace(entry, kind=name, suffix=name)
    return found
