"""Too little memory: analyses take fewer images at a time and give the same files, trainings say what to lower."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pipeline import devices, leases, specs, store
from pipeline.commandline import main
from pipeline.contracts import UserError
from pipeline.models.classifier import Classifier
from pipeline.stages import inputs
from pipeline.stages.attack import attack
from pipeline.stages.corrupt import corrupt
from pipeline.stages.measure import measure
from pipeline.stages.train import train

NET = {"model": "resnet18", "stem": "small", "model_options": {"channels": [8, 8, 8, 8]}}
RECIPE = {"method": "standard", "training": "plain", "options": {"epochs": 3, "batch_size": 16, "learning_rate": 0.05}}
LACKS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, a classifier that knows them, and 10 evaluation images."""
    made = tmp_path_factory.mktemp("memory")
    common = {"source": "digits", "test_share": 0.25}
    for split, more in (("train", {"train_size": 300}), ("evaluation", {"evaluation": 10})):
        spec = store.canonical({**common, "split": split, **more})
        assert main(["prepare", "--spec", spec, "--out", str(made / f"{split}.safetensors")]) == 0
    spec = specs.complete("train", {**NET, **RECIPE})
    train(spec=spec, code="", data=made / "train.safetensors", out=made / "model.safetensors", device="cpu")
    return made


def small(function: Callable[..., Any], most: int, error: BaseException = LACKS[0]) -> Callable[..., Any]:
    """A function of images (keyword, or second argument) that has no memory for more than so many."""

    @functools.wraps(function)
    def limited(*given: Any, **named: Any) -> Any:
        if len(named["images"] if "images" in named else given[1]) > most:
            raise type(error)(*error.args)  # a new one, as this would hold what it met
        return function(*given, **named)

    return limited


def limit(monkeypatch: pytest.MonkeyPatch, kind: str, name: str, most: int, error: BaseException = LACKS[0]) -> None:
    module = sys.modules[f"pipeline.{kind}.{name}"]
    monkeypatch.setattr(module, name, small(getattr(module, name), most, error))


def attacked(folder: Path, out: Path, batch_size: int | None) -> bytes:
    spec = specs.complete("attack", {"attack": "p", "method": "pgd", "options": {"epsilon": 0.1, "steps": 3}})
    given = {"classifier": folder / "model.safetensors", "data": folder / "evaluation.safetensors"}
    attack(spec=spec, code="", out=out, device="cpu", batch_size=batch_size, **given)
    return out.read_bytes()


def corrupted(folder: Path, out: Path, batch_size: int | None) -> bytes:
    spec = specs.complete("corrupt", {"corruption": "n", "method": "gaussian_noise"})
    corrupt(spec=spec, code="", data=folder / "evaluation.safetensors", out=out, device="cpu", batch_size=batch_size)
    return out.read_bytes()


def measured(folder: Path, out: Path, batch_size: int | None, method: str, **options: Any) -> bytes:
    spec = specs.complete("measure", {"measurement": "m", "method": method, "clean": True, "options": options})
    given = {"classifier": folder / "model.safetensors", "data": folder / "evaluation.safetensors"}
    measure(spec=spec, code="", out=out, device="cpu", batch_size=batch_size, **given)
    return out.read_bytes()


@pytest.mark.parametrize(("error", "begun"), [(LACKS[0], None), *((error, 16) for error in LACKS)])
def test_an_attack_gives_the_file_of_the_batch_size_that_fits(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    begun: int | None,
) -> None:
    _, four = (attacked(folder, tmp_path / str(size), size) for size in (64, 4))
    limit(monkeypatch, "attacks", "pgd", 4, error)
    capsys.readouterr()
    assert attacked(folder, tmp_path / "limited", begun) == four
    said = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert said[-2:] == [f"attacks.p: out of memory, now {size} images at a time" for size in (8, 4)]
    assert len(said) == (2 if begun else 6)
    (one, first), (two, second) = (store.read_tensors(tmp_path / name) for name in ("64", "limited"))
    assert torch.allclose(torch.tensor(one["images"]), torch.tensor(two["images"]), atol=1e-5)
    assert first == second  # passes are those of the try that went through


def test_a_corruption_gives_the_same_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = corrupted(folder, tmp_path / "whole", None)
    limit(monkeypatch, "corruptions", "gaussian_noise", 3)
    assert corrupted(folder, tmp_path / "limited", None) == whole


