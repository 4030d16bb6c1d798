"""Products with Hessians: exact ones and differences of gradients, against closed forms."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from pipeline.numerics.hessian import hessian_products, loss_hessian_products
from tests.oracles import affine, grey_images, network

SHAPE = (2, 3, 2)
ZERO, ONE = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)


def pairs(model: nn.Module, images: Tensor) -> Tensor:
    """F = logit[1] - logit[0]."""
    logits = model(images)
    return logits[:, 1] - logits[:, 0]


def dense(model: nn.Module, images: Tensor) -> Tensor:
    """Hessians by automatic differentiation of the whole gradient, (n, d, d)."""
    found = [
        torch.autograd.functional.hessian(lambda point: pairs(model, point.view(1, *SHAPE)).sum(), image.flatten())
        for image in images
    ]
    return torch.stack(found)


@pytest.mark.parametrize(("radius", "tolerance"), [(None, 1e-12), (1e-4, 1e-6)])
def test_products_are_those_of_the_hessian(radius: float | None, tolerance: float) -> None:
    model, images = network(SHAPE, 3), grey_images(4, SHAPE)
    directions = torch.randn(4, 5, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions[0, 0] = 0
    expected = torch.einsum("nij,nkj->nki", dense(model, images), directions.flatten(2)).view_as(directions)
    found = hessian_products(model, images, ZERO, ONE, directions, radius)
    assert torch.allclose(found, expected, atol=tolerance * float(expected.abs().max()))
    assert expected.abs().max() > 0.1
    assert not found[0, 0].any()
    swapped = hessian_products(model, images, ONE, ZERO, directions, radius)
    assert torch.allclose(swapped, -found)


@pytest.mark.parametrize("radius", [None, 1e-4])
def test_loss_of_an_affine_classifier(radius: float | None) -> None:
    """Its Hessian is W^T (diag p - p p^T) W."""
    model, images = affine(SHAPE, 3), grey_images(4, SHAPE)
    directions = grey_images(4, (2, *SHAPE), seed=3)
    share = model(images).softmax(dim=1)
    middle = torch.diag_embed(share) - share[:, :, None] * share[:, None]
    expected = directions.flatten(2) @ (model.weight.T @ middle @ model.weight)
    found = loss_hessian_products(model, images, ONE, directions, radius).flatten(2)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("radius", [None, 0.3])
def test_affine_logits_have_no_hessian(radius: float | None) -> None:
    found = hessian_products(affine(SHAPE, 3), grey_images(4, SHAPE), ZERO, ONE, grey_images(4, (2, *SHAPE)), radius)
    assert found.shape == (4, 2, *SHAPE)
    assert found.abs().max() < 1e-12


def test_only_differences_see_the_kinks_of_rectifiers() -> None:
    """F = |x_0| in two rectifiers: grad F jumps from -1 to 1, which a difference of radius h spreads over 2 h."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        model[3].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    model.requires_grad_(False)
    points = torch.tensor([[0.001, 0.2], [0.5, 0.2]], dtype=torch.float64).view(2, 1, 1, 2)
    axes = torch.eye(2, dtype=torch.float64).view(1, 2, 1, 1, 2).expand(2, -1, -1, -1, -1)
    assert not hessian_products(model, points, ZERO[:2], ONE[:2], axes).any()
    seen = hessian_products(model, points, ZERO[:2], ONE[:2], axes, 0.1).flatten(2)
    assert torch.allclose(seen, torch.tensor([[[10.0, 0], [0, 0]], [[0, 0], [0, 0]]], dtype=torch.float64))


@pytest.mark.parametrize("radius", [None, 0.1])
def test_convolutions_are_not_rounded_meanwhile(radius: float | None) -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(torch.backends.cudnn.allow_tf32)
            return images.flatten(1).square()

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        hessian_products(Spy(), grey_images(4, SHAPE), ZERO, ONE, grey_images(4, (1, *SHAPE)), radius)
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert seen
    assert not any(seen)


def test_attention_is_differentiated_twice() -> None:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, embed_dim=16, depth=1, num_heads=2, num_classes=3
    )
    model = model.double().eval().requires_grad_(False)
    images, directions = grey_images(2, (1, 8, 8)), grey_images(2, (2, 1, 8, 8), seed=3)
    exact = hessian_products(model, images, ZERO[:2], ONE[:2], directions)
    near = hessian_products(model, images, ZERO[:2], ONE[:2], directions, 1e-3)
    assert exact.abs().max() > 0
    assert torch.allclose(exact, near, atol=1e-4 * float(exact.abs().max()))
