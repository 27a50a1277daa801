"""The plan of a run over files: what to read, what to write, and what an earlier run has done already."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module

from vision_infer.config.run import RunSettings
from vision_infer.pipeline.runs.outputs import OutputPlan, open_sink, plan_outputs
from vision_infer.pipeline.runs.resume import Journal, ResumePlan, check_resumable, open_journal, plan_resume, with_resume
from vision_infer.pipeline.runs.run_factories import output_options
from vision_infer.pipeline.runs.wiring import RunModels, resolve_models
from vision_infer.sink.datasets.sample import Difference
from vision_infer.sink.formats import format_of
from vision_infer.sink.sink import Sink
from vision_infer.stream.find import FoundSources
from vision_infer.stream.source import SourceSpec


@dataclass(frozen=True, slots=True)
class Job:
    """The work of a run."""

    found: FoundSources
    specs: tuple[SourceSpec, ...]
    """The sources to read, without those that an earlier run has finished."""
    outputs: OutputPlan
    models: RunModels
    journal: Journal | None
    todo: ResumePlan
    resumed: bool
    """Whether the run continues with the journal of an earlier run."""
    keep_journal: bool
    """Whether the journal is kept when the run is complete."""

    def begin(self, difference: Difference | None = None) -> list[Sink]:
        """Open the sinks that all sources share, once nothing can be refused.

        The journal is written first, because an old one describes files that are replaced now.

        Args:
            difference: For the samples of a dataset, compares a result with that of another model.

        Raises:
            OutputError: A file cannot be written.
        """
        if self.journal is not None:
            self.journal.begin(self.specs, self.resumed)
        sinks: list[Sink] = []
        with ExitStack() as opened:
            if self.journal is not None and not self.resumed:
                opened.callback(self.journal.remove)
            for output in self.outputs.shared:
                sinks.append(open_sink(output, None, difference=difference))
                opened.callback(sinks[-1].close, False)
            opened.pop_all()
            return sinks


def plan_job(settings: RunSettings, found: FoundSources) -> Job:
    """Plan a run. Outputs that cannot be written are refused here, before anything takes time.

    Raises:
        VisionInferError: An output cannot be written, a model does not exist, or an earlier run cannot be resumed.
    """
    options = output_options(settings)
    outputs = plan_outputs(settings.out, found.specs, settings.overwrite or settings.resume, options)
    models = resolve_models(settings)
    # A camera cannot be resumed.
    live = any(spec.kind == "live" for spec in found.specs)
    journal = None if live else open_journal(settings, next(iter(models.graphs.values())), outputs)
    if settings.resume:
        check_resumable(outputs)
        has_memory = settings.tracked or settings.gate is not None
        todo = None if journal is None else plan_resume(journal, found.specs, outputs, has_memory)
        if journal is not None and todo is not None:
            left = tuple(spec for spec in found.specs if spec.name not in todo.finished)
            return Job(found, left, with_resume(outputs, todo), models, journal, todo, resumed=True, keep_journal=True)
        # There was no earlier run: the files that exist are not ours to replace.
        outputs = plan_outputs(settings.out, found.specs, settings.overwrite, options)
    return Job(found, found.specs, outputs, models, journal, ResumePlan(), resumed=False, keep_journal=settings.resume)


def import_libraries(settings: RunSettings, job: Job) -> None:
    """Import what the run will use, so that no frame waits for an import."""
    import_module("vision_infer.stream.files.video_file")
    if any(spec.kind == "images" for spec in job.specs):
        import_module("vision_infer.stream.files.images")
    for found in {format_of(output.kind) for output in job.outputs.specs()}:
        for name in (found.module, *found.packages):
            import_module(name)
    if settings.tracked:
        import_module("lap")
