"""The last lines of the commands that make a model."""

from __future__ import annotations

from pathlib import Path

import typer


def print_next_step(path: Path, name: str) -> None:
    """Print where a new model is and how to run it, and with several runtimes, how to find the faster one."""
    from vision_infer.engine.registry import auto_runtimes

    typer.echo(f"wrote {path}; run it with: vision-infer run VIDEO --model {name}")
    runtimes = [runtime.title for runtime in auto_runtimes()]
    if len(runtimes) > 1:
        faster = f"{' or '.join(runtimes)}, whichever is faster here"
        typer.echo(f"to use {faster} (measured in a few seconds), run: vision-infer engine choose {name}")
