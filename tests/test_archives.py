from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import archives, registry
from pipeline.contracts import UserError
from pipeline.corruptions._archived import likeness
from pipeline.stages import download as stage
from pipeline.stages.download import download
from tests.archives_kit import Server, corrupted, link, one_part, pack, serving, write_arrays, write_folders
from tests.corruptions_kit import natural

SPEC = {"archive": "small", "part": "all"}


# The catalogue


@pytest.mark.parametrize("name", archives.ARCHIVES)
def test_every_archive_is_whole(name: str) -> None:
    archive = archives.ARCHIVES[name]
    assert archive.method in registry.names("corruption") and archive.published.startswith("https://")
    assert len({member.stem for member in archive.members.values()}) == len(archive.members)
    assert {member.part for member in archive.members.values()} == (set(archive.parts) or {None})
    for part in archive.parts.values():
        assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", part.checksum)
        assert part.url.startswith("https://") and part.size > 1e9


def test_archives_hold_what_their_papers_list() -> None:
    counts = {name: Counter(m.family for m in archive.members.values()) for name, archive in archives.ARCHIVES.items()}
    assert counts["imagenet_c"] == {"noise": 4, "blur": 5, "weather": 5, "digital": 5}
    assert counts["cifar10_c"] == counts["cifar100_c"] == counts["imagenet_c"]
    assert [sum(counts[name].values()) for name in ("cifar10_c_bar", "imagenet_c_bar", "imagenet_3dcc")] == [10, 10, 12]
    members = archives.ARCHIVES["imagenet_c"].members
    assert {name for name, member in members.items() if member.part == "extra"} == {
        "speckle_noise", "gaussian_blur", "spatter", "saturate",
    }  # fmt: skip
    bar = archives.ARCHIVES["imagenet_c_bar"].members
    assert bar["concentric_sine_waves"].stem == "cocentric_sine_waves"  # as its authors spell it


def test_names_are_checked() -> None:
    with pytest.raises(UserError, match=r"^here: no archive 'cifar10-c' \(did you mean 'cifar10_c'\?\); there are"):
        archives.archive_named("cifar10-c", "here")
    with pytest.raises(UserError, match=r"^here: cifar10_c has no corruption 'frog' \(did you mean 'f[a-z]+'\?\)"):
        archives.member_named("cifar10_c", "frog", "here")


# Arrays

COUNT = 20


def from_arrays(folder: Path | None, images: torch.Tensor, rows: list[int], severity: int = 1, **given: Any) -> Any:
    options = {
        "ids": [f"cifar10/test/{row:05d}" for row in rows],
        "labels": torch.tensor(rows) % 10,
        "downloaded": None,
        "archive": "cifar10_c",
        "corruption": "fog",
        "folder": None if folder is None else str(folder),
    }
    function = registry.load("corruption", "array_archive")
    return function(images=images, seeds=torch.zeros(len(rows)), severity=severity, **(options | given))


@pytest.fixture
def clean() -> torch.Tensor:
    return natural(COUNT, 3, 32, 32)


@pytest.fixture
def arrays(clean: torch.Tensor, tmp_path: Path) -> Path:
    return write_arrays(tmp_path / "CIFAR-10-C", "fog", clean, [row % 10 for row in range(COUNT)])


def test_arrays_are_found_by_the_number_in_the_id(arrays: Path, clean: torch.Tensor) -> None:
    rows = [7, 3, 19, 0, 11, 2, 5, 14, 9]
    before = clean.clone()
    for severity in range(1, 6):
        out = from_arrays(arrays, clean[rows], rows, severity)
        assert out.dtype == torch.float32 and out.shape == (9, 3, 32, 32)
        expected = corrupted(clean[rows], severity)
        assert np.array_equal((out * 255).round().byte().permute(0, 2, 3, 1).numpy(), expected)
        torch.testing.assert_close(out * 255, (out * 255).round(), rtol=0, atol=1e-4)  # 8-bit values
        singles = [from_arrays(arrays, clean[row : row + 1], [row], severity) for row in rows]
        assert torch.equal(torch.cat(singles), out)
    assert torch.equal(clean, before)


