"""``vision-infer model pull``: download a model of the catalog from its authors and import it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from vision_infer.cli import options
from vision_infer.cli.models.next_step import print_next_step
from vision_infer.core.errors import ModelError

if TYPE_CHECKING:
    from vision_infer.model.pull.available import AvailableModel
    from vision_infer.model.pull.download import Report


def pull_command(
    model: Annotated[
        str,
        Argument(
            metavar="MODEL",
            help="A name from the catalog; 'model list --available' lists them.",
            autocompletion=options.catalog_names,
        ),
    ],
    file: Annotated[Path | None, Option(metavar="PATH", help="Use this file instead of downloading it.")] = None,
    name: Annotated[str | None, Option(help="The name of the new model, for 'run --model NAME'. Default: MODEL.")] = None,
    overwrite: options.Overwrite = False,
    model_dir: options.ModelDir = None,
) -> None:
    """Download a model of the catalog from its authors and convert it to a deployment graph.

    An interrupted download is resumed. Proxies are read from HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
    """
    from vision_infer.model.catalog import model_dir as user_folder
    from vision_infer.model.model_folder import refuse_taken
    from vision_infer.model.pull.available import find_available
    from vision_infer.model.pull.download import forget

    found = find_available(model)
    name = name or found.name
    folder = user_folder(model_dir, os.environ)
    if not overwrite:
        refuse_taken(folder / name)
    typer.echo(f"{found.name}: {found.family}, {found.license}, from {found.source}")
    made_by_hand = bool(found.by_hand) and file is not None and file.suffix == ".onnx"
    path, sha256, unknown = (file, _sha256(file), False) if file is not None and made_by_hand else _fetched(found, file)
    again = f"vision-infer model pull {found.name}{'' if name == found.name else f' --name {shlex.quote(name)}'}"
    if found.export is not None:
        typer.echo(f"weights saved to {path}")
        weights = shlex.quote(str(path))
        typer.echo(
            f"convert them to a deployment graph with: vision-infer model export {found.export.family} --weights "
            f"{weights} --name {name}"
        )
    elif found.by_hand and not made_by_hand:
        typer.echo(f"weights saved to {path}")
        typer.echo(f"convert them to ONNX with the authors' tool: {found.by_hand.replace('FILE', shlex.quote(str(path)))}")
        typer.echo(f"then run: {again} --file THAT.onnx")
    else:
        try:
            _import(found, path, sha256, name, folder, overwrite)
        except ModelError:
            if unknown:  # a failed first download must not define the expected checksum
                forget(path)
            raise


def _fetched(found: AvailableModel, file: Path | None) -> tuple[Path, str, bool]:
    """Return the file, its SHA-256, and whether it was downloaded now for the first time.

    Raises:
        ModelError: The file cannot be downloaded, or has the wrong checksum.
    """
    from vision_infer.model.catalog import home_dir
    from vision_infer.model.pull.checksum import check_file, read_first_seen
    from vision_infer.model.pull.download import download

    stated = found.file.stated
    target, unknown = home_dir(os.environ) / "downloads" / found.name / found.file.name, False
    if file is not None:
        if not file.is_file():
            raise ModelError(f"{file}: no such file", "Check the path.")
        sha256 = check_file(file, stated, read_first_seen(target), str(file))
    elif not found.file.url:
        raise ModelError(f"{found.name}: can only be downloaded from a web page: {found.file.page}", _by_hand(found))
    else:
        typer.echo(f"downloading {found.file.url}")
        with _progress(found.file.name) as report:
            got = download(found.file.url, target, stated, report=report, on_message=_print_message)
        file, sha256, unknown = got.path, got.sha256, got.first_time
    if stated is None:
        typer.echo(f"sha256 {sha256}: the source publishes no checksum; later downloads must match this one")
    else:
        typer.echo(f"the checksum matches the published one: {stated}")
    return file, sha256, unknown


def _by_hand(found: AvailableModel) -> str:
    if found.export is not None:
        command = f"vision-infer model export {found.export.family} --download --name {found.name} downloads and exports it"
        return f"{command}; or download the file there and pass it with --file PATH"
    return f"download it there; {found.by_hand}; then run: vision-infer model pull {found.name} --file THAT.onnx"


def _import(found: AvailableModel, file: Path, sha256: str, name: str, folder: Path, overwrite: bool) -> None:
    from vision_infer.model.importing import ImportRequest, Proposal, import_model
    from vision_infer.precision.verification.import_check import verify_import

    assert found.import_ is not None

    def verify(proposal: Proposal) -> None:
        for line in verify_import(proposal, None):
            typer.echo(line)

    path = import_model(
        ImportRequest(
            file,
            name,
            head=found.import_.head,
            labels=found.import_.labels or None,
            model_dir=folder,
            overwrite=overwrite,
            about=found.about(sha256),
        ),
        on_message=typer.echo,
        verify=verify,
    )
    print_next_step(path, name)


def _sha256(file: Path) -> str:
    from vision_infer.model.pull.checksum import hash_file

    try:
        return hash_file(file)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}", "Check the path.") from error


def _print_message(text: str) -> None:
    typer.echo(text, err=True)


@contextmanager
def _progress(name: str) -> Iterator[Report]:
    """Show a progress bar on a terminal; when interrupted, print how much was downloaded."""
    done, total = 0, None

    def note(now: int, all_: int | None) -> None:
        nonlocal done, total
        done, total = now, all_

    try:
        if not sys.stderr.isatty():
            yield note
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(name, total=None)

            def draw(now: int, all_: int | None) -> None:
                note(now, all_)
                bars.update(task, completed=now, total=all_)

            yield draw
    except KeyboardInterrupt:
        of = f" of {total / 1e6:.1f}" if total else ""
        _print_message(f"interrupted: {done / 1e6:.1f}{of} MB are kept; run the same command again to resume")
        raise