@pytest.mark.parametrize("given", [{"method": "accuracy"}, {"method": "dct_margin", "size": 4, "step": 4, "steps": 3}])
def test_a_measurement_gives_the_file_of_the_batch_size_that_fits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    measured(folder, tmp_path / "whole", None, **given)
    two = measured(folder, tmp_path / "two", 2, **given)
    monkeypatch.setattr(Classifier, "forward", small(Classifier.forward, 3))
    assert measured(folder, tmp_path / "limited", None, **given) == two
    # Rounding depends on the batch size, and the number of iterations on rounding.
    tables = [
        pd.read_parquet(tmp_path / name).drop(columns="iterations", errors="ignore") for name in ("whole", "limited")
    ]
    pd.testing.assert_frame_equal(*tables, rtol=1e-2)


def test_one_image_that_does_not_fit_is_the_end(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limit(monkeypatch, "attacks", "pgd", 0)
    limit(monkeypatch, "corruptions", "gaussian_noise", 0)
    for work, place in ((attacked, "attacks.p"), (corrupted, "corruptions.n")):
        with pytest.raises(UserError, match=f"{place}: out of memory with one image at a time; use a GPU with more"):
            work(folder, tmp_path / place, 4)
        assert "now 1 images" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["shapes differ", "the analysis changed the classifier, and ended with CUDA out of memory"]
)
def test_other_errors_are_not_taken_for_a_lack_of_memory(text: str) -> None:
    tries = []

    def work(batch_size: int) -> None:
        tries.append(batch_size)
        raise RuntimeError(text)

    with pytest.raises(RuntimeError, match=text):
        devices.fitting("attacks.p", work, 8)
    assert tries == [8]


def test_a_try_that_failed_holds_no_memory() -> None:
    left: list[weakref.ref[torch.Tensor]] = []

    def work(batch_size: int) -> int:
        assert all(each() is None for each in left)
        images: Any = torch.zeros(batch_size)
        images.itself = images  # only the collector of cycles finds it
        left.append(weakref.ref(images))
        if batch_size > 2:
            raise RuntimeError(*LACKS[1].args)
        return batch_size

    assert devices.fitting("attacks.p", work, 9) == 2
    assert len(left) == 3


def test_a_training_says_what_to_lower(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, "training", "standard", 8)
    spec = specs.complete("train", {**NET, **RECIPE})
    with pytest.raises(UserError, match="trainings.plain: out of memory; lower its `batch_size`"):
        train(spec=spec, code="", data=folder / "train.safetensors", out=tmp_path / "net", device="cpu")
    assert not list(tmp_path.iterdir())


def test_images_that_do_not_fit_all_at_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mapped(*_: Any) -> Any:
        raise LACKS[0]

    monkeypatch.setattr(inputs, "mapped", mapped)
    with pytest.raises(UserError, match="evaluation.safetensors: out of memory; lower the data set's `evaluation`"):
        attacked(folder, tmp_path / "a", None)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], Callable[[int], None]]:
    """A made-up GPU: given free bytes and bytes per image, the work of which its memory is asked."""
    monkeypatch.delenv(leases.JOBS, raising=False)
    peak = [0.0]

    def made(free: float, each: float) -> Callable[[int], None]:
        def work(count: int) -> None:
            peak[0] = 3e8 + count * each
            if peak[0] > free:
                raise LACKS[0]

        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: int(2e8))
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: int(peak[0]))
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: peak.__setitem__(0, 0.0))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free), int(2 * free)))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        return work

    return made


def test_a_gpu_takes_as_many_images_as_its_free_memory_holds(
    gpu: Callable[[float, float], Callable[[int], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = gpu(8e9, 1e7)  # half of 8 GB, at four times 10 MB an image: 100, so 64
    assert devices.batch_size(None, GPU, 1000, work) == 64
    assert devices.batch_size(16, GPU, 1000, work) == 16  # never more than is asked for
    assert devices.batch_size(500, GPU, 1000, work) == 64
    monkeypatch.setenv(leases.JOBS, "2")
    assert devices.batch_size(None, GPU, 1000, work) == 32
    assert devices.batch_size(None, GPU, 1000, gpu(8e12, 1e7)) == devices.LARGEST
    assert devices.batch_size(None, GPU, 1000, gpu(1e8, 1e7)) == 8  # the measuring itself was too much
    assert devices.batch_size(4, GPU, 1000, gpu(1e8, 1e7)) == 4
    assert devices.batch_size(None, GPU, 1000, gpu(1e9, 2e7)) == 2


def test_nothing_is_measured_on_a_cpu_or_for_few_images() -> None:
    def never(_: int) -> None:
        raise AssertionError

    assert devices.batch_size(None, CPU, 1000, never) == devices.DEFAULT
    assert devices.batch_size(7, CPU, 1000, never) == 7
    assert devices.batch_size(None, GPU, 20, never) == devices.DEFAULT
