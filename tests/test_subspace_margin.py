from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from pipeline.contracts import UserError
from pipeline.datasets.synthetic import basis, synthetic
from pipeline.measurements.dct_margin import dct_margin
from pipeline.measurements.subspace_margin import subspace_margin
from pipeline.numerics.subspaces import Blocks, Frames, diagonal_starts, orthonormal, random_subspace
from pipeline.stages.inputs import read_evaluation
from pipeline.stages.prepare import prepare
from tests.oracles import Affine, affine, grey_images, margins, network, predictions, subspace_margins

SHAPE = (2, 6, 6)
IMAGES = grey_images(7, SHAPE)
LABELS = torch.arange(7) % 3


def measure(model: nn.Module, images: Tensor = IMAGES, **options: Any) -> dict[str, Any]:
    labels = torch.arange(len(images)) % 3
    context: dict[str, Any] = {"batch_size": 16, **options}
    return subspace_margin(
        model=model, images=images, labels=labels, seeds=torch.arange(len(images)), views=(), **context
    )


def saved(path: Path, rows: Tensor) -> str:
    np.save(path, rows.numpy())
    return str(path)


def column(table: dict[str, Any], kind: str, name: str = "margin") -> Tensor:
    """A column of the rows of one kind, (rows,); NaN where it is null."""
    rows = [value for value, own in zip(table[name], table["subspace"], strict=True) if own == kind]
    return torch.tensor([torch.nan if value is None else value for value in rows], dtype=torch.float64)


def test_frames_look_at_each_sample_through_its_own_subspace() -> None:
    bases = [random_subspace(d, 72, seed=d) for d in (1, 5, 3)]
    frames, index = Frames(IMAGES, bases), torch.tensor([0, 1, 2, 2, 1, 0, 2])
    coefficients = frames.analyse(IMAGES, index)
    stacked = frames.analyse(torch.stack([IMAGES, 2 * IMAGES], dim=1), index)
    images = frames.synthesise(coefficients, index)
    assert len(frames) == 3 and coefficients.shape == (7, 5) and stacked.shape == (7, 2, 5)
    torch.testing.assert_close(stacked[:, 1], 2 * coefficients)
    for row, space in enumerate(index.tolist()):
        rows = bases[space]
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)).double())
        torch.testing.assert_close(images[row].flatten(), rows.T @ rows @ IMAGES[row].flatten())
        assert coefficients[row].norm().item() == pytest.approx(images[row].norm().item())


def test_orthonormal_rows_span_what_is_independent_and_beside() -> None:
    vectors = torch.tensor([[2.0, 0, 0, 0], [1, 1, 0, 0], [3, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1e-3, 0]])
    found = orthonormal(vectors)
    torch.testing.assert_close(found, torch.eye(3, 4, dtype=torch.float64))
    beside = torch.tensor([[0.6, 0.8, 0, 0]]).double()
    rest = orthonormal(torch.eye(4), beside)
    torch.testing.assert_close(rest @ beside.T, torch.zeros(3, 1).double())
    torch.testing.assert_close(rest @ rest.T, torch.eye(3).double())


def test_random_subspaces_are_uniform() -> None:
    # a uniform unit vector's entries have the variance 1 / D, and its sign is as often plus as minus
    lines = torch.cat([random_subspace(1, 8, seed) for seed in range(2000)])
    torch.testing.assert_close(lines.T @ lines / 2000, torch.eye(8).double() / 8, rtol=0, atol=0.02)
    assert lines.mean(dim=0).abs().max() < 5 / (8 * 2000) ** 0.5


def test_margins_of_an_affine_classifier(tmp_path: Path) -> None:
    model = affine(SHAPE, 4)
    known = torch.linalg.qr(torch.randn(72, 2, generator=torch.Generator().manual_seed(1)).double())[0].T
    given = torch.randn(4, 72, generator=torch.Generator().manual_seed(2)).double()
    path = saved(tmp_path / "basis.npy", given)
    options: dict[str, Any] = {
        "kinds": ["given", "discriminative", "random", "complement"],
        "dimension": 5,
        "count": 2,
        "basis": path,
        "directions": known.view(2, *SHAPE).float(),
    }
    table = measure(model, **options)
    kinds = ["given", *["discriminative"] * 2, *["random"] * 2, *["complement"] * 2]
    assert table["subspace"] == kinds * 7 and table["index"] == [0, 0, 1, 0, 1, 0, 1] * 7
    assert table["dimension"] == [4, 1, 1, 5, 5, 5, 5] * 7 and all(table["converged"])
    sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert table["basis_sha256"] == [sha256, *[None] * 6] * 7
    expected = subspace_margins(model, IMAGES, torch.linalg.qr(given.T)[0])
    torch.testing.assert_close(column(table, "given"), expected, rtol=2e-6, atol=0)
    lines = torch.stack([subspace_margins(model, IMAGES, line[:, None]) for line in known], dim=1)
    torch.testing.assert_close(column(table, "discriminative"), lines.flatten(), rtol=2e-6, atol=0)
    whole = margins(model, IMAGES).repeat_interleave(2)
    for kind in ("random", "complement"):
        assert (column(table, kind) > whole).all()
    official = measure(model, **options, mode="official", overshoot=0.02)
    torch.testing.assert_close(column(official, "given"), 1.02 * expected, rtol=2e-6, atol=0)
    again, other = measure(model, **options), measure(model, **options, basis_seed=1)
    assert again == table
    assert (column(other, "random") != column(table, "random")).all()
    assert (column(other, "given") == column(table, "given")).all()


