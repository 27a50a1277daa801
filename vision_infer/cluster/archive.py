"""``run --cluster``: an archive of video files on the nodes of a Ray cluster, with one reader for each node or GPU.

Readers are actors of Ray; each keeps one engine and has several files at a time. Ray gives what an archive needs of a cluster:
the nodes, their processes, the loss of both, and an autoscaler.

Ray Data has pools of actors too, but it is not used. It treats a file as a row that flows through operators, and a row that ends
its process cannot be found: ``max_restarts`` and ``max_task_retries`` of its actors are -1, so that such a file is read again
without end. With a limit, the files that were open next to it can fail with it. Here, they are read again alone
(:class:`ArchiveWork`). To join the segments of a long file, it would need a group-by, which waits until all files are read. It
does not show how much of the open files is read, and its package needs pandas and pyarrow on all nodes.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vision_infer.cluster.archive_files import ArchiveFile
from vision_infer.cluster.archive_plan import ArchivePlan, plan_archive
from vision_infer.cluster.archive_reader import MAX_FILES_AT_ONCE, ArchiveReader, FileOutcome, Opened
from vision_infer.cluster.archive_work import ArchiveProgress, ArchiveWork
from vision_infer.config.run import RunSettings
from vision_infer.core.errors import EngineError, VisionInferError

WAIT_S = 0.5
"""The maximum wait for a file to be done, seconds."""
LOOK_S = 2.0
"""The time between two looks at the nodes, and between two questions for the progress of open files, seconds."""
CLOSE_S = 10.0
"""The time in which the readers must close at the end, seconds."""
NO_NODE_S = 600.0
"""The maximum wait for a first node with a CPU, seconds: an autoscaler may have to start a machine."""
IDLE_S = 30.0
"""The time after which a reader without files is closed, seconds, so that an autoscaler can remove its node."""
FILES_FOR_A_NODE = 4
"""A node is requested from an autoscaler for this number of waiting files."""
MAX_REQUESTS = 100
"""The maximum number of requests for a node at the same time."""
MAX_LOST_READERS = 3
"""The run ends when this number of a node's readers is lost before they are ready, or of all readers by a failure of the engine
while no file is done."""


def run_archive(settings: RunSettings, stopping: threading.Event, show: Callable[[ArchiveProgress], None]) -> ArchiveProgress:
    """Infer all video files of an archive on the connected cluster.

    Args:
        settings: The settings of the run: ``sources`` are files and folders, ``out`` is one folder.
        stopping: Ends the run early when it is set. The files that are open then have no outputs.
        show: Called about twice a second.

    Returns:
        The account of the run. Files that failed are in it.

    Raises:
        VisionInferError: The run could not start, or no node can run the engine.
    """
    plan = plan_archive(settings)
    progress = ArchiveProgress(plan.todo, plan.finished, plan.errors)
    readers = _Readers(settings, plan, progress)
    try:
        while not readers.work.done and not stopping.is_set():
            readers.start_missing()
            readers.hand_out()
            readers.collect()
            show(progress)
    finally:
        readers.close()
    progress.interrupted = not readers.work.done
    return progress


@dataclass(slots=True, eq=False)
class _Reader:
    """A reader, and what it was asked."""

    actor: Any
    node_id: str
    node: str
    opening: Any
    files_at_once: int = 0
    """The number of files to hand to it; 0 until it is open."""
    files: dict[Any, ArchiveFile] = field(default_factory=dict)
    """Its files, by the reference of the outcome."""
    fractions: Any = None
    """The reference of the fractions of its open files."""
    busy_s: float = field(default_factory=time.monotonic)
    """When it was started, and once it is open, when it last had files or could have had some; monotonic, seconds."""


class _Readers:
    def __init__(self, settings: RunSettings, plan: ArchivePlan, progress: ArchiveProgress) -> None:
        self.work = ArchiveWork(plan.todo)
        self._plan = plan
        self._arguments = (settings, plan.shapes, plan.out)
        self._device = settings.device
        self._on_gpus = settings.device != "cpu"
        self._progress = progress
        self._readers: list[_Reader] = []
        self._lost_early: dict[str, int] = {}
        self._engine_losses = 0
        self._looked_s = float("-inf")
        self._any_node_s = time.monotonic()
        self._request = ray.remote(_nothing)
        self._requests: list[Any] = []
        self._ready_s: float | None = None

    def start_missing(self) -> None:
        """Start readers on nodes that have none, or fewer than GPUs, while there are files for them; close idle readers."""
        now = time.monotonic()
        if now - self._looked_s < LOOK_S:
            return
        self._looked_s = now
        self._close_idle(now)
        nodes = alive_nodes()
        if nodes:
            self._any_node_s = now
        elif now - self._any_node_s > NO_NODE_S:
            raise VisionInferError("the cluster has no node with a CPU", "Add nodes with: ray start --address HOST:PORT")
        for node_id, node in nodes.items():
            here = sum(reader.node_id == node_id for reader in self._readers)
            for _ in range(min(self._places(node) - here, self.work.waiting)):
                self._start(node_id, node)
        self._request_nodes()  # after the readers, which take the resources of the nodes
        for reader in self._readers:
            if reader.files and reader.fractions is None:
                reader.fractions = reader.actor.fractions.remote()

    def hand_out(self) -> None:
        """Give each reader that is open files, but not more than its share of the last ones."""
        recent_s = time.monotonic() - IDLE_S
        sharing = sum(reader.files_at_once > 0 or reader.busy_s > recent_s for reader in self._readers)
        left = self.work.waiting + sum(len(reader.files) for reader in self._readers)
        share = math.ceil(left / max(1, sharing))
        given = True
        while given:
            given = False
            for reader in sorted(self._readers, key=lambda reader: len(reader.files)):
                keys = [file.key for file in reader.files.values()]
                file = self.work.take(keys) if len(keys) < min(reader.files_at_once, share) else None
                if file is not None:
                    reader.files[reader.actor.read.remote(file)] = file
                    given = True

    def collect(self) -> None:
        """Wait a moment for answers, and note them."""
        asked = {reference: reader for reader in self._readers for reference in _asked(reader)}
        if not asked:
            time.sleep(WAIT_S)
            return
        done, _ = ray.wait(list(asked), num_returns=1, timeout=WAIT_S)
        if done:  # and all that came with it
            done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0)
        for reference in done:
            reader = asked[reference]
            if reader in self._readers:  # it was not lost with an earlier answer
                self._note(reader, reference)
        if self._ready_s is not None:
            self._progress.seconds = time.monotonic() - self._ready_s

    def close(self) -> None:
        """Close all readers."""
        for request in self._requests:
            ray.cancel(request)
        closing = [reader.actor.close.remote() for reader in self._readers if reader.files_at_once]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for reader in self._readers:
            ray.kill(reader.actor)

    def _close_idle(self, now: float) -> None:
        for reader in [reader for reader in self._readers if reader.files_at_once]:
            if reader.files or self.work.waiting:
                reader.busy_s = now
            elif now - reader.busy_s > IDLE_S:
                reader.actor.close.remote()  # Ray ends the actor when nothing refers to it
                self._readers.remove(reader)

    def _request_nodes(self) -> None:
        """Show Ray's autoscaler, if there is one, that more nodes would be used.

        It counts tasks that no node has resources for. They end with this process, whereas ``request_resources`` of Ray keeps its
        nodes until another request, which also replaces those of other programs.
        """
        _, self._requests = ray.wait(self._requests, num_returns=len(self._requests), timeout=0) if self._requests else ([], [])
        wanted = min(math.ceil(self.work.waiting / FILES_FOR_A_NODE), MAX_REQUESTS)
        for request in self._requests[wanted:]:
            ray.cancel(request)
        del self._requests[wanted:]
        gpus = 1 if self._on_gpus and self._device != "auto" else 0
        task = self._request.options(num_cpus=1, num_gpus=gpus, max_retries=0)
        self._requests += [task.remote() for _ in range(wanted - len(self._requests))]

    def _places(self, node: dict[str, Any]) -> int:
        return max(1, int(node["Resources"].get("GPU", 0))) if self._on_gpus else 1

    def _start(self, node_id: str, node: dict[str, Any]) -> None:
        places, resources = self._places(node), node["Resources"]
        actor = (
            ray.remote(ArchiveReader)
            .options(
                num_cpus=max(1, resources["CPU"] // places),
                num_gpus=1 if self._on_gpus and resources.get("GPU") else 0,
                max_concurrency=MAX_FILES_AT_ONCE + 2,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
            )
            .remote(*self._arguments)
        )
        self._readers.append(_Reader(actor, node_id, str(node["NodeName"]), actor.open.remote()))

    def _note(self, reader: _Reader, reference: Any) -> None:
        try:
            answer = ray.get(reference)
        except RayTaskError as error:
            if reference not in reader.files:
                raise
            failed = self.work.fail(reader.files.pop(reference).key)
            if failed is not None:
                self._progress.lost(failed, reader.node, f"internal error: {error.cause!r}")
            return
        except RayError:  # the process ended, or the node is lost
            self._lose(reader, "the process that read it ended without an error message")
            return
        if isinstance(answer, Opened):
            reader.opening = None
            if answer.error is not None:
                message, hint, status = answer.error
                failure = EngineError(f"node {reader.node}: {message}", hint)
                failure.exit_status = status
                raise failure
            reader.files_at_once = answer.files_at_once
            reader.busy_s = time.monotonic()
            self._ready_s = self._ready_s or time.monotonic()
        elif isinstance(answer, FileOutcome):
            if answer.lost:
                self._engine_losses += 1
                if self._engine_losses >= MAX_LOST_READERS:
                    raise EngineError(f"node {reader.node}: {answer.lost}")
                self._lose(reader, answer.lost)
                return
            self._engine_losses = 0
            self._note_file(reader.files.pop(reference), reader.node, answer)
        else:
            reader.fractions = None
            self._progress.partly(answer)

    def _note_file(self, file: ArchiveFile, node: str, outcome: FileOutcome) -> None:
        if outcome.segments:
            read = self._plan.read_segments(file, outcome.segments)
            self.work.split(file.key, outcome.segments, read)
            self._progress.split(file, set(range(len(outcome.segments))) - read, len(outcome.segments))
        elif file.part is None:
            self.work.finish(file.key)
            self._progress.add(file, node, outcome.source, outcome.exit_status)
        elif self.work.finish_part(file.key, outcome.read_whole):
            self._progress.add_part(file, node, outcome.source)
        elif outcome.read_whole:
            self._progress.read_whole(file)

    def _lose(self, reader: _Reader, why: str) -> None:
        self._readers.remove(reader)
        ray.kill(reader.actor)
        node_lost = reader.node_id not in alive_nodes()
        keys = [file.key for file in reader.files.values()]
        for file in self.work.lose(keys, node_lost):
            self._progress.lost(file, reader.node, why)
        if not reader.files_at_once and not node_lost:
            lost = self._lost_early[reader.node_id] = self._lost_early.get(reader.node_id, 0) + 1
            if lost >= MAX_LOST_READERS:
                what = f"node {reader.node}: the reader ended {lost} times before its engine was open"
                raise EngineError(what, "See the log of the node, for example for too little memory.")


def _nothing() -> None:
    """Do nothing: the task of a request for a node."""


def _asked(reader: _Reader) -> Iterator[Any]:
    yield from reader.files
    yield from (reference for reference in (reader.opening, reader.fractions) if reference is not None)


def alive_nodes() -> dict[str, dict[str, Any]]:
    """Return the nodes that can run a reader, by their ids."""
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1}
