"""Sources and splits: stable ids, class balance in every prefix, clear words for bad input."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import registry, store
from pipeline.contracts import UserError
from pipeline.datasets import splits
from pipeline.datasets.decoding import decode
from pipeline.datasets.digits import digits
from pipeline.datasets.image_folder import image_folder
from pipeline.datasets.parquet import parquet
from pipeline.datasets.samples import Samples
from pipeline.specs import complete
from pipeline.stages.prepare import prepare


def made_up(counts: dict[str, int]) -> Samples:
    """Samples without images, sorted by class as image folders are."""
    labels = np.repeat(np.arange(len(counts)), list(counts.values()))
    ids = [f"s{row}" for row in range(len(labels))]
    return Samples(ids, labels, list(counts), None, lambda rows: np.zeros((len(rows), 1, 2, 2), np.uint8))


def png(color: tuple[int, ...], size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color if len(color) > 1 else color[0]).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, labels: list[int], names: list[str] | None = None, first: bytes | None = None) -> None:
    images = [{"bytes": png((label * 10, 0, row)), "path": None} for row, label in enumerate(labels)]
    if first is not None:
        images[0]["bytes"] = first
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "label": pa.array(labels, pa.int64())})
    if names:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path)


@pytest.mark.parametrize("counts", [{"a": 50, "b": 50}, {"a": 90, "b": 9, "c": 41}])
def test_every_prefix_is_class_balanced(counts: dict[str, int]) -> None:
    samples = made_up(counts)
    order = splits.stratified_order(samples, np.arange(len(samples.ids)), seed=3)
    assert sorted(order) == list(range(len(samples.ids)))
    for length in range(1, len(order) + 1):
        got = np.bincount(samples.labels[order[:length]], minlength=len(counts))
        wanted = length * np.array(list(counts.values())) / len(order)
        assert np.abs(got - wanted).max() <= 1 + len(counts) / 2


def test_order_depends_on_ids_and_seed_alone() -> None:
    samples = made_up({"a": 20, "b": 30})
    rows = np.arange(50)
    shuffled = np.random.default_rng(0).permutation(50)
    again = Samples([samples.ids[r] for r in shuffled], samples.labels[shuffled], samples.classes, None, samples.read)
    first = [samples.ids[row] for row in splits.stratified_order(samples, rows, 1)]
    assert [again.ids[row] for row in splits.stratified_order(again, rows, 1)] == first
    assert [samples.ids[row] for row in splits.stratified_order(samples, rows, 2)] != first


def test_splits_are_disjoint_and_complete_and_every_class_is_tested() -> None:
    samples = made_up({"a": 40, "b": 8, "c": 2})
    train, test = splits.divide(samples, seed=0, test_share=0.25)
    assert sorted([*train, *test]) == list(range(50))
    assert np.bincount(samples.labels[test]).tolist() == [10, 2, 1]
    kept, validation = splits.split_validation(train, 0.2, None)
    assert sorted([*kept, *validation]) == sorted(train)
    smaller, same = splits.split_validation(train, 0.2, 10)
    assert smaller.tolist() == kept[:10].tolist()
    assert same.tolist() == validation.tolist()


def test_class_missing_in_a_split_is_an_error() -> None:
    samples = made_up({"a": 4, "lonely": 1})
    with pytest.raises(UserError, match="training split has no sample of 1 of 2 classes: lonely"):
        splits.divide(samples, 0, 0.25)


def test_duplicate_ids_are_an_error() -> None:
    samples = made_up({"a": 4, "b": 4})
    with pytest.raises(UserError, match="one id"):
        splits.divide(Samples(["x"] * 8, samples.labels, samples.classes, None, samples.read), 0, 0.5)


def test_digits_are_the_real_ones() -> None:
    from sklearn.datasets import load_digits

    samples, bunch = digits(), load_digits()
    images = samples.read(np.array([0, 1796]))
    assert (len(samples.ids), images.shape, images.dtype) == (1797, (2, 1, 8, 8), np.uint8)
    assert np.array_equal(np.rint(images[1, 0] * (16 / 255)), bunch.images[1796])
    assert np.array_equal(samples.labels, bunch.target)


def test_prepare_writes_nested_evaluation_sets_and_keeps_training_data_apart(tmp_path: Path) -> None:
    for name, extra in (
        ("train", {"split": "train"}),
        ("few", {"split": "evaluation", "evaluation": 40}),
        ("more", {"split": "evaluation", "evaluation": 90}),
    ):
        spec = complete("prepare", {"source": "digits", "test_share": 0.25, **extra})
        prepare(spec=spec, code="", out=tmp_path / f"{name}.safetensors")
    (train, meta), (few, _), (more, _) = (
        store.read_tensors(tmp_path / f"{name}.safetensors") for name in ("train", "few", "more")
    )
    ids = {name: store.unpack(array) for name, array in train.items() if name.endswith("ids")}
    evaluated = store.unpack(more["ids"])
    assert store.unpack(few["ids"]) == evaluated[:40]
    assert not set(evaluated) & (set(ids["train_ids"]) | set(ids["validation_ids"]))
    assert not set(ids["train_ids"]) & set(ids["validation_ids"])
    assert np.bincount(few["labels"]).tolist() == pytest.approx([4] * 10, abs=1)
    assert meta["mean"] == pytest.approx([train["train_images"].mean() / 255])
    assert len(meta["classes"]) == 10
    assert len({row.tobytes() for row in more["sha256"]}) == len({row.tobytes() for row in more["images"]})


def test_image_folder_with_splits_sizes_and_modes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                (folder / f"{number}.png").write_bytes(png((label * 100 + number, 0, 0), size=(10, 16)))
    (tmp_path / "train/cat/notes.txt").write_text("no image")
    samples = image_folder(root=str(tmp_path), size=8)
    assert samples.classes == ["cat", "dog"]
    assert samples.ids[0] == "train/cat/0.png"
    assert samples.splits is not None
    assert samples.splits.count("test") == 4
    images = samples.read(np.array([3, 0]))
    assert images.shape == (2, 3, 8, 8)
    assert images[:, 0, 0, 0].tolist() == [101, 0]
    assert image_folder(root=str(tmp_path), size=8, channels=1).read(np.array([0])).shape == (1, 1, 8, 8)


def test_image_folder_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        image_folder(root=str(tmp_path / "none"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(png((1, 2, 3)))
    (tmp_path / "b" / "x.png").write_bytes(b"no image at all")
    samples = image_folder(root=str(tmp_path))
    with pytest.raises(UserError, match=r"b.x.png: not a readable image"):
        samples.read(np.array([0, 1]))
    (tmp_path / "b" / "x.png").write_bytes(png((1, 2, 3), size=(9, 8)))
    with pytest.raises(UserError, match="9 x 8 pixels, the images before it 8 x 8; set the data set's 'size'"):
        image_folder(root=str(tmp_path)).read(np.array([0, 1]))


def tree(root: Path, *files: str) -> None:
    """Small images at these paths; each is red with its number."""
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(png((number, 0, 0)))


def test_image_folder_keeps_every_nth_class_in_alphabetical_order(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{split}/n{number}/x.png" for split in ("train", "test") for number in range(7)))
    samples = image_folder(root=str(tmp_path), every=3)
    assert samples.classes == ["n0", "n3", "n6"]
    assert samples.ids == [f"{split}/n{number}/x.png" for split in ("train", "test") for number in (0, 3, 6)]
    assert samples.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert samples.read(np.arange(6))[:, 0, 0, 0].tolist() == [0, 3, 6, 7, 10, 13]
    with pytest.raises(UserError, match="every 7 keeps 1 of 7 classes, expected at least two"):
        image_folder(root=str(tmp_path), every=7)


def test_image_folder_takes_val_for_the_test_split(tmp_path: Path) -> None:
    tree(tmp_path, "train/a/0.png", "train/b/1.png", "val/a/2.png", "val/b/3.png")
    samples = image_folder(root=str(tmp_path))
    assert samples.ids == ["train/a/0.png", "train/b/1.png", "val/a/2.png", "val/b/3.png"]
    assert samples.splits == ["train", "train", "test", "test"]
    assert samples.labels.tolist() == [0, 1, 0, 1]
    tree(tmp_path, "test/a/2.png", "test/b/3.png")
    with pytest.raises(UserError, match="holds test and val, expected one of them beside train; remove or rename"):
        image_folder(root=str(tmp_path))


def test_image_folder_with_classes_that_differ_between_splits_is_an_error(tmp_path: Path) -> None:
    tree(tmp_path, "train/a/0.png", "train/b/1.png", "val/a/2.png", "val/c/3.png")
    with pytest.raises(UserError, match=r"val: its classes differ from those of train: b, c"):
        image_folder(root=str(tmp_path))


def test_image_folder_finds_nested_images_and_links_in_order(tmp_path: Path) -> None:
    tree(tmp_path / "root", "a/deep/er/0.png", "a/deep.png", "a/deep-1/x.PNG", "b/z.jpeg", "b/.thumbs/t.gif")
    tree(tmp_path / "elsewhere", "linked.png")
    (tmp_path / "root/a/folder.png").mkdir()
    (tmp_path / "root/a/notes.txt").write_text("no image")
    (tmp_path / "root/.hidden").mkdir()
    (tmp_path / "root/a/broken.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "root/a/link.png").symlink_to(tmp_path / "elsewhere/linked.png")
    (tmp_path / "root/a/circle").symlink_to(tmp_path / "root")
    (tmp_path / "root/c").symlink_to(tmp_path / "elsewhere")
    samples = image_folder(root=str(tmp_path / "root"))
    assert samples.ids == [
        *("a/deep/er/0.png", "a/deep-1/x.PNG", "a/deep.png", "a/link.png"),
        *("b/.thumbs/t.gif", "b/z.jpeg", "c/linked.png"),
    ]
    assert samples.labels.tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert samples.splits is None


def test_image_folder_hands_over_the_files_undecoded(tmp_path: Path) -> None:
    tree(tmp_path, "train/a/0.png", "train/b/1.png", "val/a/2.png", "val/b/3.png")
    samples = image_folder(root=str(tmp_path))
    assert samples.encoded is not None
    for row, name in enumerate(samples.ids):
        assert samples.encoded(row) == (str(tmp_path / name), (tmp_path / name).read_bytes())


def test_crop_resizes_the_short_side_and_keeps_its_share_of_the_centre() -> None:
    def encoded(pixels: np.ndarray) -> list[tuple[str, bytes]]:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return [("image", buffer.getvalue())]

    # 14 / 0.875 = 16 is the short side already, so the crop alone is left
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20), dtype=np.uint8)
    assert np.array_equal(decode(encoded(pixels), 1, 14, 0.875)[0, 0], pixels[1:15, 3:17])
    square = pixels[:, :16]
    assert np.array_equal(decode(encoded(square), 1, 16)[0, 0], square)
    assert np.array_equal(decode(encoded(square[1:15, 1:15]), 1, 14, 1.0)[0, 0], square[1:15, 1:15])
    # halved to 32, of which 28 stay: column j of a ramp comes from 2 (j + 2) + 1/2
    ramp = np.tile(3 * np.arange(64, dtype=np.uint8), (80, 1))
    halved = decode(encoded(ramp), 1, 28, 0.875)[0, 0]
    assert halved.shape == (28, 28)
    assert np.abs(halved - (6.0 * (np.arange(28) + 2) + 1.5)).max() <= 1


@pytest.mark.parametrize("source", ["image_folder", "parquet"])
def test_crop_reaches_the_images_of_a_source_and_needs_a_size(source: str, tmp_path: Path) -> None:
    tree(tmp_path, "a/0.png", "b/1.png")
    write_parquet(tmp_path / "x.parquet", [0, 1])
    make = {
        "image_folder": lambda **options: image_folder(root=str(tmp_path), **options),
        "parquet": lambda **options: parquet(train=str(tmp_path / "x.parquet"), **options),
    }[source]
    cross = np.zeros((8, 8, 3), np.uint8)
    cross[1:7, 1:7] = 200
    buffer = io.BytesIO()
    Image.fromarray(cross).save(buffer, "PNG")
    (tmp_path / "a/0.png").write_bytes(buffer.getvalue())
    write_parquet(tmp_path / "x.parquet", [0, 1], first=buffer.getvalue())
    assert (make(size=6, crop=0.75).read(np.array([0])) == 200).all()
    assert (make(size=8).read(np.array([0]))[0, 0] == cross[:, :, 0]).all()
    with pytest.raises(UserError, match="crop 0.75 without size"):
        make(crop=0.75)
    with pytest.raises(UserError, match="crop: given 0, expected .* above 0 and at most 1"):
        registry.bind("source", source, {"root" if source == "image_folder" else "train": "x", "crop": 0}, "datasets.d")


def test_parquet_reads_several_files_in_any_order(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [0, 1, 2], ["ant", "bee", "cow"])
    write_parquet(tmp_path / "train-1.parquet", [2, 2], ["ant", "bee", "cow"])
    write_parquet(tmp_path / "test.parquet", [1], ["ant", "bee", "cow"])
    samples = parquet(train=str(tmp_path / "train-*.parquet"), test=str(tmp_path / "test.parquet"))
    assert samples.classes == ["ant", "bee", "cow"]
    assert samples.ids == [*(f"train-0/{r:06d}" for r in range(3)), "train-1/000000", "train-1/000001", "test/000000"]
    assert samples.splits == ["train"] * 5 + ["test"]
    images = samples.read(np.array([4, 0, 5, 2]))
    assert images[:, 0, 0, 0].tolist() == [20, 0, 10, 20]
    assert images[:, 2, 0, 0].tolist() == [1, 0, 0, 2]


def test_parquet_hands_over_encoded_rows_and_reads_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "train-0.parquet", [0, 1, 2])
    write_parquet(tmp_path / "train-1.parquet", [2, 1])
    plain = pa.table({"image": pa.array([b"one", None], pa.binary()), "label": [0, 1]})
    pq.write_table(plain, tmp_path / "test.parquet")
    samples = parquet(train=str(tmp_path / "train-*.parquet"), test=str(tmp_path / "test.parquet"))
    assert samples.encoded is not None
    read, opened = pq.read_table, []
    monkeypatch.setattr(pq, "read_table", lambda file, **more: opened.append(Path(file).name) or read(file, **more))
    for row, (file, inside, label) in enumerate([(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 2), (1, 1, 1)]):
        expected = (f"{tmp_path / f'train-{file}.parquet'}, row {inside}", png((label * 10, 0, inside)))
        assert samples.encoded(row) == expected
        assert opened == ["train-0.parquet", "train-1.parquet"], "one look at a split holds all of it"
    assert samples.encoded(5) == (f"{tmp_path / 'test.parquet'}, row 0", b"one")
    with pytest.raises(UserError, match="test.parquet: row 1 has no image bytes"):
        samples.encoded(6)
    with pytest.raises(UserError, match="test.parquet: row 1 has no image bytes"):
        samples.read(np.array([0, 6]))
    opened.clear()
    assert samples.read(np.array([4, 0]))[:, 0, 0, 0].tolist() == [10, 0]
    assert not opened, "what is held is not read again"
    fresh = parquet(train=str(tmp_path / "train-*.parquet"))
    opened.clear()
    assert fresh.read(np.array([4, 3]))[:, 0, 0, 0].tolist() == [10, 20]
    assert opened == ["train-1.parquet"], "files without a wanted row are left alone"


def test_parquet_without_names_takes_the_distinct_labels(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [3, 7, 3])
    samples = parquet(train=str(tmp_path / "a.parquet"))
    assert samples.classes == ["3", "7"]
    assert samples.labels.tolist() == [0, 1, 0]
    assert samples.splits is None


def test_parquet_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(UserError, match="no such file"):
        parquet(train=str(path))
    write_parquet(path, [0, 3], ["x", "y"])
    with pytest.raises(UserError, match=r"label 3 is outside 0..1"):
        parquet(train=str(path))
    with pytest.raises(UserError, match="has no column 'img'; it has image, label"):
        parquet(train=str(path), image_column="img")
    with pytest.raises(UserError, match="column 'image' is .*, expected integers"):
        parquet(train=str(path), label_column="image")
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        parquet(train=str(path))