def test_margins_are_additive_over_an_orthogonal_split(tmp_path: Path) -> None:
    model = affine(SHAPE, 2)
    frame = torch.linalg.qr(torch.randn(72, 72, generator=torch.Generator().manual_seed(3)).double())[0].T
    total = torch.zeros(7, dtype=torch.float64)
    for part, rows in enumerate(torch.split(frame, [5, 30, 37])):
        path = saved(tmp_path / f"{part}.npy", rows)
        total += column(measure(model, kinds=["given"], basis=path), "given") ** -2
    torch.testing.assert_close(total, margins(model, IMAGES) ** -2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("mode", ["superdeepfool", "deepfool", "official"])
def test_a_given_block_of_frequencies_is_that_of_dct_margin(tmp_path: Path, mode: Any) -> None:
    model = network(SHAPE, 5)
    blocks = Blocks(IMAGES, 2, diagonal_starts(6, 6, 2, 2))
    units = torch.eye(8).double().view(8, *SHAPE[:1], 2, 2)
    rows = blocks.synthesise(units, torch.ones(8, dtype=torch.int64))
    save_file({"basis": rows, "other": rows[:1].clone()}, tmp_path / "block.safetensors")
    found = measure(model, kinds=["given"], basis=str(tmp_path / "block.safetensors"), mode=mode)
    table = dct_margin(
        model=model, images=IMAGES, labels=LABELS, seeds=LABELS, views=(), batch_size=8, size=2, step=2, mode=mode
    )
    assert found["margin"] == pytest.approx(table["margin"][1::3], rel=1e-6)
    assert found["iterations"] == table["iterations"][1::3]


def test_batch_size_and_order_do_not_matter() -> None:
    model = network(SHAPE, 5)
    options: dict[str, Any] = {"dimension": 20, "count": 3}
    tables = [measure(model, **options, batch_size=size) for size in (1, 5, 64)]
    for table in tables[1:]:
        assert table["margin"] == pytest.approx(tables[0]["margin"], rel=1e-9)
    order = torch.tensor([3, 0, 6, 2, 1, 5, 4])
    shuffled = torch.tensor(measure(model, IMAGES[order], **options)["margin"]).view(7, 3)
    torch.testing.assert_close(shuffled, torch.tensor(tables[0]["margin"]).view(7, 3)[order])
    few = measure(model, **options, samples=2)
    assert few["margin"] == pytest.approx(tables[0]["margin"][:6]) and few["row"] == [0, 0, 0, 1, 1, 1]


def test_what_the_classifier_cannot_see_has_no_margin() -> None:
    first = torch.zeros(72, dtype=torch.float64)
    first[0] = 1
    model = Affine(torch.stack([-first, first]), torch.tensor([0.5, -0.5]).double())
    table = measure(
        model, kinds=["complement", "discriminative"], dimension=6, directions=first.view(1, *SHAPE), boxed=True
    )
    expected = (IMAGES[:, 0, 0, 0] - 0.5).abs().tolist()
    assert table["converged"] == [False, True] * 7 and table["margin"][::2] == [None] * 7
    assert table["margin"][1::2] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["discriminative"]}, "a data set that knows the directions"),
        ({"kinds": ["complement"], "directions": torch.zeros(1, *SHAPE)}, "a data set that knows the directions"),
        ({"dimension": 73}, "dimension: given 73 for random subspaces, expected at most 72"),
        (
            {"kinds": ["complement"], "dimension": 72, "directions": torch.ones(1, *SHAPE)},
            "dimension: given 72 for complement subspaces, expected at most 71",
        ),
        ({"kinds": ["given"]}, "basis: given None"),
        ({"basis": "wide.npy"}, "exactly if `given` is among them"),
        ({"kinds": ["given"], "basis": "missing.npy"}, "cannot read missing.npy"),
        ({"kinds": ["given"], "basis": "table.csv"}, "ends in '.csv'"),
        ({"kinds": ["given"], "basis": "broken.npy"}, "cannot read broken.npy"),
        ({"kinds": ["given"], "basis": "broken.safetensors"}, "cannot read broken.safetensors"),
        ({"kinds": ["given"], "basis": "wide.npy"}, r"holds float64 of shape \(2, 73\), expected \(k, 72\)"),
        ({"kinds": ["given"], "basis": "infinite.npy"}, "not finite"),
        ({"kinds": ["given"], "basis": "dependent.npy"}, "the 3 rows of dependent.npy span 2 dimensions"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("wide.npy"), torch.eye(2, 73).double())
    saved(Path("infinite.npy"), torch.full((1, 72), torch.inf))
    saved(Path("dependent.npy"), torch.eye(72).double()[[0, 1, 0]])
    for name in ("table.csv", "broken.npy", "broken.safetensors"):
        Path(name).write_bytes(b"nothing")
    with pytest.raises(UserError, match=message) as caught:
        measure(affine(SHAPE, 3), **options)
    assert "\n" not in str(caught.value)


