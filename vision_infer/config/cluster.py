"""The settings of a cluster of machines, which ``serve --cluster`` uses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from vision_infer.config.settings_base import SettingsBase


def label_text(value: object) -> object:
    """Return the text of a label; YAML reads ``gpu: true`` as a Boolean."""
    return str(value).lower() if isinstance(value, bool) else value


NodeLabels = dict[str, Annotated[str, BeforeValidator(label_text)]]


class ClusterSettings(SettingsBase):
    """The settings of a cluster. On one machine, they have no effect."""

    on_partition: Literal["keep", "stop"] = Field(
        default="keep",
        description="What a node of a cluster does with its streams while it cannot reach the controller: `keep` runs them until "
        "Ray ends the processes of the node, by default after 60 s. `stop` stops them before another node gets them, for cameras "
        "that accept one connection.",
    )
    autoscale: bool = Field(
        default=False,
        description="On a cluster with Ray's autoscaler: request nodes for streams that fit on no node, which wait for them, and "
        "release nodes without streams. false: the API rejects such streams.",
    )
