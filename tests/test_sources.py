"""Published and made-up sources: what is on disk is whole, what is not is fetched once, or an error says what to do."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import pickle
import socket
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.io import savemat
from torchvision import datasets as published

from pipeline.contracts import UserError
from pipeline.datasets._torchvision import Archive, _locked, gathered, obtain
from pipeline.datasets.cifar10 import cifar10
from pipeline.datasets.cifar100 import cifar100
from pipeline.datasets.fashion_mnist import fashion_mnist
from pipeline.datasets.mnist import mnist
from pipeline.datasets.samples import Samples
from pipeline.datasets.svhn import svhn
from pipeline.datasets.synthetic import basis, synthetic

COUNTS = {"train": 20, "test": 10}


class Site(NamedTuple):
    """A web server of this machine that publishes the files of a folder, and the paths asked of it."""

    url: str
    folder: Path
    asked: list[str]

    def publish(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return hashlib.md5(content).hexdigest()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder, asked = tmp_path / "site", []
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "*")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, _: str, *parts: object) -> None:
            asked.append(self.path.lstrip("/"))

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *given: object) -> None:
            """A client that hangs up early (torchvision opens an address once to follow redirections) is no error."""

    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Site(f"http://127.0.0.1:{server.server_port}/", folder, asked)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address of this machine at which nothing listens."""
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


class Made(NamedTuple):
    """Images (n, c, h, w) and labels, by part of the set."""

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]


def make(channels: int, side: int, classes: int = 10, **more: int) -> Made:
    generator = np.random.default_rng(0)
    images, labels = {}, {}
    for part, count in {**COUNTS, **more}.items():
        images[part] = generator.integers(0, 256, (count, channels, side, side), dtype=np.uint8)
        labels[part] = generator.permutation(np.arange(count) % classes)
    return Made(images, labels)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def publish_mnist(site: Site, monkeypatch: pytest.MonkeyPatch, kind: Any) -> Made:
    made, resources = make(1, 28), []
    for part, word in (("train", "train"), ("test", "t10k")):
        for name, array in (("images-idx3", made.images[part][:, 0]), ("labels-idx1", made.labels[part])):
            file = f"{word}-{name}-ubyte.gz"
            resources.append((file, site.publish(file, gzip.compress(idx(array)))))
    monkeypatch.setattr(kind, "resources", resources)
    monkeypatch.setattr(kind, "mirrors", [site.url])
    return made


def publish_cifar(site: Site, monkeypatch: pytest.MonkeyPatch, kind: Any) -> Made:
    fine = kind is published.CIFAR100
    made, key = make(3, 32), "fine_labels" if fine else "labels"
    rows = {part: images.reshape(len(images), -1) for part, images in made.images.items()}
    entries: dict[str, Any] = {"test_batch": {"data": rows["test"], key: made.labels["test"].tolist()}}
    for number in range(2):
        half = slice(10 * number, 10 * number + 10)
        entries[f"data_batch_{number}"] = {"data": rows["train"][half], key: made.labels["train"][half].tolist()}
    entries["meta"] = {kind.meta["key"]: [f"kind {label}" for label in range(10)]}
    contents = {name: pickle.dumps(entry) for name, entry in entries.items()}
    sums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(kind, "url", site.url + kind.filename)
    monkeypatch.setattr(kind, "tgz_md5", site.publish(kind.filename, buffer.getvalue()))
    monkeypatch.setattr(kind, "train_list", [[name, sums[name]] for name in ("data_batch_0", "data_batch_1")])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "filename": "meta", "md5": sums["meta"]})
    return made


def publish_svhn(site: Site, monkeypatch: pytest.MonkeyPatch, kind: Any) -> Made:
    made, listed = make(3, 32, extra=15), {}
    for part, images in made.images.items():
        file, buffer = f"{part}_32x32.mat", io.BytesIO()
        labels = np.where(made.labels[part] == 0, 10, made.labels[part]).astype(np.uint8)  # as the real files have it
        savemat(buffer, {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None]}, do_compression=True)
        listed[part] = [site.url + file, file, site.publish(file, buffer.getvalue())]
    monkeypatch.setattr(kind, "split_list", listed)
    return made


