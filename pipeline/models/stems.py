"""A stem for images of 32 px and below: stride-1 first convolution, no pooling."""

from __future__ import annotations

from torch import nn

from pipeline.contracts import UserError


def small_stem(net: nn.Module, name: str) -> None:
    """Replace the stem of a timm ResNet in place, so that the first stage sees the image at full resolution.

    A single 7 x 7 convolution of stride 2 becomes a 3 x 3 one of stride 1, as in the CIFAR variants of He et al.
    (2016); in a deep stem only the stride changes. The max-pooling goes. It works for the whole family that timm
    builds as `timm.models.ResNet`: resnet, resnext, wide_resnet, seresnet, ecaresnet, ...

    Raises:
        UserError: the architecture has no such stem.
    """
    from timm.models.resnet import ResNet

    if not isinstance(net, ResNet):
        raise UserError(
            f"{name} has no small-image stem: `stem: small` works for timm's resnet family; for others leave it "
            "out and use the architecture's own options (a ViT takes img_size and patch_size)"
        )
    if isinstance(net.conv1, nn.Sequential):
        first = next(layer for layer in net.conv1 if isinstance(layer, nn.Conv2d))
        first.stride = (1, 1)
    else:
        old = net.conv1
        net.conv1 = nn.Conv2d(old.in_channels, old.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