def test_arrays_are_found_in_the_archives_own_folder(arrays: Path, clean: torch.Tensor) -> None:
    rows = list(range(COUNT))
    out = from_arrays(arrays, clean, rows)
    assert torch.equal(from_arrays(arrays.parent, clean, rows), out)
    assert torch.equal(from_arrays(None, clean, rows, downloaded=arrays.parent), out)
    assert torch.equal(from_arrays(arrays, clean, rows, downloaded=Path("nowhere")), out)


@pytest.mark.parametrize("name", ["test", "test-00000-of-00001"])
def test_arrays_take_the_rows_of_a_parquet_file_and_any_numbering(name: str, arrays: Path, clean: torch.Tensor) -> None:
    rows = list(range(COUNT))
    given = {"ids": [f"{name}/{row:06d}" for row in rows], "labels": (torch.tensor(rows) * 3 + 1) % 10}
    assert torch.equal(from_arrays(arrays, clean, rows, **given), from_arrays(arrays, clean, rows))


@pytest.mark.parametrize(
    "sample, message",
    [
        ("test/cat/img7.png", "tells no row of the archive"),
        ("cifar10/train/00003", "not numbered among all test images"),
        ("test-00001-of-00002/000003", "not numbered among all test images"),
        ("cifar10/test/00020", "beyond the archive's 20 images"),
    ],
)
def test_arrays_refuse_ids_that_tell_no_row(sample: str, message: str, arrays: Path, clean: torch.Tensor) -> None:
    with pytest.raises(UserError, match=rf"^cifar10_c\.fog: sample {sample} .*{message}"):
        from_arrays(arrays, clean[:1], [3], ids=[sample])


def test_arrays_refuse_labels_that_disagree(arrays: Path, clean: torch.Tensor) -> None:
    rows = list(range(COUNT))
    labels = torch.tensor(rows) % 10
    labels[4] = 5
    with pytest.raises(UserError, match=r"sample cifar10/test/00004 has the label 5 in the data set and 4 in "):
        from_arrays(arrays, clean, rows, labels=labels)
    # With a numbering of its own, a class may be called anything, but each only one thing.
    ids = [f"test/{row:06d}" for row in rows]
    with pytest.raises(UserError, match=r"sample test/000005 has the label 5 "):
        from_arrays(arrays, clean, rows, labels=labels, ids=ids)
    with pytest.raises(UserError, match=r"sample test/000010 has the label 10 "):
        from_arrays(arrays, clean, rows, labels=torch.tensor(rows), ids=ids)
    with pytest.raises(UserError, match="has the label 1 in the data set and 0 in"):
        from_arrays(arrays, clean[:1], [0], labels=torch.tensor([1]))


def test_arrays_refuse_other_images(arrays: Path, clean: torch.Tensor) -> None:
    rows = list(range(COUNT))
    for strangers in (clean.flip(0), natural(COUNT, 3, 32, 32, seed=1)):
        with pytest.raises(UserError, match=r"^cifar10_c\.fog: does not look like .*another order or another data set"):
            from_arrays(arrays, strangers, rows)


def test_arrays_of_a_greyscale_data_set_are_pillows_luma(arrays: Path, clean: torch.Tensor) -> None:
    grey = clean.mean(1, keepdim=True)
    out = (from_arrays(arrays, grey, list(range(COUNT)), 2) * 255).round().byte()
    for ours, colours in zip(out, corrupted(clean, 2), strict=True):
        assert np.array_equal(ours[0].numpy(), np.asarray(Image.fromarray(colours).convert("L")))


