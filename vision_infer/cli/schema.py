"""``vision-infer schema``: the JSON Schemas of files."""

from __future__ import annotations

import json

import typer

app = typer.Typer(help="Print the JSON Schema of a file format.", no_args_is_help=True)


@app.command()
def result() -> None:
    """Print the schema of a result row: one line of a .jsonl file."""
    from vision_infer.core.result import RESULT_SCHEMA

    typer.echo(json.dumps(RESULT_SCHEMA, indent=2))


@app.command()
def card() -> None:
    """Print the schema of a model card: model.yaml, also embedded in deployment graphs."""
    from vision_infer.core.card import ModelCard

    typer.echo(json.dumps(ModelCard.model_json_schema(), indent=2))


@app.command()
def config() -> None:
    """Print the schema of the configuration of 'vision-infer serve', for completion and validation in editors."""
    from vision_infer.config.serve_schema import config_schema

    typer.echo(json.dumps(config_schema(), indent=2))


@app.command()
def passport() -> None:
    """Print the schema of a passport: how an engine was built, and its measured accuracy and speed."""
    from vision_infer.engine.store.passport import Passport

    typer.echo(json.dumps(Passport.model_json_schema(), indent=2))
