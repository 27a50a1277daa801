"""The choice of frames that are worth labeling."""

from __future__ import annotations

import re


def check_sample(sample: str | None) -> str | None:
    """Return the value of a setting ``sample``.

    Raises:
        ValueError: It is not a choice of frames.
    """
    if sample is not None and not re.fullmatch("uncertain|diverse|every:[1-9][0-9]{0,8}", sample):
        raise ValueError("must be uncertain, diverse or every:N, such as every:50")
    return sample