def synthetic_parts(epsilon: float, **options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test points of the synthetic set, (n, 1, 1, d), the test labels, and the directions."""
    samples = synthetic(epsilon=epsilon, test_samples=40, **options)
    points = torch.from_numpy(samples.read(np.arange(len(samples.ids))))
    assert samples.directions is not None
    labels = torch.from_numpy(samples.labels)
    return points[:-40], points[-40:], labels, torch.from_numpy(samples.directions)


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 5.0])
def test_synthetic_margins_of_the_ideal_classifier(epsilon: float) -> None:
    _, test, labels, directions = synthetic_parts(epsilon, dimension=30, samples=2)
    normal = torch.from_numpy(basis(30, 0)[:, 0])
    model = Affine(torch.stack([-normal, normal]), torch.zeros(2).double())
    options: dict[str, Any] = {"kinds": ["discriminative", "complement", "random"], "dimension": 3}
    table = measure(model, test.double(), directions=directions, **options)
    assert predictions(model, test.double()).tolist() == labels[-40:].tolist()
    torch.testing.assert_close(column(table, "discriminative"), torch.full((40,), epsilon).double(), rtol=1e-5, atol=0)
    beside = column(table, "complement")
    assert (beside.isnan() | (beside > 1e4 * epsilon)).all()
    assert (column(table, "random") > epsilon).all()


def test_synthetic_margins_of_a_trained_network() -> None:
    points, test, labels, directions = synthetic_parts(1.0, dimension=20, samples=4000)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 300)
    for _ in range(300):
        rows = torch.randint(len(points), (256,))
        optimizer.zero_grad()
        functional.cross_entropy(model(points[rows]), labels[:-40][rows]).backward()
        optimizer.step()
        scheduler.step()
    model.eval().requires_grad_(False)
    options: dict[str, Any] = {"kinds": ["discriminative", "complement"], "dimension": 3, "directions": directions}
    for mode in ("superdeepfool", "deepfool"):
        table = measure(model, test, mode=mode, **options)
        along = column(table, "discriminative").median().item()
        beside = column(table, "complement").nan_to_num(nan=torch.inf).median().item()
        assert along == pytest.approx(1.0, rel=0.05)
        assert beside >= 10 * along


def test_prepared_directions_are_those_of_the_mapped_data(tmp_path: Path) -> None:
    found = {}
    for frequency in (None, "flip"):
        spec = {
            "dataset": "set",
            "source": "synthetic",
            "options": {"epsilon": 3.0, "rho": 2.0, "dimension": 16, "samples": 8, "test_samples": 12},
            "frequency": frequency,
            "split": "evaluation",
            "seed": 0,
            "test_share": 0.2,
            "evaluation": None,
        }
        prepare(spec=spec, code="", out=tmp_path / f"{frequency}.safetensors")
        evaluation = read_evaluation(tmp_path / f"{frequency}.safetensors", torch.device("cpu"))
        assert evaluation.directions is not None and evaluation.directions.shape == (2, 1, 1, 16)
        signs = 2.0 * evaluation.labels - 1
        heights = evaluation.images.flatten(1) @ evaluation.directions.flatten(1).T
        torch.testing.assert_close(heights, signs[:, None] * torch.tensor([3.0, 2.0]))
        found[frequency] = evaluation.directions
    assert not torch.allclose(found[None], found["flip"])
