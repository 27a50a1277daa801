"""``vision-infer schema``: the formats that are read and written, as JSON Schema."""

from __future__ import annotations

import json

import typer

app = typer.Typer(help="Print the JSON Schema of what is read or written.", no_args_is_help=True)


@app.command()
def result() -> None:
    """A line of a .jsonl file: what one frame gave."""
    from vision_infer.core.result import RESULT_SCHEMA

    typer.echo(json.dumps(RESULT_SCHEMA, indent=2))


@app.command()
def card() -> None:
    """A model card: model.yaml, and what travels in a deployment graph."""
    from vision_infer.core.card import ModelCard

    typer.echo(json.dumps(ModelCard.model_json_schema(), indent=2))


@app.command()
def config() -> None:
    """The configuration of 'vision-infer serve', YAML; editors take it to complete and check."""
    from vision_infer.config.serve_schema import config_schema

    typer.echo(json.dumps(config_schema(), indent=2))


@app.command()
def passport() -> None:
    """A passport: what an engine was made of, how good and how fast it was measured to be, and where."""
    from vision_infer.engine.store.passport import Passport

    typer.echo(json.dumps(Passport.model_json_schema(), indent=2))
