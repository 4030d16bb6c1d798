from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.corruptions._filters import gaussian
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import uniform

FAMILY = "digital"
PART = 16  # images at a time: bounds the memory for the coordinates


def elastic_transform(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Warp the image by a random affine map, and the result by a smooth random displacement of its pixels.

    Three corners of a square about the middle move by uniform draws in x and y, which fixes the affine map. The
    displacement along each axis is uniform noise on [-1, 1], smoothed by a Gaussian that is cut at three deviations
    (the line reflected about its outer rims), times a length. Each warp interpolates linearly, so an image is softened
    twice, as in the original. What lies outside is reflected: about the centres of the edge pixels by the affine map,
    about their outer rims by the displacement.

    Severity does not order the size of the change, since the published jitter of the corners shrinks while the
    displacement grows (CIFAR-C) or roughens (ImageNet-C): CIFAR-C's first level moves pixels the most.

    Source: Hendrycks & Dietterich, ICLR 2019, after Simard et al., ICDAR 2003. Departures from its code:

    - The affine map is exact. OpenCV 4 rounds places to 1/32 pixel: up to 2.5 grey levels at 32 pixels, .2 on average.
    - All lengths are shares of the image's shorter side. The original's are shares of 32 pixels for CIFAR-C and, by a
      slip that it notes and keeps, of 244 for the 224 of ImageNet-C, whose shares we therefore multiply by 244/224.
    - The square's centre is (width, height) // 2; the original swaps the two, which shows on oblong images alone.
    - Uniform draws are float32, not float64.

    Args:
        images: (n, c, h, w) float32 in [0, 1], at least 3 pixels a side.
        seeds: (n,) int64, one stream of draws per image.
        severity: 1 to 5.
        constants: `cifar` (corners move by at most .08-.03 of the side, smoothed noise is multiplied by 0-.1 of it),
            `imagenet` (.2-.02 and 2-.05, times 244/224), or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    height, width = images.shape[-2:]
    side = min(height, width)
    published = ((2.0, 0.7, 0.1), (2.0, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    shares = constant(
        images,
        severity,
        constants,
        cifar=((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        imagenet=[tuple(share * 244 / 224 for share in shares) for shares in published],
    )
    length, sigma, jitter = (share * side for share in shares)
    smooth_rows, smooth_columns = _smoothing(height, sigma), _smoothing(width, sigma)
    parts = []
    for start in range(0, len(images), PART):
        part = images[start : start + PART]
        draws = uniform(seeds[start : start + PART], (6 + 2 * height * width,)) * 2 - 1
        x, y = _affine(draws[:, :6].view(-1, 3, 2).double() * jitter, height, width)
        part = _sample(part, x, y, about_centre=True)
        if length:
            noise = draws[:, 6:].view(-1, 2, height, width)
            # Image by image: a product of matrices of one fixed size has the same bits in any batch.
            shift = torch.stack([smooth_rows @ one.clone() @ smooth_columns.T for one in noise]).double() * length
            x = torch.arange(width) + shift[:, 0]
            y = torch.arange(height)[:, None] + shift[:, 1]
            part = _sample(part, x, y, about_centre=False)
        parts.append(part)
    return torch.cat(parts).clamp(0, 1)


def _affine(jitter: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Places that the affine map carries to each pixel.

    Args:
        jitter: (n, 3, 2) float64, the moves in x and y of the square's corners at bottom right, top right and top left.
        height: of the image, pixels.
        width: of the image, pixels.

    Returns:
        x and y, each (n, h, w) float64.
    """
    half = min(height, width) // 3
    right, bottom = width // 2 + half, height // 2 + half
    corners = torch.tensor([[right, bottom], [right, bottom - 2 * half], [right - 2 * half, bottom - 2 * half]])
    moved = (corners + jitter)[..., None, None]  # (n, 3, 2, 1, 1)
    from_x = torch.arange(width) - moved[:, 0, 0]  # (n, 1, w)
    from_y = torch.arange(height)[:, None] - moved[:, 0, 1]  # (n, h, 1)
    up, left = (moved[:, 1] - moved[:, 0]).unbind(1), (moved[:, 2] - moved[:, 1]).unbind(1)
    area = up[0] * left[1] - up[1] * left[0]
    # A pixel lies at bottom right + u * up + v * left, and came from the same u and v on the unmoved square.
    u = (from_x * left[1] - from_y * left[0]) / area
    v = (up[0] * from_y - up[1] * from_x) / area
    return right - 2 * half * v, bottom - 2 * half * u


def _smoothing(size: int, sigma: float) -> Tensor:
    """Matrix that smooths a line of pixels, reflected about its outer rims: (size, size) float32."""
    radius = int(3 * sigma + 0.5)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    source = (torch.arange(size)[:, None] + torch.arange(-radius, radius + 1)).remainder(2 * size)
    source = torch.minimum(source, 2 * size - 1 - source)
    weights = gaussian(sigma, radius) if radius else torch.ones(1, dtype=torch.float64)
    return matrix.scatter_add_(1, source, weights.expand(size, -1)).float()


def _sample(images: Tensor, x: Tensor, y: Tensor, *, about_centre: bool) -> Tensor:
    """Interpolate linearly at x and y, (n, h, w) float64 pixels; reflected about the edge pixels' centres or rims."""
    height, width = images.shape[-2:]
    if about_centre:
        grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
    else:
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    grid = grid.to(images)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=about_centre)
