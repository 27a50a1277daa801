"""The user name and password with which a command logs in to a camera. The password is never on the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from vision_infer.core.errors import UsageError

if TYPE_CHECKING:
    from vision_infer.config.secrets.credentials import CameraCredentials

PASSWORD = "CAMERA_PASSWORD"
"""The environment variable with the password."""
User = Annotated[
    str | None,
    Option(metavar="NAME", help=f"The user name of the camera. The password is in ${PASSWORD}, in a file, or asked for."),
]
PasswordFile = Annotated[Path | None, Option(metavar="FILE", help="A file with the password of the camera.")]


@dataclass(frozen=True, slots=True)
class CameraLogin:
    """A user name and password."""

    user: str
    password: str = field(repr=False)
    reference: str
    """What a configuration contains in place of the password: ``${CAMERA_PASSWORD}``, ``${file:/run/secrets/camera}``."""
    variable: str = ""
    """The environment variable that has to be set for the reference, because the password was typed; empty if there is none."""


def read_login(user: str | None, password_file: Path | None, variables: Sequence[str] = (PASSWORD,)) -> CameraLogin | None:
    """Return the user name and password from the options, or from the terminal.

    Args:
        user: The user name; None for no login.
        password_file: The file with the password; None for an environment variable or the terminal.
        variables: The environment variables, in order of precedence. The first is that of a password that is typed.

    Raises:
        UsageError: There is no password, or the file cannot be read.
    """
    from vision_infer.config.secrets.secret_references import read_secret

    if user is None:
        if password_file is not None:
            raise UsageError("--password-file: needs a user name", "Add --user NAME.")
        return None
    if not user:
        raise UsageError("--user: is empty", "Give the user name of the camera.")
    if password_file is not None:
        if "}" in str(password_file.absolute()):  # it would end the reference
            raise UsageError("--password-file: the path contains }", "Use a path without braces.")
        try:
            return CameraLogin(user, read_secret(str(password_file), Path()), f"${{file:{password_file.absolute()}}}")
        except ValueError as error:
            raise UsageError(f"--password-file: {error}") from None
    for variable in variables:
        if os.environ.get(variable):
            return CameraLogin(user, os.environ[variable], f"${{{variable}}}")
    if not sys.stdin.isatty():
        names = " or ".join(f"${variable}" for variable in variables)
        raise UsageError(f"--user {user}: there is no password", f"Set {names}, or use --password-file FILE.")
    typed = typer.prompt(f"Password of {user}", hide_input=True, err=True)
    return CameraLogin(user, typed, f"${{{variables[0]}}}", variables[0])


def user_and_password(url: str, login: CameraLogin | None, credentials: Sequence[CameraCredentials]) -> tuple[str, str]:
    """Return the user name and password for a URL: those of the options, or else of ``credentials``; empty if there are none."""
    from vision_infer.config.secrets.credentials import credentials_for

    if login is not None:
        return login.user, login.password
    known = credentials_for(url, credentials)
    return (known.user, known.password.get_secret_value()) if known else ("", "")
