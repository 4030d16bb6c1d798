"""What attacks of other packages need to keep the package's laws: a box, draws of their own, no touched parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import UserError
from pipeline.numerics.boundary import crossed
from pipeline.numerics.box import Box
from pipeline.numerics.norms import per_sample

STRETCHES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)  # shares of a perturbation's length


class UnitModel(nn.Module):
    """A classifier of images in an interval as one of images in [0, 1], the only box that the libraries know.

    Attributes:
        low: of the box.
        width: of the box.
        dtype: of the images that the classifier takes; what comes in and goes out may have another one.
    """

    def __init__(self, model: nn.Module, images: Tensor, box: Box) -> None:
        """Wrap a classifier.

        Args:
            model: images in the box to logits.
            images: gives the dtype.
            box: of valid images.

        Raises:
            UserError: the box is flipped or unbounded.
        """
        super().__init__()
        if box.flipped or not math.isfinite(box.high - box.low):
            space = "flipped" if box.flipped else "unbounded"
            raise UserError(
                f"attacks: this method needs bounded pixels, given a data set with a {space} space; use pgd or deepfool"
            )
        self.model, self.low, self.width, self.dtype = model, box.low, box.high - box.low, images.dtype
        self.train(model.training)

    def forward(self, points: Tensor) -> Tensor:
        """Logits of points in [0, 1], in their dtype."""
        logits: Tensor = self.model((self.low + self.width * points).to(self.dtype))
        return logits.to(points.dtype)

    def points(self, images: Tensor) -> Tensor:
        """Images of the box in [0, 1]."""
        return ((images - self.low) / self.width).clamp(0, 1)

    def images(self, points: Tensor, clean: Tensor) -> Tensor:
        """Points as images, in the dtype of the clean ones, to whose entries untouched ones go back exactly."""
        start = self.points(clean).to(points.dtype)
        images = (self.low + self.width * points).to(clean).clamp(self.low, self.low + self.width)
        return torch.where(points == start, clean, images)


class Draws:
    """Stands in for `torch` inside a library, so that its random draws depend on no other sample.

    Libraries draw from the global generator for the whole batch at once. Here draws of four axes, the first of which
    counts samples, are made sample by sample: from each sample's own seed where the seeds are given, else once, as for
    a batch of one, and handed to every sample. Others belong to no sample and are made once. So a sample meets what it
    would have met alone. All draws come from CPU generators: every device sees the same numbers, and no global
    generator is touched, not even by a library that seeds it, which seeds the one in here instead.
    """

    def __init__(self, seeds: Tensor | None = None) -> None:
        """Seed the draws: (n,) int64 for every row of the batch, or None for draws that are shared, with seed 0."""
        self._shared = torch.Generator().manual_seed(0)
        rows = [] if seeds is None else seeds.tolist()
        self._own = [torch.Generator().manual_seed(seed) for seed in rows]
        self.random = SimpleNamespace(manual_seed=self._shared.manual_seed)
        self.cuda = SimpleNamespace(random=SimpleNamespace(manual_seed=lambda seed: None))  # nothing is drawn there

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def rand(self, shape: Sequence[int], **given: Any) -> Tensor:
        """As `torch.rand`."""
        return self._draw(torch.rand, shape, **given)

    def randn(self, shape: Sequence[int], **given: Any) -> Tensor:
        """As `torch.randn`."""
        return self._draw(torch.randn, shape, **given)

    def randn_like(self, other: Tensor) -> Tensor:
        """As `torch.randn_like`."""
        return self._draw(torch.randn, other.shape, dtype=other.dtype, device=other.device)

    def _draw(
        self,
        draw: Callable[..., Tensor],
        shape: Sequence[int],
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        if len(shape) != 4:
            drawn = draw(tuple(shape), generator=self._shared, dtype=dtype)
        elif self._own:
            rows = [draw(tuple(shape[1:]), generator=own, dtype=dtype) for own in self._own]
            drawn = torch.stack(rows)
        else:
            drawn = draw((1, *shape[1:]), generator=self._shared, dtype=dtype).repeat(shape[0], 1, 1, 1)
        return drawn.to(device)


@contextmanager
def borrowed(model: nn.Module, modules: Sequence[ModuleType], draws: Draws) -> Iterator[None]:
    """Run a library: its modules draw from `draws`, and its backward passes leave the parameters alone."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before: list[Any] = [vars(module)["torch"] for module in modules]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        for module in modules:
            vars(module)["torch"] = draws
        yield
    finally:
        for module, original in zip(modules, before, strict=True):
            vars(module)["torch"] = original
        for parameter in asking:
            parameter.requires_grad_(True)


@torch.no_grad()
def settled(
    model: nn.Module, clean: Tensor, found: Tensor, labels: Tensor, bring: Callable[[Tensor], Tensor]
) -> Tensor:
    """What a library found where it fools the classifier, else the clean image; it is not trusted to be finite.

    A library takes any rival that leads for a success, and one that minimises a norm ends where a lead is lost in
    rounding. Such a point is moved on, away from the clean image, by the first of `STRETCHES` that gives it a lead.

    Args:
        model: images to logits.
        clean: (n, c, h, w) in the box.
        found: (n, c, h, w).
        labels: (n,) int64.
        bring: takes points of all samples back to where they may lie, so the box, or ball and box.
    """
    finite = found.flatten(1).isfinite().all(dim=1)
    shift = torch.where(per_sample(finite, found), found - clean, 0)
    results, left = clean.clone(), finite & (shift != 0).flatten(1).any(dim=1)
    for stretch in STRETCHES:
        if not left.any():
            break
        trial = bring(torch.where(per_sample(left, found), found + stretch * shift, clean))
        fooled = left.clone()
        fooled[left] = crossed(model(trial[left]), labels[left])
        results[fooled] = trial[fooled]
        left &= ~fooled
    return results
