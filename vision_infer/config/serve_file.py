"""From a file, URLs, the environment and options to the settings of the service; each later one goes before the former."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from vision_infer.config.environment import settings_in
from vision_infer.config.fields import Place, fields_of, type_at, unwrapped
from vision_infer.config.references import expand, read_secret
from vision_infer.config.serve import ServeFile, ServeSettings, StreamDefaults
from vision_infer.config.stream_url import name_of
from vision_infer.config.validation_errors import SettingsError, ValidationProblem, mistakes_of
from vision_infer.config.yaml_lines import YamlError, compose, line_of, plain, read_text

_FILE = "file:"
_EXAMPLE = "write streams: {front: {url: 'rtsp://10.0.0.5/front'}}"


def load_settings(
    path: Path | None, urls: Sequence[str], environ: Mapping[str, str], overrides: Mapping[str, object]
) -> ServeSettings:
    """The settings of the service.

    Args:
        path: the configuration, YAML; None: there is none.
        urls: of the command line; each becomes a stream, named after the end of its path or its host.
        environ: the environment, for ``VISION_INFER_…`` and for references.
        overrides: options of the command line, by their field with dots: ``{"service.port": 9000}``; None: not given.

    Raises:
        SettingsError: with all that is wrong, each with its file and line, variable or option; holds no secret.
        UsageError: the file cannot be read.
    """
    draft = _Draft(path, environ)
    if path is not None:
        draft.read(path)
    draft.add_urls(urls)
    draft.add_environment()
    draft.add_overrides(overrides)
    draft.replace_references()
    return draft.validated()


@dataclass(slots=True, repr=False)  # it holds passwords
class _Draft:
    """Settings on their way, with where each came from."""

    path: Path | None
    environ: Mapping[str, str]
    data: dict[str, Any] = field(default_factory=dict)
    node: Any = None
    """the tree of the file"""
    mistakes: list[ValidationProblem] = field(default_factory=list)
    origins: dict[Place, str] = field(default_factory=dict)
    """of what does not stand in the file"""
    literal: set[Place] = field(default_factory=set)
    """where ``$`` means nothing: what the environment gave"""
    replaced: set[Place] = field(default_factory=set)
    """where a reference stood"""

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
            raise SettingsError([self._in_file((), "holds no streams", 0)], _EXAMPLE)
        self.data = {**data, "streams": data["streams"] or {}} if "streams" in data else data  # 'streams:' and nothing below it

    def add_urls(self, urls: Sequence[str]) -> None:
        streams = self.data.setdefault("streams", {})
        if not isinstance(streams, dict):  # told by validation
            return
        for number, url in enumerate(urls, 1):
            name = name_of(url, streams)
            streams[name] = {"detect": url}
            self.origins["streams", name] = f"URL {number}"

    def add_environment(self) -> None:
        found, mistakes = settings_in(self.environ, ServeFile, self.data)
        self.mistakes += mistakes
        for one in found:
            self._set(one.place, one.value, one.variable)
            self.literal.add(one.place)

    def add_overrides(self, overrides: Mapping[str, object]) -> None:
        for name, value in overrides.items():
            if value is not None:
                place = tuple(name.split("."))
                self._set(place, value, "--" + place[-1].replace("_", "-"))
                self.literal.add(place)

    def _set(self, place: Place, value: object, origin: str) -> None:
        at = self.data
        for key in place[:-1]:
            below = at.get(str(key))
            if below is None:
                below = at[str(key)] = {}
            if not isinstance(below, dict):  # told by validation
                return
            at = below
        if place[-1] in ("detect", "url"):  # two names of one field
            at.pop("detect", None)
            at.pop("url", None)
        at[str(place[-1])] = value
        self.origins[place] = origin

    def replace_references(self) -> None:
        folder = Path() if self.path is None else self.path.parent
        self.data = self._replaced(self.data, (), folder)

    def _replaced(self, value: Any, place: Place, folder: Path) -> Any:
        if isinstance(value, dict):
            return {key: self._replaced(below, (*place, key), folder) for key, below in value.items()}
        if isinstance(value, list):
            return [self._replaced(below, (*place, index), folder) for index, below in enumerate(value)]
        if not isinstance(value, str):
            return value
        try:
            if unwrapped(type_at(ServeFile, place)) is SecretStr and value.startswith(_FILE):
                new = read_secret(value.removeprefix(_FILE), folder)
            else:
                new = value if place in self.literal else expand(value, self.environ, folder)
        except ValueError as error:
            self.mistakes.append(self._at(place, str(error)))
            self.replaced.add(place)
            return value
        if new != value:
            self.replaced.add(place)
        return new

    def validated(self) -> ServeSettings:
        unread = {one.place for one in self.mistakes if one.place}
        defaults = self.data.pop("defaults", None) or {}
        wrong: set[Place] = set()
        try:
            StreamDefaults.model_validate(defaults)
        except ValidationError as error:
            for one in mistakes_of(error, StreamDefaults, _below(self.replaced, "defaults")):
                wrong.add(one.place)
                self._tell(("defaults", *one.place), one.message, unread)
        inherited = self._inherit(defaults if isinstance(defaults, dict) else {})
        try:
            settings = ServeSettings.model_validate(self.data)
        except ValidationError as error:
            for one in mistakes_of(error, ServeFile, self.replaced):
                place = one.place
                if place[:1] == ("streams",) and place[1:3] in inherited:
                    if place[2:] in wrong or any(place[2 : 2 + len(bad)] == bad for bad in wrong if bad):
                        continue
                    source: Place = ("defaults", *place[2:])
                    self._tell(place, one.message, unread, source)
                else:
                    self._tell(place, one.message, unread)
            raise self._error() from None
        if self.mistakes:
            raise self._error()
        return settings

    def _inherit(self, defaults: dict[str, Any]) -> set[Place]:
        """Give each stream what it does not name itself; returns (stream, field) of what was given."""
        streams = self.data.get("streams")
        given: set[Place] = set()
        known = {key: value for key, value in defaults.items() if key in fields_of(StreamDefaults)}
        if not isinstance(streams, dict):  # told by validation
            return given
        for name, stream in streams.items():
            if isinstance(stream, dict):
                given |= {(name, key) for key in known if key not in stream}
                streams[name] = known | stream
        return given

    def _tell(self, place: Place, message: str, unread: set[Place], source: Place | None = None) -> None:
        # What a reference could not give is not wrong for another reason too.
        if not any(place[: len(one)] == one or (source or place)[: len(one)] == one for one in unread):
            self.mistakes.append(self._at(place, message, source))

    def _at(self, place: Place, message: str, source: Place | None = None) -> ValidationProblem:
        """A mistake with its origin, by the nearest that has one of those that hold the place."""
        looked = source or place
        for length in range(len(looked), 0, -1):
            origin = self.origins.get(looked[:length])
            if origin is not None:
                return ValidationProblem(place, message, origin)
        if self.node is None:
            return ValidationProblem(place, message)
        return self._in_file(place, message, line_of(self.node, looked))

    def _in_file(self, place: Place, message: str, line: int) -> ValidationProblem:
        name = str(self.path).encode("utf-8", "backslashreplace").decode()
        return ValidationProblem(place, message, f"{name}: line {line}" if line else name, line)

    def _error(self) -> SettingsError:
        return SettingsError(sorted(self.mistakes, key=lambda one: one.line))


def _below(places: set[Place], first: str) -> Iterator[Place]:
    return (place[1:] for place in places if place[:1] == (first,))
