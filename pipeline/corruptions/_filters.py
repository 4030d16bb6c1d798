"""Correlation of a batch with one kernel, with borders of any width."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

NEGLIGIBLE = 1e-9  # a weight below this moves no pixel by a thousandth of a grey level, whatever the kernel's size
PIECE = 2**16  # numbers worked on at once: a few such buffers stay in a core's own cache
PIECE_ON_GPU = 2**24  # there a piece costs as many launches whatever its length

Border = Literal["mirror", "nearest"]
Step = Callable[[], object]


def correlate(images: Tensor, kernel: Tensor, *, border: Border) -> Tensor:
    """Correlate every channel with one kernel; the output has the size of the input.

    Single additions and multiplications of shifted images, in a fixed order: each pixel is computed by the same
    operations in any batch and the result is equal bit for bit, which no library convolution promises. Borders may be
    wider than the image.

    Planes, with their borders, are laid end to end in one line of numbers, on which a tap of the kernel is a shift.
    They are worked through in pieces that fit the processor's cache, always in the same buffers, so the operations are
    listed only once.

    Args:
        images: (n, c, h, w) floating point.
        kernel: (kh, kw), both odd. One that both mirrors leave as it is takes far fewer operations.
        border: `mirror` reflects about the edge pixel's centre (d c b | a b c d | c b a), `nearest` repeats the edge
            pixel (a a a | a b c d | d d d), as in scipy.ndimage.

    Returns:
        (n, c, h, w), of the images' type and device.
    """
    kernel = _trimmed(kernel).to(images.dtype)
    height, width = images.shape[-2:]
    rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
    planes = images.reshape(-1, height, width)
    shape = (height + 2 * rows, width + 2 * columns)
    count = per_piece(shape[0] * shape[1], images)
    window, sheet = (planes.new_zeros(min(count, len(planes)), *shape) for _ in range(2))
    total = sheet.view(-1)[: sheet.numel() - 2 * rows * shape[1] - 2 * columns]
    symmetric = torch.equal(kernel, kernel.flip(0)) and torch.equal(kernel, kernel.flip(1))
    steps = (_by_symmetry if symmetric else _by_taps)(window.view(-1), total, shape[1], kernel)
    result = torch.empty_like(planes)
    for start in range(0, len(planes), count):
        piece = planes[start : start + count]
        frame(piece, window[: len(piece)], rows, columns, border)
        total.zero_()
        for step in steps:
            step()
        result[start : start + count] = sheet[: len(piece), :height, :width]
    return result.view(images.shape)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur as scikit-image makes it: kernel cut at four sigma, edge pixel repeated outside.

    Args:
        images: (n, c, h, w) floating point.
        sigma: standard deviation, pixels.

    Returns:
        (n, c, h, w), of the images' type and device.
    """
    weights = gaussian(sigma, radius=int(4 * sigma + 0.5))
    return correlate(correlate(images, weights[:, None], border="nearest"), weights[None, :], border="nearest")


def gaussian(sigma: float, radius: int) -> Tensor:
    """Normalised Gaussian weights at -radius, ..., radius: (2 radius + 1,) float64."""
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return weights / weights.sum()


def per_piece(numbers: int, images: Tensor) -> int:
    """How many items, of so many numbers each, are worked on at once where the images are."""
    return max(1, (PIECE_ON_GPU if images.is_cuda else PIECE) // numbers)


def frame(planes: Tensor, window: Tensor, rows: int, columns: int, border: Border) -> None:
    """Write planes (k, h, w) into a larger window, that far from its top left corner, and fill the window's border."""
    height, width = planes.shape[-2:]
    inside = window.narrow(1, rows, height)
    inside.narrow(2, columns, width).copy_(planes)
    for axis, before, source, target in ((2, columns, planes, inside), (1, rows, inside, window)):
        size = planes.shape[axis]
        for first, length in ((-before, before), (size, target.shape[axis] - before - size)):
            if length:
                index = _source(first, length, size, border).to(planes.device)
                target.narrow(axis, before + first, length).copy_(source.index_select(axis, index))


def _by_taps(line: Tensor, total: Tensor, stride: int, kernel: Tensor) -> list[Step]:
    """Operations that add the correlation of the line with a kernel to the total.

    Args:
        line: (numbers,): planes within their borders, end to end.
        total: (fewer numbers,): entry k belongs to the pixel for which the kernel's top left tap lies on entry k of the
            line. Those of pixels too far right or down for the kernel hold nothing of use.
        stride: numbers per row.
        kernel: (kh, kw), both odd.
    """
    term = torch.empty_like(total)
    steps: list[Step] = []
    for row, column in (kernel.abs() > NEGLIGIBLE).nonzero().tolist():
        shifted = line.narrow(0, row * stride + column, len(total))
        steps.append(partial(torch.mul, shifted, kernel[row, column], out=term))
        steps.append(partial(total.add_, term))
    return steps


def _by_symmetry(line: Tensor, total: Tensor, stride: int, kernel: Tensor) -> list[Step]:
    """As `_by_taps`, for a kernel that both mirrors leave as it is.

    Taps that are mirror images are added before they are weighted. So are the equal ones around the middle of a column,
    as inside a disk: their sum, of the rows up to some distance above and below, grows by two rows at a time and serves
    all columns.
    """
    rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
    quadrant = kernel[rows:, columns:]
    flat = (quadrant == quadrant[0]).to(torch.int64).cumprod(0).sum(0) - 1  # rows equal to the middle one, by column
    extent = len(total) + 2 * columns
    middle, pair, term = line.new_empty(extent), line.new_empty(extent), torch.empty_like(total)
    steps: list[Step] = []

    def add(source: Tensor, column: int, weight: Tensor) -> None:
        left, right = (source.narrow(0, columns + side * column, len(total)) for side in (-1, 1))
        if column:
            steps.append(partial(torch.add, left, right, out=term))
            steps.append(partial(term.mul_, weight))
        else:
            steps.append(partial(torch.mul, left, weight, out=term))
        steps.append(partial(total.add_, term))

    for row in range(rows + 1):
        above, below = (line.narrow(0, (rows + side * row) * stride, extent) for side in (-1, 1))
        if row:
            steps.append(partial(torch.add, above, below, out=pair))
            steps.append(partial(middle.add_, pair))
        else:
            steps.append(partial(middle.copy_, above))
        for column, weight in enumerate(quadrant[row]):
            if weight.abs() > NEGLIGIBLE and row >= flat[column]:
                add(middle if row == flat[column] else pair, column, weight)
    return steps


def _trimmed(kernel: Tensor) -> Tensor:
    """The kernel without its outer rows and columns that weigh nothing, as many on either side."""
    for axis in (0, 1):
        heavy = (kernel.abs() > NEGLIGIBLE).any(1 - axis).nonzero()
        half = kernel.shape[axis] // 2
        keep = int((heavy - half).abs().max()) if len(heavy) else 0
        kernel = kernel.narrow(axis, half - keep, 2 * keep + 1)
    return kernel


def _source(first: int, length: int, size: int, border: Border) -> Tensor:
    """Which of `size` pixels in a line stand at the places first, ..., first + length - 1: (length,) int64."""
    place = torch.arange(first, first + length)
    if border == "nearest" or size == 1:
        return place.clamp(0, size - 1)
    period = 2 * (size - 1)
    place = place.remainder(period)
    return torch.minimum(place, period - place)
