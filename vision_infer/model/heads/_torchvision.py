"""What torchvision's detectors share: class scores [B, N, C] and box regressions [B, N, 4], straight from convolutions."""

from __future__ import annotations

from vision_infer.model.network import RawNetwork, Tensor
from vision_infer.model.origin import Columns


def raw_outputs(network: RawNetwork, extra: int = 0) -> tuple[Tensor, ...] | None:
    """The outputs: class scores, boxes and, where asked for, one more column; None where they are not all there.

    Args:
        network: the raw network.
        extra: how many outputs [B, N, 1] there have to be.
    """
    outputs = network.outputs
    if (
        network.other_inputs
        or len(outputs) != 2 + extra
        or any(len(tensor.shape) != 3 or None in tensor.shape for tensor in outputs)
    ):
        return None
    if len({tensor.shape[1] for tensor in outputs}) != 1:
        return None
    narrow = [tensor for tensor in outputs if tensor.shape[2] == 1]
    rest = [tensor for tensor in outputs if tensor.shape[2] != 1]
    if len(rest) == 1 and len(narrow) == extra + 1:  # one class: its scores are as narrow
        named = [tensor for tensor in narrow if "cls" in tensor.name or "class" in tensor.name or "logit" in tensor.name]
        if len(named) != 1:
            return None
        rest, narrow = [*named, *rest], [tensor for tensor in narrow if tensor is not named[0]]
    boxes = [tensor for tensor in rest if tensor.shape[2] == 4]
    if len(boxes) == 2:  # four classes: only the names tell
        boxes = [tensor for tensor in boxes if "box" in tensor.name or "reg" in tensor.name]
    scores = [tensor for tensor in rest if all(tensor is not box for box in boxes)]
    if len(boxes) != 1 or len(scores) != 1 or len(narrow) != extra:
        return None
    # A DETR has outputs like these, with boxes behind a sigmoid.
    if "Sigmoid" in Columns(network, boxes[0], 4).ops(0, 4):
        return None
    return (scores[0], boxes[0], *narrow)
