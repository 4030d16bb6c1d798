"""Second derivatives of logit differences along given directions, for many classes at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.numerics.hessian import hessian_products
from pipeline.numerics.norms import per_sample


def second_derivatives(
    model: nn.Module,
    points: Tensor,
    source: Tensor,
    classes: Tensor,
    directions: Tensor,
    radius: float | None,
    batch_size: int,
) -> Tensor:
    """v^T Hess(F_i) v of F_i = logit[i] - logit[source], for every class i and direction v of a sample.

    With a radius h they are second differences of the logits, (F(x + h v) - 2 F(x) + F(x - h v)) / h^2 for |v| = 1.
    Being linear in the logits, they give all classes for the price of one, by two forward passes a direction and no
    backward pass; for rectifier networks they see the bends within h, those near the middle most. Rounding moves them
    by about 4 eps |logits| / h^2, with eps = 6e-8 in float32. Without a radius they are exact, by two backward passes
    per class and direction. (Forward-mode differentiation also gives all classes at once; on a CPU it costs four to
    seven forward passes where a difference costs two, and attention's fused kernels do not have it.)

    Args:
        model: images to logits.
        points: (n, c, h, w).
        source: (n,) int64.
        classes: (n, k) int64.
        directions: (n, t, c, h, w) of length 1.
        radius: of the differences, in units of the data; None: exact.
        batch_size: images per forward pass.

    Returns:
        (n, k, t), detached, in the dtype of the points.
    """
    repeats = directions.shape[1]
    if radius is None:
        products = [hessian_products(model, points, source, other, directions) for other in classes.unbind(dim=1)]
        return torch.stack([(product * directions).flatten(2).sum(dim=2) for product in products], dim=1)
    with torch.no_grad():
        steps = radius * directions.flatten(0, 1)
        centres = points.repeat_interleave(repeats, dim=0)
        pairs = zip(torch.split(centres, batch_size), torch.split(steps, batch_size), strict=True)
        sums = torch.cat([model(centre + step) + model(centre - step) for centre, step in pairs])
        middle = torch.cat([model(part) for part in torch.split(points, batch_size)])
        bends = (sums.view(len(points), repeats, -1) - 2 * middle[:, None]) / radius**2  # (n, t, all classes)
        own = bends.gather(2, per_sample(source, bends).expand(-1, repeats, 1))
        found: Tensor = bends.gather(2, classes[:, None].expand(-1, repeats, -1)) - own
        return found.transpose(1, 2)
