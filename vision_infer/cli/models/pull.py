"""``vision-infer model pull``: a network of the catalogue is fetched from its authors, and made ready to run."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vision_infer.cli import options
from vision_infer.core.errors import ModelError

if TYPE_CHECKING:
    from vision_infer.model.pull.available import AvailableModel
    from vision_infer.model.pull.download import Report


def pull_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name in the catalogue: model list --available.")],
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Its file, fetched by hand: nothing is fetched, its checksum is looked at all the same."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name for 'run --model NAME'. Default: MODEL.")] = None,
    overwrite: options.Overwrite = False,
    model_dir: options.ModelDir = None,
) -> None:
    """Fetch a network of the catalogue from its authors, and make a deployment graph of it.

    What broke off goes on where it was. Proxies are taken from HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
    """
    from vision_infer.model.catalogue import model_dir as user_folder
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
        typer.echo(f"its weights are here: {path}")
        weights = shlex.quote(str(path))
        typer.echo(
            f"make a deployment graph of them: vision-infer model export {found.export.family} --weights {weights} --name {name}"
        )
    elif found.by_hand and not made_by_hand:
        typer.echo(f"its weights are here: {path}")
        typer.echo(f"its authors' own tool makes an ONNX file of them; {found.by_hand.replace('FILE', shlex.quote(str(path)))}")
        typer.echo(f"then: {again} --file THAT.onnx")
    else:
        try:
            _import(found, path, sha256, name, folder, overwrite)
        except ModelError:
            if unknown:  # what came for the first time is not taken for what has to come
                forget(path)
            raise


def _fetched(found: AvailableModel, file: Path | None) -> tuple[Path, str, bool]:
    """The network's file, its SHA-256, and whether it was fetched now and nothing was known of it before.

    Raises:
        ModelError: it cannot be had, or is not the right one.
    """
    from vision_infer.model.catalogue import home_dir
    from vision_infer.model.pull.checksum import check_file, read_first_seen
    from vision_infer.model.pull.download import download

    stated = found.file.stated
    target, unknown = home_dir(os.environ) / "downloads" / found.name / found.file.name, False
    if file is not None:
        if not file.is_file():
            raise ModelError(f"{file}: no such file", "check the path")
        sha256 = check_file(file, stated, read_first_seen(target), str(file))
    elif not found.file.url:
        raise ModelError(f"{found.name}: its authors offer it on a page only: {found.file.page}", _by_hand(found))
    else:
        typer.echo(f"fetching {found.file.url}")
        with _progress(found.file.name) as report:
            got = download(found.file.url, target, stated, report=report, on_message=_say)
        file, sha256, unknown = got.path, got.sha256, got.first_time
    if stated is None:
        typer.echo(f"sha256 {sha256}: its source states none; what is fetched later must be the same as what was fetched first")
    else:
        typer.echo(f"its checksum is the one that its source states: {stated}")
    return file, sha256, unknown


def _by_hand(found: AvailableModel) -> str:
    if found.export is not None:
        fetched = f"vision-infer model export {found.export.family} --download --name {found.name} fetches and exports it"
        return f"{fetched}; or get its file there and give it with --file PATH"
    return f"get it there; {found.by_hand}; then: vision-infer model pull {found.name} --file THAT.onnx"


def _import(found: AvailableModel, file: Path, sha256: str, name: str, folder: Path, overwrite: bool) -> None:
    from vision_infer.model.importing import Proposal, import_model
    from vision_infer.precision.verification.import_check import prove_import

    assert found.import_ is not None

    def prove(proposal: Proposal) -> None:
        for line in prove_import(proposal, None):
            typer.echo(line)

    path = import_model(
        file,
        name,
        found.import_.head,
        labels=found.import_.labels or None,
        model_dir=folder,
        overwrite=overwrite,
        about=found.about(sha256),
        on_message=typer.echo,
        prove=prove,
    )
    typer.echo(f"wrote {path}; run it with: vision-infer run VIDEO --model {name}")


def _sha256(file: Path) -> str:
    from vision_infer.model.pull.checksum import hash_file

    try:
        return hash_file(file)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}", "check the path") from error


def _say(text: str) -> None:
    typer.echo(text, err=True)


@contextmanager
def _progress(name: str) -> Iterator[Report]:
    """A bar with bytes, rate and time left on a terminal, and nothing elsewhere; says what is kept when it is interrupted."""
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
        _say(f"interrupted: {done / 1e6:.1f}{of} MB are kept, and the same command goes on from there")
        raise
