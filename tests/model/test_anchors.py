"""Default boxes, anchors and points equal those of torchvision, for square and other inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.exported import load
from vision_infer.core.geometry import Size
from vision_infer.model.anchors import Grids, fcos_points, halving_grids, retina_anchors, ssd_boxes, ssd_layouts


def from_torchvision(generator: Any, size: Size, grids: Grids) -> NDArray[np.float64]:
    """Return a generator's boxes for an input and its grids: center, width and height."""
    torch = load("torch")
    images = load("torchvision.models.detection.image_list").ImageList(
        torch.zeros(1, 3, size.height, size.width), [(size.height, size.width)]
    )
    (boxes,) = generator(images, [torch.zeros(1, 1, *grid) for grid in grids])
    values = boxes.double().numpy()
    return np.concatenate([(values[:, :2] + values[:, 2:]) / 2, values[:, 2:] - values[:, :2]], axis=1)


@pytest.mark.parametrize("size", [Size(320, 320), Size(512, 256)])
def test_ssdlite(size: Size) -> None:
    generator = load("torchvision.models.detection.anchor_utils").DefaultBoxGenerator
    (layout,) = ssd_layouts(size)
    expected = from_torchvision(generator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95), size, layout.grids)
    assert layout.count == len(expected)
    np.testing.assert_allclose(ssd_boxes(size, layout), expected, atol=1e-4)


def test_ssd300() -> None:
    generator = load("torchvision.models.detection.anchor_utils").DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )
    size = Size(300, 300)
    layout = ssd_layouts(size)[1]
    assert (layout.name, layout.count) == ("SSD300", 8732)
    np.testing.assert_allclose(ssd_boxes(size, layout), from_torchvision(generator, size, layout.grids), atol=1e-4)


@pytest.mark.parametrize("size", [Size(800, 800), Size(320, 192), Size(1344, 800)])
def test_retinanet(size: Size) -> None:
    generator = load("torchvision.models.detection.retinanet")._default_anchorgen()
    grids = halving_grids(size, 8, 5)
    np.testing.assert_allclose(retina_anchors(size, grids), from_torchvision(generator, size, grids), atol=1e-4)


@pytest.mark.parametrize("size", [Size(800, 800), Size(320, 192)])
def test_fcos(size: Size) -> None:
    sizes = tuple((side,) for side in (8, 16, 32, 64, 128))
    generator = load("torchvision.models.detection.anchor_utils").AnchorGenerator(sizes, ((1.0,),) * 5)
    grids = halving_grids(size, 8, 5)
    expected = from_torchvision(generator, size, grids)
    np.testing.assert_allclose(fcos_points(size, grids), expected[:, :3], atol=1e-4)


def test_grids_are_rounded_up() -> None:
    assert halving_grids(Size(320, 192), 16, 6) == ((12, 20), (6, 10), (3, 5), (2, 3), (1, 2), (1, 1))
