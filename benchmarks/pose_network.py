"""A pose model for the table of exports: ResNet-18 with a SimCC head, random weights."""

from __future__ import annotations

from typing import Any

import torch
import torchvision

WIDTH, HEIGHT, KEYPOINTS, SPLIT = 192, 256, 17, 2


class SimccResnet(torch.nn.Module):
    """Returns scores of the columns and rows of each keypoint, as RTMPose does: float32 [B, P, 2W] and [B, P, 2H]."""

    def __init__(self) -> None:
        super().__init__()
        whole = torchvision.models.resnet18(weights=None)
        self.features = torch.nn.Sequential(*list(whole.children())[:-2], torch.nn.Conv2d(512, KEYPOINTS, 7, padding=3))
        cells = (WIDTH // 32) * (HEIGHT // 32)
        self.columns = torch.nn.Linear(cells, WIDTH * SPLIT)
        self.rows = torch.nn.Linear(cells, HEIGHT * SPLIT)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute both outputs for images, float32 [B, 3, 256, 192]."""
        found = self.features(images).flatten(2)
        return self.columns(found), self.rows(found)


def simcc_resnet18() -> tuple[torch.nn.Module, dict[str, Any]]:
    """Return the model and its card."""
    return SimccResnet(), {
        "head": "simcc",
        "input": {"width": WIDTH, "height": HEIGHT},
        "outputs": ["simcc_x", "simcc_y"],
    }
