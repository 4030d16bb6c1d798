"""Margins in any subspaces: random ones, the directions that tell the classes apart, their complement, a given one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.contracts import Column, Count, Natural, NonNegative, UserError, View, derive_seed
from pipeline.measurements._subspace_walks import FOUND, walk
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.subspaces import Frames, orthonormal, random_subspace

ACCEPTS: tuple[str, ...] = ("clean",)
INDEPENDENT: tuple[str, ...] = ()  # each row is of a sample alone, and all come in the order of the samples
COLUMNS: Mapping[str, Column] = {
    "subspace": Column("string", "kind of the subspace: random, discriminative, complement or given"),
    "index": Column("int16", "number of the subspace among those of its kind"),
    "dimension": Column("int32", "dimension of the subspace"),
    "basis_sha256": Column("string", "SHA-256 of the file of a given subspace; null for the other kinds"),
    **FOUND,
}


def subspace_margin(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    box: Box = UNIT,
    directions: Tensor | None = None,
    kinds: Sequence[Literal["random", "discriminative", "complement", "given"]] = ("random",),
    dimension: Count = 3,
    count: Count = 1,
    basis_seed: Natural = 0,
    basis: str | None = None,
    mode: Literal["superdeepfool", "deepfool", "official"] = "superdeepfool",
    boxed: bool = False,
    steps: Count = 100,
    rounds: Count = 100,
    overshoot: NonNegative = 0.02,
    candidates: Count = 10,
    samples: Count | None = None,
) -> dict[str, Sequence[Any]]:
    """Margins in random, discriminative or given subspaces, of "Hold me tight!" (Ortiz-Jimenez et al., NeurIPS 2020).

    The paper measures them on synthetic data, of which it knows the direction that tells the classes apart. Walks,
    modes and `boxed` are those of `dct_margin`. Kinds of subspaces: `random` draws `count` of them uniformly, the same
    for all samples and classifiers; `discriminative` takes each direction that the data set knows to tell its classes
    apart (the source `synthetic` knows them) as a line; `complement` draws `count` uniformly from those orthogonal to
    all these directions; `given` reads one from a file.

    The workflow does not know the file of `basis` as an input: change it, and nothing is measured anew by itself. The
    column `basis_sha256` says which file a row was made from.

    Args:
        model: inputs to logits.
        images: (n, c, h, w) clean inputs; vectors are (n, 1, 1, d).
        labels: (n,) int64.
        seeds: not used: the subspaces are the same for all samples.
        views: not used.
        batch_size: pairs of sample and subspace per pass.
        box: of valid images, for `boxed`.
        directions: (k, c, h, w) directions of the data that tell the classes apart; None where none are known.
        kinds: of subspaces, one or several.
        dimension: of the subspaces that are drawn.
        count: how many of each kind are drawn.
        basis_seed: seed of the draws.
        basis: for `given`, a .npy file of a matrix, or a .safetensors file of one tensor (or one named `basis`): k
            rows, each of the c h w entries of an input or shaped like one. They are made orthonormal.
        mode: as of `dct_margin`.
        boxed: as of `dct_margin`.
        steps: as of `dct_margin`.
        rounds: as of `dct_margin`.
        overshoot: as of `dct_margin`.
        candidates: as of `dct_margin`.
        samples: how many samples, the first ones; all if not given.

    Returns:
        Columns as in `COLUMNS`, and `row`.

    Raises:
        UserError: the data know no directions, the dimension does not fit, the file does not, or an option that goes
            with `given` stands alone.
    """
    if (basis is None) == ("given" in kinds):
        among = ", ".join(kinds)
        raise UserError(f"basis: given {basis} with kinds {among}, expected a file exactly if `given` is among them")
    images, labels = images[:samples], labels[:samples]
    entries = math.prod(images.shape[1:])
    spaces: list[tuple[str, int, str | None, Tensor]] = []  # kind, index, hash of the file, basis
    for kind in dict.fromkeys(kinds):
        if kind == "given":
            rows, sha256 = _read(Path(str(basis)), entries)
            spaces.append((kind, 0, sha256, rows))
            continue
        known = None if kind == "random" else _known(directions, kind)
        if kind == "discriminative":
            assert known is not None
            spaces += [(kind, index, None, line) for index, line in enumerate(known[:, None])]
            continue
        room = entries - (0 if known is None else len(known))
        if dimension > room:
            raise UserError(f"dimension: given {dimension} for {kind} subspaces, expected at most {room}")
        for index in range(count):
            seed = derive_seed("subspace_margin", kind, basis_seed, index)
            spaces.append((kind, index, None, random_subspace(dimension, entries, seed, known)))
    walked = walk(
        model,
        images,
        Frames(images, [rows for *_, rows in spaces]),
        batch_size=batch_size,
        mode=mode,
        steps=steps,
        rounds=rounds,
        overshoot=overshoot,
        candidates=candidates,
        box=box if boxed else None,
    )
    return walked.columns(labels) | {
        "subspace": [kind for kind, *_ in spaces] * len(images),
        "index": [index for _, index, *_ in spaces] * len(images),
        "dimension": [len(rows) for *_, rows in spaces] * len(images),
        "basis_sha256": [sha256 for _, _, sha256, _ in spaces] * len(images),
    }


def _known(directions: Tensor | None, kind: str) -> Tensor:
    """Orthonormal rows of the span of the data's directions, which a frequency map may have bent or wiped out."""
    found = None if directions is None else orthonormal(directions.flatten(1).cpu())
    if found is None or not len(found):
        raise UserError(
            f"kinds: given {kind}, expected a data set that knows the directions which tell its classes apart, such as "
            "one of the source synthetic; use random or given"
        )
    return found


def _read(path: Path, entries: int) -> tuple[Tensor, str]:
    """Orthonormal rows (k, entries) of the matrix in a file, and the file's SHA-256."""
    try:
        content = path.read_bytes()
        matrix = _matrix(path)
    except (OSError, ValueError, KeyError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"basis: cannot read {path} ({reason}); expected a .npy or .safetensors matrix") from None
    if matrix.dtype.kind not in "fiu" or matrix.ndim < 2 or not len(matrix) or matrix[0].size != entries:
        raise UserError(f"basis: {path} holds {matrix.dtype} of shape {matrix.shape}, expected (k, {entries}) numbers")
    if not np.isfinite(matrix).all():
        raise UserError(f"basis: {path} holds numbers that are not finite, expected finite ones")
    rows = orthonormal(torch.from_numpy(matrix.astype(np.float64)).flatten(1))
    if len(rows) < len(matrix):
        raise UserError(
            f"basis: the {len(matrix)} rows of {path} span {len(rows)} dimensions, expected independent rows"
        )
    return rows, hashlib.sha256(content).hexdigest()


def _matrix(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix != ".safetensors":
        raise ValueError(f"its name ends in '{path.suffix}'")
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    return next(iter(tensors.values())) if len(tensors) == 1 else tensors["basis"]
