"""``vision-infer token``: create, list and revoke API tokens of persons, at a running service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from typer import Argument, Option

from vision_infer.cli import options
from vision_infer.cli.service_client import TOKEN, ServiceClient, read_token
from vision_infer.core.errors import VisionInferError

PATH = "/api/v1/tokens"
app = typer.Typer(help="Create, list and revoke API tokens of persons, at a running service.", no_args_is_help=True)
Url = Annotated[str, Option(metavar="URL", help="The URL of the service.")]
TokenFile = Annotated[Path | None, Option(metavar="FILE", help=f"A file with your own token. Default: ${TOKEN}.")]
DEFAULT_URL = "http://127.0.0.1:8080"


@app.command("create")
def create_command(
    person: Annotated[str | None, Option(metavar="NAME", help="The person. Default: yourself.")] = None,
    role: Annotated[str | None, Option(metavar="ROLE", help="The role, see access.roles. Default: yours.")] = None,
    days: Annotated[float, Option(min=0.001, max=366, help="The lifetime in days.")] = 30.0,
    note: Annotated[str, Option(metavar="TEXT", help="What the token is for.")] = "",
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
) -> None:
    """Create a token and print it. It cannot be shown again."""
    values = {"person": person, "role": role, "days": days, "note": note}
    body = json.dumps({name: value for name, value in values.items() if value is not None}).encode()
    answer, _ = ServiceClient(url, read_token(token_file), "--url").send("POST", PATH, body, "application/json")
    made = _parsed(answer, url)
    typer.echo(f"token {made['id']} of {made['person']}, role {made['role']}, valid until {made['expires']}:", err=True)
    typer.echo(made["token"])


@app.command("list")
def list_command(url: Url = DEFAULT_URL, token_file: TokenFile = None, json_output: options.Json = False) -> None:
    """List your tokens; with all rights, those of all persons."""
    answer, _ = ServiceClient(url, read_token(token_file), "--url").send("GET", PATH)
    tokens = _parsed(answer, url)
    if json_output:
        typer.echo(json.dumps(tokens, indent=2))
        return
    for token in tokens:
        note = f"  {token['note']}" if token["note"] else ""
        typer.echo(f"{token['id']}  {token['person']}  {token['role']}  until {token['expires']}{note}")


@app.command("revoke")
def revoke_command(
    token_id: Annotated[str, Argument(metavar="ID", help="The id of the token, as listed.")],
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
) -> None:
    """Revoke a token. Its connections end at once."""
    ServiceClient(url, read_token(token_file), "--url").send("DELETE", f"{PATH}/{quote(token_id, safe='')}")
    typer.echo(f"token {token_id} is revoked")


def _parsed(answer: bytes, url: str) -> Any:
    try:
        return json.loads(answer)
    except ValueError:
        raise VisionInferError(f"{url}: is not a vision-infer service", "Check --url.") from None
