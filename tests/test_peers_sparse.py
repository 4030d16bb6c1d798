"""SparseFool beside torchattacks' method of that name, on the same samples.

Theirs is another algorithm. In each round it starts from the clean image, so that changes do not accumulate; it scales
the whole displacement by lambda, DeepFool's overshoot included, and takes the normal at the scaled point, not at the
boundary; it knows no bounds but [0, 1], and stops after ten rounds. Ours accumulates, takes the normal at the boundary,
and undoes pixels that are not needed.
"""

from __future__ import annotations

import pytest
import torch

from pipeline.attacks.sparsefool import sparsefool
from pipeline.numerics.norms import l0_pixels
from tests.test_peers import trained as trained  # a fixture

pytestmark = pytest.mark.slow


def test_sparsefool_fools_more_with_fewer_pixels_than_torchattacks(
    trained: tuple[torch.nn.Module, torch.Tensor, torch.Tensor],
) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="needs the extra `bench`: make slow")
    model, images, labels = trained
    images, labels = images[:24], labels[:24]

    def pixels(found: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            fooled = model(found).argmax(dim=1) != labels
        assert ((found >= 0) & (found <= 1)).all()
        return torch.where(fooled, l0_pixels(found - images).double(), torch.inf)

    theirs = pixels(torchattacks.SparseFool(model, steps=10, lam=3, overshoot=0.02)(images, labels))
    ours = pixels(sparsefool(model=model, images=images, labels=labels, seeds=torch.zeros_like(labels)))
    both = theirs.isfinite() & ours.isfinite()
    assert ours.isfinite().sum() >= theirs.isfinite().sum()
    assert both.any()
    assert ours[both].median() <= theirs[both].median()
    assert ours.median() <= theirs.median()