def test_arrays_refuse_other_files(arrays: Path, clean: torch.Tensor, tmp_path: Path) -> None:
    rows = list(range(COUNT))
    with pytest.raises(UserError, match="images of 32 x 32 pixels, the data set's have 64 x 64; leave out its 'size'"):
        from_arrays(arrays, natural(COUNT, 3, 64, 64), rows)
    with pytest.raises(UserError, match=rf"^cifar10_c\.frost: found neither {arrays}/frost.npy nor "):
        from_arrays(arrays, clean, rows, corruption="frost")
    with pytest.raises(UserError, match=r"^cifar10_c\.fog: neither 'folder' nor .*zenodo.*set 'folder'"):
        from_arrays(None, clean, rows)
    with pytest.raises(UserError, match=r"^imagenet_c\.fog: array_archive does not read .* method folder_archive"):
        from_arrays(arrays, clean, rows, archive="imagenet_c")
    for severity in (0, 6):
        with pytest.raises(ValueError, match="expected 1 to 5"):
            from_arrays(arrays, clean, rows, severity)
    (arrays / "labels.npy").unlink()
    with pytest.raises(UserError, match=rf"^{arrays}/labels.npy: no such file"):
        from_arrays(arrays, clean, rows)
    np.save(arrays / "labels.npy", np.zeros(7, np.int64))
    with pytest.raises(UserError, match=r"labels.npy: given int64 \(7,\), expected 100 whole numbers"):
        from_arrays(arrays, clean, rows)
    np.save(arrays / "fog.npy", np.zeros((100, 32, 32, 3), np.float32))
    with pytest.raises(UserError, match=r"fog.npy: given float32 \(100, 32, 32, 3\), expected uint8"):
        from_arrays(arrays, clean, rows)
    (arrays / "fog.npy").write_bytes(b"<html>")
    with pytest.raises(UserError, match="fog.npy: not a readable array"):
        from_arrays(arrays, clean, rows)


def test_likeness_tells_haze_and_noise_from_another_image() -> None:
    images = natural(16, 3, 32, 32)
    haze = 0.3 * images + 0.7 * torch.linspace(0, 1, 32)
    noise = images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    assert likeness(images, haze).min() > 0.99 and likeness(images, noise).mean() > 0.5
    assert likeness(images, images.roll(1, 0)).mean().abs() < 0.2
    torch.testing.assert_close(likeness(images, 1 - images), -torch.ones(16).double())
    assert likeness(images, torch.zeros_like(images)).eq(0).all()


# Folders


def from_folders(folder: Path | None, images: torch.Tensor, ids: list[str], severity: int = 1, **given: Any) -> Any:
    options = {"downloaded": None, "archive": "imagenet_c", "corruption": "fog", "folder": folder and str(folder)}
    function = registry.load("corruption", "folder_archive")
    return function(images=images, seeds=torch.zeros(len(ids)), severity=severity, ids=ids, **(options | given))


FILES = [f"n{row % 3:08d}/ILSVRC2012_val_{row:08d}.JPEG" for row in range(12)]


@pytest.fixture
def pictures() -> torch.Tensor:
    return natural(12, 3, 40, 40)


@pytest.fixture
def folders(pictures: torch.Tensor, tmp_path: Path) -> Path:
    return write_folders(tmp_path / "weather", "fog", pictures, FILES)


def test_folders_are_found_by_class_and_name(folders: Path, pictures: torch.Tensor) -> None:
    ids = [f"val/{file}" for file in FILES]
    order = [5, 1, 11, 0, 2, 3, 4, 10, 9]
    for severity in range(1, 6):
        out = from_folders(folders, pictures[order], [ids[row] for row in order], severity)
        assert out.dtype == torch.float32
        expected = corrupted(pictures[order], severity)  # of the data set's size: not resized, not cropped
        assert np.array_equal((out * 255).round().byte().permute(0, 2, 3, 1).numpy(), expected)
        singles = [from_folders(folders, pictures[row : row + 1], [ids[row]], severity) for row in order]
        assert torch.equal(torch.cat(singles), out)
    assert torch.equal(from_folders(folders, pictures, FILES), from_folders(folders, pictures, ids))
    assert torch.equal(from_folders(folders.parent, pictures, ids), from_folders(folders, pictures, ids))
    downloaded = from_folders(None, pictures, ids, downloaded=folders)
    assert torch.equal(downloaded, from_folders(folders, pictures, ids))


