"""Weights for an untrained network, so that its outputs differ from picture to picture and place to place.

As libraries begin a training, most networks give nearly the same for every picture: two programs that run one would agree
whatever they did. So each layer's weights are scaled until what it gives has the variance 1 (Mishkin and Matas, All You Need Is
a Good Init, ICLR 2016).
"""

from __future__ import annotations

from typing import Any

from vision_infer.core.geometry import Size
from vision_infer.model.export.library import load

_COARSE = 8
"""cells across the made-up picture's areas"""


def spread(network: Any, size: Size) -> None:
    """Scale the weights of all convolutions and linear layers, each once, on what reaches it from a made-up picture.

    Args:
        network: ``torch.nn.Module``, float32 [B, 3, H, W]; is changed.
        size: of its input.
    """
    torch = load("torch")
    layers = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    done: set[int] = set()

    def scale(layer: Any, _: Any, output: Any) -> Any:
        if id(layer) in done:  # a head that looks at several maps
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
            if not layer.weight.any():  # begun at zero, to be trained away from it
                torch.nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
        hooks = [layer.register_forward_hook(scale) for layer in layers]
        areas = torch.nn.functional.interpolate(torch.randn(2, 3, _COARSE, _COARSE), (size.height, size.width), mode="bilinear")
        try:
            network(areas + 0.3 * torch.randn(2, 3, size.height, size.width))
        finally:
            for hook in hooks:
                hook.remove()