class Case(NamedTuple):
    """A source, torchvision's class, how to publish a tiny one, and a file that is checked when it is read."""

    source: Callable[..., Samples]
    kind: Any
    publish: Callable[..., Made]
    file: str


CASES = {
    "mnist": Case(mnist, published.MNIST, publish_mnist, "MNIST/raw/train-images-idx3-ubyte"),
    "fashion_mnist": Case(
        fashion_mnist, published.FashionMNIST, publish_mnist, "FashionMNIST/raw/t10k-labels-idx1-ubyte"
    ),
    "cifar10": Case(cifar10, published.CIFAR10, publish_cifar, "cifar-10-batches-py/data_batch_1"),
    "cifar100": Case(cifar100, published.CIFAR100, publish_cifar, "cifar-100-python/meta"),
    "svhn": Case(svhn, published.SVHN, publish_svhn, "test_32x32.mat"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def packed(case: Case, site: Site) -> list[str]:
    """Files that the set is published in, without SVHN's extra part."""
    return [file.name for file in site.folder.iterdir() if not file.name.startswith("extra")]


def forget(site: Site, root: Path) -> None:
    """Remove the downloaded archives, so that only what they unpacked to is left."""
    for file in root.rglob("*gz"):
        file.unlink()
    site.asked.clear()


def test_downloads_once_and_gives_the_published_images(
    case: Case, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made, name, root = case.publish(site, monkeypatch, case.kind), case.source.__name__, tmp_path / "new" / "root"
    samples = case.source(root=str(root))
    assert set(site.asked) == set(packed(case, site))
    assert len(capfd.readouterr().err.splitlines()) == len(packed(case, site)), "one line a file, no progress bars"
    assert samples.ids == [f"{name}/{part}/{row:05d}" for part, count in COUNTS.items() for row in range(count)]
    assert samples.splits == [part for part, count in COUNTS.items() for _ in range(count)]
    assert samples.labels.tolist() == [*made.labels["train"], *made.labels["test"]]
    assert samples.labels.dtype == np.int64
    assert len(samples.classes) == 10
    pixels = np.concatenate([made.images["train"], made.images["test"]])
    rows = np.array([29, 0, 19, 20, 11])
    assert samples.read(rows).dtype == np.uint8
    assert np.array_equal(samples.read(rows), pixels[rows])
    site.asked.clear()
    again = case.source(root=str(root), download=False)
    assert np.array_equal(again.read(rows), pixels[rows])
    assert not site.asked


def test_class_names_are_those_of_the_set(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_mnist(site, monkeypatch, published.FashionMNIST)
    publish_cifar(site, monkeypatch, published.CIFAR10)
    assert fashion_mnist(root=str(tmp_path)).classes[1] == "Trouser"
    assert cifar10(root=str(tmp_path)).classes[1] == "kind 1"


def test_extra_images_of_svhn_are_for_training(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = publish_svhn(site, monkeypatch, published.SVHN)
    samples = svhn(root=str(tmp_path / "root"), extra=True)
    assert samples.splits == ["train"] * 35 + ["test"] * 10
    assert samples.ids[20] == "svhn/extra/00000"
    parts = ("train", "extra", "test")
    assert np.array_equal(samples.read(np.arange(45)), np.concatenate([made.images[part] for part in parts]))
    assert samples.labels.tolist() == [label for part in parts for label in made.labels[part]]


@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_damaged_file_is_named_or_fetched_anew(
    case: Case, damage: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, root = case.publish(site, monkeypatch, case.kind), tmp_path / "root"
    case.source(root=str(root))
    forget(site, root)
    file = root / case.file
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    state = f"damaged: {file} and" if damage == "cut" else "not found in .* and"
    with pytest.raises(UserError, match=f"^{case.source.__name__}: {state} 'download' is off; .*{site.url}") as error:
        case.source(root=str(root), download=False)
    assert "\n" not in str(error.value)
    assert not site.asked
    samples = case.source(root=str(root))
    assert set(site.asked) == {name for name in packed(case, site) if name.startswith(file.name) or "cifar" in name}
    assert np.array_equal(samples.read(np.arange(20, 30)), made.images["test"])


def test_half_a_download_does_not_pass_for_whole(
    case: Case, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = case.publish(site, monkeypatch, case.kind)
    folder = tmp_path / (case.file.rpartition("/")[0] if "MNIST" in case.file else "")
    folder.mkdir(parents=True, exist_ok=True)
    for name in packed(case, site):
        (folder / name).write_bytes((site.folder / name).read_bytes()[:-5])
    with pytest.raises(UserError, match="damaged: "):
        case.source(root=str(tmp_path), download=False)
    assert np.array_equal(case.source(root=str(tmp_path)).read(np.arange(20)), made.images["train"])


def test_archives_put_there_by_hand_need_no_network(
    case: Case, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = case.publish(site, monkeypatch, case.kind)
    folder = tmp_path / (case.file.rpartition("/")[0] if "MNIST" in case.file else "")
    folder.mkdir(parents=True, exist_ok=True)
    for name in packed(case, site):
        (folder / name).write_bytes((site.folder / name).read_bytes())
    samples = case.source(root=str(tmp_path), download=False)
    assert not site.asked
    assert np.array_equal(samples.read(np.arange(20, 30)), made.images["test"])


def test_without_network_one_line_says_what_to_put_where(
    case: Case, site: Site, nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.publish(site._replace(url=nowhere), monkeypatch, case.kind)
    with pytest.raises(UserError) as error:
        case.source(root=str(tmp_path / "root"))
    message = str(error.value)
    assert message.startswith(f"{case.source.__name__}: cannot download ")
    assert "refused" in message
    folder = tmp_path / "root" / (case.file.rpartition("/")[0] if "MNIST" in case.file else "")
    assert f"put by hand into {folder}: " in message
    assert all(f"{name} (from {nowhere}{name})" in message for name in packed(case, site))
    assert "'download: false'" in message
    assert "\n" not in message
    assert socket.getdefaulttimeout() is None, "the time limit is for the download alone"
    with pytest.raises(UserError, match="not found in .* and 'download' is off"):
        case.source(root=str(tmp_path / "absent"), download=False)
    assert not (tmp_path / "absent").exists()


def test_wrong_checksum_is_an_error_and_the_next_mirror_is_tried(
    site: Site, nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = publish_mnist(site, monkeypatch, published.MNIST)
    monkeypatch.setattr(published.MNIST, "mirrors", [nowhere, site.url])
    assert np.array_equal(mnist(root=str(tmp_path / "a")).read(np.arange(20)), made.images["train"])
    file = site.folder / "train-labels-idx1-ubyte.gz"
    file.write_bytes(gzip.compress(idx(np.zeros(20))))
    with pytest.raises(UserError, match=f"cannot download {file.name} .*: its checksum is not "):
        mnist(root=str(tmp_path / "b"))
    with pytest.raises(UserError, match=f"damaged: .*{file.name} and"):
        mnist(root=str(tmp_path / "b"), download=False)


def test_the_lock_is_taken_to_fetch_and_released_afterwards(
    site: Site, nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    content = b"content"
    file = tmp_path / "set"
    md5 = site.publish("set.gz", gzip.compress(content))
    archive = Archive(tmp_path / "set.gz", [site.url + "set.gz"], md5, {file: hashlib.md5(content).hexdigest()})
    with _locked(tmp_path / ".set.lock"):
        waiting = threading.Thread(target=obtain, args=("set", [archive], True))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive(), "another holds the lock"
        file.write_bytes(content)  # and brings the file
    waiting.join(30)
    assert not waiting.is_alive()
    assert not site.asked, "what the other brought is not downloaded again"
    file.unlink()
    with pytest.raises(UserError):
        obtain("set", [archive._replace(urls=[nowhere])], True)
    with (tmp_path / ".set.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_whole_files_need_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "set.mat"
    file.write_bytes(b"content")
    md5 = hashlib.md5(b"content").hexdigest()
    with _locked(tmp_path / ".set.lock"):
        obtain("set", [Archive(file, [], md5, {file: md5})], True)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    file = tmp_path / "file" / "set.mat"
    with pytest.raises(UserError, match=r"^set: cannot read or write .*file \("):
        obtain("set", [Archive(file, [], "0", {file: "0"})], True)


def test_images_without_labels_are_an_error() -> None:
    with pytest.raises(UserError, match="the train part has 3 images but 2 labels"):
        gathered("set", {"train": (np.zeros((3, 1, 2, 2), np.uint8), np.zeros(2))}, ["a", "b"])


def test_synthetic_samples_lie_at_epsilon_along_the_first_direction_alone() -> None:
    samples = synthetic(epsilon=0.5, sigma=2.0, dimension=40, samples=3000, test_samples=50, basis_seed=3)
    images, signs = samples.read(np.arange(3050)), 2 * samples.labels - 1
    assert (images.shape, images.dtype, samples.box) == ((3050, 1, 1, 40), np.float32, (None, None))
    assert samples.classes == ["-1", "+1"]
    assert samples.splits == ["train"] * 3000 + ["test"] * 50
    assert (signs[:3000].sum(), signs[3000:].sum()) == (0, 0)
    coordinates = images[:, 0, 0].astype(np.float64) @ basis(40, 3)
    assert coordinates[:, 0] == pytest.approx(0.5 * signs, abs=1e-5)
    noise = coordinates[:, 1:] / 2
    assert len(np.unique(noise.round(4), axis=0)) == 3050, "training and test noise are drawn apart"
    covariance = noise.T @ noise / len(noise)
    assert np.abs(noise.mean(0)).max() < 5 / np.sqrt(len(noise))
    assert np.abs(covariance - np.eye(39)).max() < 6 * np.sqrt(2 / len(noise))
    assert np.abs((noise * signs[:, None]).mean(0)).max() < 5 / np.sqrt(len(noise)), "the noise knows no class"


def test_synthetic_second_feature_lies_along_the_second_direction() -> None:
    samples = synthetic(epsilon=2.0, sigma=0.5, dimension=12, samples=400, test_samples=6, basis_seed=3, rho=0.25)
    images, signs = samples.read(np.arange(406)), 2 * samples.labels - 1
    coordinates = images[:, 0, 0].astype(np.float64) @ basis(12, 3)
    assert coordinates[:, 0] == pytest.approx(2.0 * signs, abs=1e-5)
    assert coordinates[:, 1] == pytest.approx(0.25 * signs, abs=1e-5)
    assert coordinates[:, 2:].std() == pytest.approx(0.5, rel=0.1)
    assert samples.directions is not None and samples.directions.dtype == np.float32
    assert samples.directions[:, 0, 0] == pytest.approx(basis(12, 3)[:, :2].T, abs=1e-7)
    plain = synthetic(dimension=12, samples=4, test_samples=2).directions
    assert plain is not None and plain.shape == (1, 1, 1, 12)
    with pytest.raises(UserError, match="rho: given 1 with dimension 1, expected a dimension of at least 2"):
        synthetic(dimension=1, rho=1.0)


def test_basis_is_orthonormal_and_uniform() -> None:
    frame = basis(30, 0)
    assert frame.T @ frame == pytest.approx(np.eye(30), abs=1e-12)
    assert not np.allclose(frame, basis(30, 1))
    # Haar: entries of the first row have mean 0 and variance 1 / D; without the signs, QR makes one side more frequent.
    entries = np.array([basis(3, seed)[0, 0] for seed in range(2000)])
    assert abs(entries.mean()) < 5 * np.sqrt(1 / 3 / 2000)
    assert entries.var() == pytest.approx(1 / 3, rel=0.1)


def test_synthetic_samples_depend_on_id_and_seed_alone() -> None:
    few, many = (synthetic(dimension=10, samples=count, test_samples=4) for count in (6, 9))
    rows = [many.ids.index(name) for name in few.ids]
    assert few.read(np.arange(10)) == pytest.approx(many.read(np.array(rows)), abs=1e-5)
    assert few.labels.tolist() == many.labels[rows].tolist()
    other = synthetic(dimension=10, samples=6, test_samples=4, basis_seed=1)
    assert not np.allclose(other.read(np.arange(10)), few.read(np.arange(10)))