def test_folders_of_severities_may_have_other_numbers(pictures: torch.Tensor, tmp_path: Path) -> None:
    levels = ("2.35", "3.20", "4.90", "6.60", "10.15")
    top = write_folders(tmp_path / "ImageNet-C-Bar", "cocentric_sine_waves", pictures, FILES, levels)
    given = {"archive": "imagenet_c_bar", "corruption": "concentric_sine_waves"}
    for severity in range(1, 6):
        out = from_folders(tmp_path, pictures, FILES, severity, **given)
        expected = corrupted(pictures, severity)
        assert np.array_equal((out * 255).round().byte().permute(0, 2, 3, 1).numpy(), expected)
    shutil.rmtree(top / "cocentric_sine_waves" / "4.90")
    with pytest.raises(UserError, match=r"waves/3: no such folder; expected five severities in "):
        from_folders(tmp_path, pictures, FILES, 3, **given)


def test_folders_of_another_size_are_resized_whole(folders: Path, pictures: torch.Tensor) -> None:
    smaller = torch.nn.functional.interpolate(pictures, size=(24, 24), mode="area")
    out = (from_folders(folders, smaller, FILES, 2) * 255).round().byte()
    for ours, pixels in zip(out, corrupted(pictures, 2), strict=True):
        theirs = Image.fromarray(pixels).resize((24, 24), Image.Resampling.BICUBIC)
        assert np.array_equal(ours.permute(1, 2, 0).numpy(), np.asarray(theirs))
    with pytest.raises(UserError, match=r"images of 40 x 40 pixels, the data set's have 40 x 30"):
        from_folders(folders, pictures[:, :, :30], FILES)


def test_folders_of_a_greyscale_data_set_are_luma(folders: Path, pictures: torch.Tensor) -> None:
    out = (from_folders(folders, pictures.mean(1, keepdim=True), FILES, 1) * 255).round().byte()
    theirs = Image.fromarray(corrupted(pictures, 1)[0]).convert("L")
    assert np.array_equal(out[0, 0].numpy(), np.asarray(theirs))


def test_folders_refuse_what_is_missing_or_other(folders: Path, pictures: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"^imagenet_c\.fog: sample validation/000003 names no image file"):
        from_folders(folders, pictures[:1], ["validation/000003"])
    with pytest.raises(UserError, match=rf"^{folders}/fog/1/tench: no such folder; the archive must name its classes"):
        from_folders(folders, pictures[:1], ["val/tench/a.JPEG"])
    with pytest.raises(UserError, match=rf"^{folders}/fog/1/n00000000/b.JPEG: no such file"):
        from_folders(folders, pictures[:1], ["val/n00000000/b.JPEG"])
    with pytest.raises(UserError, match=r"^imagenet_c\.frost: found neither .*/frost nor .*zenodo"):
        from_folders(folders, pictures, FILES, corruption="frost")
    with pytest.raises(UserError, match=r"^imagenet_c\.fog: does not look like the data set's images"):
        from_folders(folders, pictures.flip(0), FILES)
    for severity in (0, 6):
        with pytest.raises(ValueError, match="expected 1 to 5"):
            from_folders(folders, pictures, FILES, severity)


# Download

