"""The command ``vision-infer`` and its subcommands."""

from __future__ import annotations

import typer

from vision_infer import __version__
from vision_infer.cli import cluster, diff, doctor, run, schema, serve, why
from vision_infer.cli.access import token
from vision_infer.cli.cameras import cameras
from vision_infer.cli.capacity import bench, plan
from vision_infer.cli.engines import engine
from vision_infer.cli.models import model

app = typer.Typer(
    name="vision-infer",
    help="Real-time object detection for cameras and videos, with the age of every result and a reason for every dropped frame.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="run")(run.run_command)
app.command(name="serve")(serve.serve_command)
app.command(name="diff")(diff.diff_command)
app.command(name="why")(why.why_command)
app.command(name="bench")(bench.bench_command)
app.command(name="plan")(plan.plan_command)
app.command(name="doctor")(doctor.doctor_command)
app.add_typer(cameras.app, name="cameras")
app.add_typer(model.app, name="model")
app.add_typer(engine.app, name="engine")
app.add_typer(schema.app, name="schema")
app.add_typer(cluster.app, name="cluster")
app.add_typer(token.app, name="token")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vision-infer {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of errors."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
) -> None:
    pass
