"""Small networks that timm does not have; in a config their names stand like those of timm's models."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from torch import nn

KERNEL = 5  # pixels a side of LeNet's convolutions


def lenet(*, num_classes: int, in_chans: int, size: Sequence[int]) -> nn.Module:
    """LeNet-5 with rectifiers and max-pooling: two 5 x 5 convolutions and three linear layers.

    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", Proceedings of
    the IEEE 1998, in the form of the released code of "Hold me tight!" (NeurIPS 2020): rectifiers and max-pooling in
    place of sigmoids and weighted means, every map of the second convolution sees all of the first, plain logits.
    Departure from that code: images need not be of 28 x 28 pixels.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        size: their height and width in pixels.

    Raises:
        ValueError: the images are too small for it.
    """
    # The first convolution is padded and keeps the size.
    rows, columns = ((side // 2 - KERNEL + 1) // 2 for side in size)
    if min(rows, columns) < 1:
        raise ValueError(f"images of {size[0]} x {size[1]} pixels, expected at least 12 x 12")
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_chans, 6, KERNEL, padding=KERNEL // 2),
            act1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, KERNEL),
            act2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(16 * rows * columns, 120),
            act3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            act4=nn.ReLU(),
            fc3=nn.Linear(84, num_classes),
        )
    )


def mlp(*, num_classes: int, in_chans: int, size: Sequence[int], depth: int = 5, width: int = 256) -> nn.Module:
    """A multilayer perceptron: `depth` hidden layers of `width` rectifiers each, between the pixels and the logits.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        size: their height and width in pixels.
        depth: number of hidden layers; 0 is an affine classifier.
        width: rectifiers in each.

    Raises:
        ValueError: `depth` or `width` is out of range.
    """
    if depth < 0 or width < 1:
        raise ValueError(f"given depth {depth} and width {width}, expected depth from 0 and width from 1")
    widths = [in_chans * size[0] * size[1], *[width] * depth]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))


NETS: Mapping[str, Callable[..., nn.Module]] = {"lenet": lenet, "mlp": mlp}
