"""ImageNet-C's 19 corruptions: ours on batches, beside the code for single images, on one CPU thread.

The peer is imagecorruptions 1.1.2, the package of the paper's code (see `corruption_peer`), which pip installs into a
temporary folder. It has ImageNet-C's constants alone, so ours runs with `constants: imagenet` at both sizes. Both sides
turn 8-bit images into 8-bit images. Times are CPU time of the process, taken in turns, which other work on the machine
disturbs less; a first turn, in which ours also draws the panes of frost, does not count. Where the peer departs from
the original: elastic_transform leaves out the affine map, zoom_blur and snow trim an enlarged image at one side only,
and motion is blurred in NumPy. If it cannot be installed, ours is timed alone. Images: crops of two photographs.

Run: `python -m benchmarks.corruptions`, or with `--differences` for how far the results lie apart (see
`corruption_differences`). `--peer FOLDER` takes a peer that was installed there before.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import corruption_peer
from benchmarks.corruption_differences import NAMES, SEVERITIES, compare, photographs
from benchmarks.corruption_peer import Peer
from pipeline import registry

SHOWN = 3  # the severity that has columns of its own
LONGEST = "glass_blur"  # the peer's, longer than all others together


class Setting(NamedTuple):
    """Pixels a side, images of our batch, images that the peer gets in each round."""

    size: int
    batch: int
    single: int


class Times(NamedTuple):
    """CPU milliseconds an image: the peer's (none without one) and ours, by round."""

    peer: list[float]
    ours: list[float]

    @property
    def medians(self) -> tuple[float, float]:
        """Both medians; NaN without a peer."""
        return statistics.median(self.peer or [float("nan")]), statistics.median(self.ours)


SETTINGS = (Setting(32, 64, 16), Setting(224, 16, 2))


def timed(name: str, pictures: NDArray[np.uint8], single: int, peer: Peer | None, rounds: int) -> dict[int, Times]:
    """Times of one corruption by severity.

    Args:
        name: of the corruption.
        pictures: (n, size, size, 3), our batch.
        single: how many of them the peer gets in a round.
        peer: theirs, if it can be had.
        rounds: that count; one before them warms up.
    """
    method = registry.load("corruption", name)
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    seeds = torch.arange(len(pixels))
    times: dict[int, Times] = defaultdict(lambda: Times([], []))
    for turn in range(rounds + 1):
        chosen = np.roll(pictures, -turn * single, axis=0)[: single if turn else 1]
        start = time.process_time()
        images = pixels.float().div_(255)
        reading = (time.process_time() - start) / len(SEVERITIES)  # the stage, too, does it once for all of them
        for severity in SEVERITIES:
            start = time.process_time()
            for picture in chosen if peer is not None else ():
                peer.corrupt(picture, severity, name)
            middle = time.process_time()
            corrupted = method(images=images, seeds=seeds, severity=severity, constants="imagenet")
            (corrupted * 255).round_().to(torch.uint8)
            end = time.process_time()
            if turn and peer is not None:
                times[severity].peer.append(1000 * (middle - start) / single)
            if turn:
                times[severity].ours.append(1000 * (end - middle + reading) / len(pixels))
    return times


def table(setting: Setting, peer: Peer | None, names: Sequence[str], rounds: int) -> None:
    """Print the times at one size."""
    pictures = photographs(setting.batch, setting.size)
    print(f"\n{setting.size} x {setting.size} pixels, our batch {setting.batch}: ms an image\n")
    print(f"| corruption | severity {SHOWN}: peer | ours | ratio | mean of severities 1-5: peer | ours | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    rows = []
    for name in names:
        times = timed(name, pictures, setting.single, peer, rounds)
        every = np.array([times[severity].medians for severity in SEVERITIES])
        rows.append((*every[SHOWN - 1], *every.mean(axis=0)))
        print(row(f"`{name}`", *rows[-1]), flush=True)
    print(row(f"**all {len(names)}**", *np.sum(rows, axis=0)))
    if LONGEST in names[:-1] or LONGEST in names[1:]:
        print(row(f"all but `{LONGEST}`", *np.sum(rows, axis=0) - rows[list(names).index(LONGEST)]))
    if peer is not None:
        ratios = np.array(rows)[:, ::2] / np.array(rows)[:, 1::2]
        one, mean = np.exp(np.log(ratios).mean(axis=0))
        print(f"| geometric mean of the ratios | | | {one:.3g} | | | {mean:.3g} |")


def row(name: str, *values: float) -> str:
    shown, every = ((f"{peer:.3g}", f"{ours:.3g}", f"{peer / ours:.3g}") for peer, ours in (values[:2], values[2:]))
    return f"| {' | '.join((name, *shown, *every)).replace('nan', '-')} |"


def processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--differences", action="store_true", help="compare results instead of times")
    parser.add_argument("--peer", type=Path, help="folder in which imagecorruptions was installed before")
    parser.add_argument("--size", type=int, choices=[setting.size for setting in SETTINGS], help="default: both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("names", nargs="*", metavar="CORRUPTION", help="default: all 19")
    arguments = parser.parse_args()
    names = arguments.names or NAMES
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002 - the peer draws from the global stream
    with tempfile.TemporaryDirectory() as folder:
        place = arguments.peer or Path(folder)
        failure = None if arguments.peer else corruption_peer.install(place)
        peer = None if failure else corruption_peer.load(place, original=arguments.differences)
        if arguments.differences and peer is not None:
            compare(peer, names)
        elif arguments.differences:
            raise SystemExit(f"nothing to compare with, since the peer could not be installed: {failure}")
        else:
            for setting in SETTINGS:
                if arguments.size in (None, setting.size):
                    table(setting, peer, names, arguments.rounds)
    print(f"\nOne thread (torch: {torch.get_num_threads()}) of {processor()}, torch {torch.__version__}")
    if peer is None:
        print(f"Ours alone, since the peer could not be installed: {failure}")
    else:
        print(f"Peer: {peer.versions}; stood in for: pkg_resources, numpy.float_, gaussian(multichannel=)")


if __name__ == "__main__":
    main()
