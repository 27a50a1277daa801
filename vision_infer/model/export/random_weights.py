"""Weights for untrained models whose outputs differ between images and positions.

With the usual initial weights most models give nearly the same outputs for all images, so a comparison of two programs would not
detect errors. So each layer's weights are scaled to outputs of variance 1 (Mishkin and Matas, All You Need Is a Good Init,
ICLR 2016).
"""

from __future__ import annotations

from typing import Any

from vision_infer.core.geometry import Size
from vision_infer.model.export.library import load

_COARSE = 8
"""The number of coarse cells along each side of the synthetic image."""


def spread(network: Any, size: Size) -> None:
    """Scale the weights of each convolution and linear layer by its outputs for a synthetic image.

    Args:
        network: The ``torch.nn.Module``, which is changed.
        size: The input size.
    """
    torch = load("torch")
    layers = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    done: set[int] = set()

    def scale(layer: Any, _: Any, output: Any) -> Any:
        if id(layer) in done:  # a head that is applied to several maps
            return output
        done.add(id(layer))
        bias = 0.0 if layer.bias is None else layer.bias.view(-1, *(1,) * (output.dim() - 2 if layer.weight.dim() == 4 else 0))
        deviation = (output - bias).std()
        if not torch.isfinite(deviation) or deviation < 1e-12:
            return output
        layer.weight /= deviation
        return (output - bias) / deviation + bias

    with torch.no_grad():
        for layer in layers:
            if not layer.weight.any():  # initialized with zeros
                torch.nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
        hooks = [layer.register_forward_hook(scale) for layer in layers]
        areas = torch.nn.functional.interpolate(torch.randn(2, 3, _COARSE, _COARSE), (size.height, size.width), mode="bilinear")
        try:
            network(areas + 0.3 * torch.randn(2, 3, size.height, size.width))
        finally:
            for hook in hooks:
                hook.remove()