CONTENT = pack({"SMALL/fog.npy": bytes(range(256)) * 400, "SMALL/labels.npy": b"labels"}, "w")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(stage, "PAUSE", 0)
    monkeypatch.setattr(stage, "BLOCK", 1000)
    monkeypatch.setattr(stage, "TIMEOUT", 30)
    with serving() as server:
        server.content = CONTENT
        yield server


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put an archive into the catalogue."""
    return lambda *given, **more: monkeypatch.setitem(archives.ARCHIVES, "small", one_part(*given, **more))


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_download_unpacks_and_says_where_the_files_are_from(
    mode: str, server: Server, listed: Callable[..., None], tmp_path: Path
) -> None:
    server.content = pack({"SMALL/fog.npy": b"fog", "SMALL/labels.npy": b"labels"}, mode)
    listed(server.url, server.content, checksum=f"sha256:{hashlib.sha256(server.content).hexdigest()}")
    download(spec=SPEC, code="code", out=tmp_path / "deep" / "small")
    assert left(tmp_path / "deep") == ["small"]
    assert left(tmp_path / "deep" / "small") == ["SMALL", "provenance.json"]
    assert (tmp_path / "deep/small/SMALL/fog.npy").read_bytes() == b"fog"
    assert server.url in (tmp_path / "deep/small/provenance.json").read_text()
    with pytest.raises(UserError, match="exists already; remove it"):
        download(spec=SPEC, code="code", out=tmp_path / "deep" / "small")


def test_a_broken_connection_is_taken_up_again(server: Server, listed: Callable[..., None], tmp_path: Path) -> None:
    listed(server.url, CONTENT)
    server.breaks = [30_000] * stage.TRIES
    download(spec=SPEC, code="code", out=tmp_path / "small")
    assert server.asked == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]
    assert (tmp_path / "small/SMALL/fog.npy").read_bytes() == bytes(range(256)) * 400
    assert left(tmp_path) == ["small"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_later_job_takes_up_what_an_earlier_one_left(
    ranges: bool, server: Server, listed: Callable[..., None], tmp_path: Path
) -> None:
    listed(server.url, CONTENT)
    server.breaks, server.after, server.ranges = [30_000], 503, ranges
    with pytest.raises(UserError, match=rf"^small, part all: cannot download {server.url} \(HTTP status 503.*'folder'"):
        download(spec=SPEC, code="code", out=tmp_path / "small")
    assert len(server.asked) == 1 + stage.TRIES
    (partial,) = tmp_path.iterdir()
    assert partial.read_bytes() == CONTENT[:30_000]
    server.status = 0
    download(spec=SPEC, code="code", out=tmp_path / "small")
    assert server.asked[0] is None and set(server.asked[1:]) == {"bytes=30000-"}
    assert (tmp_path / "small/SMALL/fog.npy").read_bytes() == bytes(range(256)) * 400
    assert left(tmp_path) == ["small"]


def test_a_server_that_always_begins_anew_is_given_up(
    server: Server, listed: Callable[..., None], tmp_path: Path
) -> None:
    listed(server.url, CONTENT)
    server.breaks, server.ranges = [30_000, 20_000] * 20, False
    with pytest.raises(UserError, match="the connection ended early"):
        download(spec=SPEC, code="code", out=tmp_path / "small")
    assert len(server.asked) == 1 + stage.TRIES


@pytest.mark.parametrize("given", [{"checksum": f"md5:{'0' * 32}"}, {"size": len(CONTENT) + 1}, {"size": 50}])
def test_another_file_leaves_nothing_behind(
    given: dict[str, Any], server: Server, listed: Callable[..., None], tmp_path: Path
) -> None:
    listed(server.url, CONTENT, **given)
    with pytest.raises(UserError) as error:
        download(spec=SPEC, code="code", out=tmp_path / "small")
    text = str(error.value)
    if "checksum" in given:
        assert f"md5 {hashlib.md5(CONTENT).hexdigest()}; expected {len(CONTENT)} bytes, md5 {'0' * 32}" in text
    else:
        assert f"has {len(CONTENT)} bytes, expected {given['size']}" in text
    assert "\n" not in text and "'folder'" in text and not left(tmp_path)


def test_an_address_may_be_a_file(listed: Callable[..., None], tmp_path: Path) -> None:
    source = tmp_path / "source.tar"
    source.write_bytes(CONTENT)
    listed(source.as_uri(), CONTENT)
    download(spec=SPEC, code="code", out=tmp_path / "small")
    assert left(tmp_path) == ["small", "source.tar"]


@pytest.mark.parametrize(
    "entries",
    [
        {"../x": b"x"},
        {"/tmp/x": b"x"},
        {"SMALL/../../x": b"x"},
        {"SMALL/out": link("SMALL/out", "../../x")},
        {"SMALL/out": link("SMALL/out", "/etc/passwd")},
        {"SMALL": link("SMALL", ".."), "SMALL/x": b"x"},
    ],
)
def test_entries_that_lead_outside_are_refused(
    entries: dict[str, Any], server: Server, listed: Callable[..., None], tmp_path: Path
) -> None:
    server.content = pack({"first": b"first"} | entries)
    listed(server.url, server.content)
    with pytest.raises(UserError, match=r"^small, part all: the archive is not safe to unpack "):
        download(spec=SPEC, code="code", out=tmp_path / "deep" / "small")
    assert left(tmp_path) == ["deep"] and not left(tmp_path / "deep")


def test_what_is_no_tar_file_is_refused(server: Server, listed: Callable[..., None], tmp_path: Path) -> None:
    server.content = b"<html>" * 300
    listed(server.url, server.content)
    with pytest.raises(UserError, match="the archive is no readable tar file"):
        download(spec=SPEC, code="code", out=tmp_path / "small")
    assert not left(tmp_path)


def test_download_says_what_stops_it(
    server: Server, listed: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small"
    with pytest.raises(
        UserError, match="imagenet_c_bar, part all: has no published checksum.*fbaipublicfiles.*'folder'"
    ):
        download(spec={"archive": "imagenet_c_bar", "part": "all"}, code="code", out=out)
    with pytest.raises(UserError, match=r"imagenet_c, part fog: no such part; there are noise, blur, weather"):
        download(spec={"archive": "imagenet_c", "part": "fog"}, code="code", out=out)
    listed(server.url, CONTENT)
    server.status = 404
    with pytest.raises(UserError, match=rf"cannot download {server.url} \(HTTP status 404, Not Found\); .*'folder'"):
        download(spec=SPEC, code="code", out=out)
    assert len(server.asked) == 1  # what is not there now will not be there in five seconds
    listed("http://127.0.0.1:9/small.tar", CONTENT)
    with pytest.raises(UserError, match=r"cannot download http://127.0.0.1:9/small.tar \(.*refused.*'folder'"):
        download(spec=SPEC, code="code", out=out)
    listed(server.url, CONTENT, size=10**18)
    with pytest.raises(UserError, match=r"needs 2250000000\.0 GB in .*, which has .* GB left; make room"):
        download(spec=SPEC, code="code", out=out)
    (tmp_path / "file").write_text("")
    listed(server.url, CONTENT)
    with pytest.raises(UserError, match=r"small, part all: cannot read or write .*file"):
        download(spec=SPEC, code="code", out=tmp_path / "file" / "small")
    assert left(tmp_path) == ["file"]


def test_from_the_address_to_the_images(
    server: Server, clean: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = write_arrays(tmp_path / "CIFAR-10-C", "fog", clean, [row % 10 for row in range(COUNT)])
    server.content = pack({f"CIFAR-10-C/{file.name}": file.read_bytes() for file in arrays.iterdir()})
    part = one_part(server.url, server.content).parts["all"]
    entry = archives.ARCHIVES["cifar10_c"]._replace(parts={"all": part})
    monkeypatch.setitem(archives.ARCHIVES, "cifar10_c", entry)
    download(spec={"archive": "cifar10_c", "part": "all"}, code="code", out=tmp_path / "got")
    rows = list(range(COUNT))
    out = from_arrays(None, clean, rows, downloaded=tmp_path / "got")
    assert torch.equal(out, from_arrays(arrays, clean, rows))
