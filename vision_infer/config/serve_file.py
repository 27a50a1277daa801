"""Load the settings of the service from a file, URLs, the environment and options; later sources take precedence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from vision_infer.config.environment import settings_in
from vision_infer.config.fields import Location, fields_of, type_at, unwrapped
from vision_infer.config.secrets.secret_references import expand, read_secret
from vision_infer.config.serve import ServeFile, ServeSettings, StreamDefaults
from vision_infer.config.stream_url import is_file, name_of
from vision_infer.config.validation_errors import SettingsError, ValidationProblem, problems_of
from vision_infer.config.yaml_lines import YamlError, compose, line_of, plain, read_text

_FILE = "file:"
_EXAMPLE = "Write streams: {front: {url: 'rtsp://10.0.0.5/front'}}."


def load_settings(
    path: Path | None,
    urls: Sequence[str],
    environ: Mapping[str, str],
    overrides: Mapping[str, object],
    loop: bool = False,
) -> ServeSettings:
    """Load the settings of the service.

    Args:
        path: The configuration, YAML; None if there is none.
        urls: The URLs from the command line; each becomes a stream, named after the end of its path or its host.
        environ: The environment, for ``VISION_INFER_…`` and for references.
        loop: Whether the files among the URLs restart at their end.
        overrides: Options from the command line by dotted field name, ``{"service.port": 9000}``; None is ignored.

    Raises:
        SettingsError: The settings are invalid; lists all problems with their origin, without secrets.
        UsageError: The file cannot be read.
    """
    draft = _Draft(path, environ)
    if path is not None:
        draft.read(path)
    draft.add_urls(urls, loop)
    draft.add_environment()
    draft.add_overrides(overrides)
    draft.replace_references()
    return draft.validated()


@dataclass(slots=True, repr=False)  # it contains passwords
class _Draft:
    """Unvalidated settings with the origin of each value."""

    path: Path | None
    environ: Mapping[str, str]
    data: dict[str, Any] = field(default_factory=dict)
    node: Any = None
    """The tree of the file."""
    problems: list[ValidationProblem] = field(default_factory=list)
    origins: dict[Location, str] = field(default_factory=dict)
    """The origins of values that are not in the file."""
    url_streams: set[str] = field(default_factory=set)
    """The names of the streams from URLs."""
    literal: set[Location] = field(default_factory=set)
    """The locations where ``$`` is literal: values from the environment."""
    replaced: set[Location] = field(default_factory=set)
    """The locations of references."""

    def read(self, path: Path) -> None:
        text = read_text(path)
        try:
            self.node = compose(text)
            data = None if self.node is None else plain(self.node)
        except YamlError as error:
            raise SettingsError([self._in_file((), error.message, error.line or 0)]) from None
        if data is None:  # only comments
            return
        if not isinstance(data, dict):
            raise SettingsError([self._in_file((), "contains no streams", 0)], _EXAMPLE)
        self.data = {**data, "streams": data["streams"] or {}} if "streams" in data else data  # 'streams:' without content

    def add_urls(self, urls: Sequence[str], loop: bool) -> None:
        streams = self.data.setdefault("streams", {})
        if not isinstance(streams, dict):  # reported by validation
            return
        for number, url in enumerate(urls, 1):
            name = name_of(url, streams)
            streams[name] = {"detect": url, "loop": loop and is_file(url)}
            self.origins["streams", name] = f"URL {number}"
            self.url_streams.add(name)

    def add_environment(self) -> None:
        found, problems = settings_in(self.environ, ServeFile, self.data)
        self.problems += problems
        for setting in found:
            self._set(setting.location, setting.value, setting.variable)
            self.literal.add(setting.location)

    def add_overrides(self, overrides: Mapping[str, object]) -> None:
        for name, value in overrides.items():
            if value is not None:
                location = tuple(name.split("."))
                self._set(location, value, "--" + location[-1].replace("_", "-"))
                self.literal.add(location)

    def _set(self, location: Location, value: object, origin: str) -> None:
        at = self.data
        for key in location[:-1]:
            below = at.get(str(key))
            if below is None:
                below = at[str(key)] = {}
            if not isinstance(below, dict):  # reported by validation
                return
            at = below
        if location[-1] in ("detect", "url"):  # two names of the same field
            at.pop("detect", None)
            at.pop("url", None)
        at[str(location[-1])] = value
        self.origins[location] = origin

    def replace_references(self) -> None:
        folder = Path() if self.path is None else self.path.parent
        self.data = self._replaced(self.data, (), folder)

    def _replaced(self, value: Any, location: Location, folder: Path) -> Any:
        if isinstance(value, dict):
            return {key: self._replaced(below, (*location, key), folder) for key, below in value.items()}
        if isinstance(value, list):
            return [self._replaced(below, (*location, index), folder) for index, below in enumerate(value)]
        if not isinstance(value, str):
            return value
        try:
            if unwrapped(type_at(ServeFile, location)) is SecretStr and value.startswith(_FILE):
                new = read_secret(value.removeprefix(_FILE), folder)
            else:
                new = value if location in self.literal else expand(value, self.environ, folder)
        except ValueError as error:
            self.problems.append(self._at(location, str(error)))
            self.replaced.add(location)
            return value
        if new != value:
            self.replaced.add(location)
        return new

    def validated(self) -> ServeSettings:
        unread = {problem.location for problem in self.problems if problem.location}
        defaults = self.data.pop("defaults", None) or {}
        wrong: set[Location] = set()
        try:
            StreamDefaults.model_validate(defaults)
        except ValidationError as error:
            for problem in problems_of(error, StreamDefaults, _below(self.replaced, "defaults")):
                wrong.add(problem.location)
                self._report(("defaults", *problem.location), problem.message, unread)
        inherited = self._inherit(defaults if isinstance(defaults, dict) else {})
        try:
            folder = None if self.path is None else self.path.parent.absolute()
            settings = ServeSettings.model_validate(self.data, context={"folder": folder})
        except ValidationError as error:
            for problem in problems_of(error, ServeFile, self.replaced):
                location = problem.location
                if location[:1] == ("streams",) and location[1:3] in inherited:
                    if location[2:] in wrong or any(location[2 : 2 + len(bad)] == bad for bad in wrong if bad):
                        continue
                    source: Location = ("defaults", *location[2:])
                    self._report(location, problem.message, unread, source)
                else:
                    self._report(location, problem.message, unread)
            raise self._error() from None
        if self.problems:
            raise self._error()
        return settings.with_url_streams(frozenset(self.url_streams))

    def _inherit(self, defaults: dict[str, Any]) -> set[Location]:
        """Apply defaults to each stream; returns the (stream, field) pairs that came from them."""
        streams = self.data.get("streams")
        given: set[Location] = set()
        known = {key: value for key, value in defaults.items() if key in fields_of(StreamDefaults)}
        if not isinstance(streams, dict):  # reported by validation
            return given
        for name, stream in streams.items():
            if isinstance(stream, dict):
                given |= {(name, key) for key in known if key not in stream}
                streams[name] = known | stream
        return given

    def _report(self, location: Location, message: str, unread: set[Location], source: Location | None = None) -> None:
        # A failed reference is reported once, not again by validation.
        if not any(location[: len(start)] == start or (source or location)[: len(start)] == start for start in unread):
            self.problems.append(self._at(location, message, source))

    def _at(self, location: Location, message: str, source: Location | None = None) -> ValidationProblem:
        """Return a problem with its origin, or with the origin of its nearest parent."""
        origin_of = source or location
        for length in range(len(origin_of), 0, -1):
            origin = self.origins.get(origin_of[:length])
            if origin is not None:
                return ValidationProblem(location, message, origin)
        if self.node is None:
            return ValidationProblem(location, message)
        return self._in_file(location, message, line_of(self.node, origin_of))

    def _in_file(self, location: Location, message: str, line: int) -> ValidationProblem:
        name = str(self.path).encode("utf-8", "backslashreplace").decode()
        return ValidationProblem(location, message, f"{name}: line {line}" if line else name, line)

    def _error(self) -> SettingsError:
        return SettingsError(sorted(self.problems, key=lambda problem: problem.line))


def _below(locations: set[Location], first: str) -> Iterator[Location]:
    return (location[1:] for location in locations if location[:1] == (first,))
