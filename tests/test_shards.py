"""Every attack, on samples divided among 1, 2 or 5 shards: the same images."""

from __future__ import annotations

import pytest
import torch

from pipeline import registry
from pipeline.models.nets import mlp
from tests.test_every_method import QUICK


@pytest.mark.parametrize("name", registry.names("attack"))
def test_shards_do_not_matter(name: str) -> None:
    torch.manual_seed(0)
    model = mlp(num_classes=4, in_chans=1, size=(6, 6), depth=1, width=16).double().eval().requires_grad_(False)
    images = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    model[-1].bias -= model(images).mean(0)  # so that every class is predicted
    labels = model(images).argmax(1)
    seeds = torch.arange(40) + 7
    options = {key: option.default for key, option in registry.options("attack", name).items()} | QUICK[name]

    def attacked(shards: int) -> torch.Tensor:
        attack = registry.load("attack", name)
        parts = zip(*(part.tensor_split(shards) for part in (images, labels, seeds)), strict=True)
        return torch.cat([attack(model=model, images=x, labels=y, seeds=s, **options) for x, y, s in parts])

    whole = attacked(1)
    assert not torch.equal(whole, images), "the attack does something"
    for shards in (2, 5):
        torch.testing.assert_close(attacked(shards), whole, rtol=0, atol=1e-3)
