"""The training loop: learning, schedules, feeds, exact resume, and processes that share a batch."""

from __future__ import annotations

import functools
import math
import random
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline import registry
from pipeline.contracts import UserError
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.feeds import ALONE, Files, Part, Split, augment, batches
from pipeline.training.loop import Setting, fit
from pipeline.training.optimisers import make_optimizer
from pipeline.training.progress import listening, stop_asked
from pipeline.training.standard import standard
from pipeline.training.step import Method, Step
from tests.processes import method as by_name

Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def separable(n: int = 64) -> Split:
    """Two classes that differ in brightness."""
    labels = torch.arange(n) % 2
    images = torch.randint(0, 90, (n, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    return Split((images + 150 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)


def small_net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
    return nn.Sequential(nn.Flatten(), *layers)


def method(loss: Loss = standard, replays: int = 1, progress: bool = False) -> Method:
    return Method(loss, takes_box=False, takes_progress=progress, replays=replays, state={})


def run(net: nn.Module, how: Method | None = None, setting: Setting | None = None, **options: Any) -> Any:
    data = separable()
    settings = {"epochs": 5, "batch_size": 16, "learning_rate": 0.1, **options}
    step = Step(net, how or method())
    return fit(step=step, train=data, validation=data, seed=1, setting=setting or Setting(), **settings)


def weights(net: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in net.state_dict().values()])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb", "lion"])
def test_learns_what_can_be_learnt(optimizer: str) -> None:
    rate = 0.1 if optimizer == "sgd" else 0.01
    history = run(small_net(), optimizer=optimizer, learning_rate=rate, epochs=15, gradient_clip=1.0)
    assert history[-1]["validation_accuracy"] == 1.0
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert [row["epoch"] for row in history] == list(range(1, 16))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "nadamw", "lamb", "lion", "rmsprop"])
def test_momentum_reaches_every_optimizer(name: str) -> None:
    for group in make_optimizer(small_net(), name, 0.1, 0.77, 0.01).param_groups:
        assert (group["betas"][0] if "betas" in group else group["momentum"]) == 0.77
        assert group["lr"] == 0.1


def seen_rates(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[list[float], list[float]]:
    """Learning rate and momentum at every step."""
    rates: list[float] = []
    momenta: list[float] = []
    plain = torch.optim.SGD.step

    def watched(self: torch.optim.SGD, *given: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        momenta.append(self.param_groups[0]["momentum"])
        return plain(self, *given)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    run(small_net(), **options)
    return rates, momenta


def test_poly_with_a_warm_up_is_a_triangle(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, momenta = seen_rates(monkeypatch, scheduler="poly", epochs=5, warmup_epochs=2)
    rise, fall = [0.1 * k / 8 for k in range(8)], [0.1 * (12 - k) / 12 for k in range(12)]  # four steps an epoch
    assert rates == pytest.approx(rise + fall)
    assert set(momenta) == {0.9}


def test_cosine_falls_from_the_peak_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, _ = seen_rates(monkeypatch, epochs=3)
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * k / 12)) for k in range(12)])
    assert set(seen_rates(monkeypatch, epochs=2, scheduler="none")[0]) == {0.1}


def test_onecycle_cycles_the_momentum_only_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"scheduler": "onecycle", "epochs": 5, "warmup_epochs": 1, "momentum": 0.95}
    rates, momenta = seen_rates(monkeypatch, **options, momentum_at_peak=0.85)
    assert rates[0] == pytest.approx(0.1 / 25)
    assert max(rates) == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.1 / 25e4)
    assert momenta[rates.index(max(rates))] == pytest.approx(0.85)
    assert momenta[0] == momenta[-1] == pytest.approx(0.95)
    assert set(seen_rates(monkeypatch, **options)[1]) == {0.95}


def test_loss_that_is_not_finite_stops_with_advice() -> None:
    net = small_net()
    nn.init.constant_(net[1].weight, torch.nan)
    with pytest.raises(UserError, match="the loss is nan in epoch 1, batch 1: lower learning_rate"):
        run(net)


@pytest.mark.parametrize(("n", "sizes"), [(33, [16, 16]), (34, [16, 16, 2]), (16, [16])])
def test_a_last_batch_of_one_image_is_left_out(n: int, sizes: list[int]) -> None:
    seen = [len(labels) for _, labels, _ in feed(separable(n))]
    assert seen == sizes


def test_ema_is_the_average_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    trail: list[Tensor] = []
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    start = net[1].weight.detach().clone()
    plain = torch.optim.SGD.step

    def watched(self: torch.optim.SGD, *given: Any) -> Any:
        plain(self, *given)
        trail.append(net[1].weight.detach().clone())

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    run(net, epochs=1, ema=0.75)
    average = start
    for point in trail:
        average = 0.75 * average + 0.25 * point
    torch.testing.assert_close(net[1].weight.detach(), average)


def test_best_epoch_is_kept_by_robust_accuracy_where_there_is_one() -> None:
    scores = iter([0.1, 0.9, 0.3])

    def loss(*, classifier: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Any:
        logits = classifier(images)
        found = nn.functional.cross_entropy(logits, labels)
        return found, {} if classifier.training else {"robust_accuracy": torch.tensor(next(scores))}

    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    nets: list[Tensor] = []

    def copying(**given: Any) -> Any:
        if not given["classifier"].training:
            nets.append(weights(net))
        return loss(**given)

    run(net, method(copying), epochs=3, batch_size=64, keep="best")
    assert torch.equal(weights(net), nets[1])
    assert not torch.equal(weights(net), nets[2])


def test_replays_give_each_batch_again_and_progress_counts_them() -> None:
    seen: list[tuple[int, float]] = []

    def loss(*, progress: float, **given: Any) -> Any:
        if given["classifier"].training:
            seen.append((hash(given["images"].numpy().tobytes()), progress))
        return standard(**given)

    run(small_net(), method(loss, replays=3, progress=True), epochs=1, batch_size=32)
    pictures = [picture for picture, _ in seen]
    assert pictures[:3] == [pictures[0]] * 3
    assert pictures[3:] == [pictures[3]] * 3
    assert pictures[0] != pictures[3]
    assert [share for _, share in seen] == pytest.approx([k / 6 for k in range(6)])


def test_augmentation_is_for_training_images_alone() -> None:
    seen: list[float] = []

    def loss(**given: Any) -> Any:
        seen.append(float(given["images"].max()) if given["classifier"].training else -float(given["images"].max()))
        return standard(**given)

    step = Step(small_net(), method(loss), augmentation=lambda images, generator: images / 4)
    data = separable()
    fit(step=step, train=data, validation=data, seed=1, epochs=1, batch_size=64)
    assert 0 < seen[0] <= 0.25
    assert seen[1] < -0.25


def test_bfloat16_is_near_float32_and_weights_stay_float32() -> None:
    data, plain, half = separable(), small_net().eval(), small_net().eval()
    images = data.images.float() / 255
    step = Step(half, method(), precision=torch.bfloat16, channels_last=True)
    loss, _ = step(images, data.labels, torch.Generator())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(standard(classifier=plain, images=images, labels=data.labels,
                                                 generator=torch.Generator())[0].item(), rel=0.02)  # fmt: skip
    assert not torch.equal(step.logits(images), plain(images))
    assert {value.dtype for value in half.parameters()} == {torch.float32}


# Feeds


def feed(
    data: Split | Files, epoch: int = 0, start: int = 0, part: Part = ALONE, workers: int = 0, **options: Any
) -> Any:
    settings = {"crop_padding": 0, "flip": False, "crop_scale": None, "batch_size": 16, "seed": 3, **options}
    return batches(data, epoch=epoch, start=start, part=part, device=torch.device("cpu"), workers=workers, **settings)


def as_files(n: int = 22) -> Files:
    shades = np.random.default_rng(0).integers(0, 256, (n, 12, 10, 3), dtype=np.uint8)
    pictures = [Image.fromarray(pixels) for pixels in shades]
    return Files(
        labels=torch.arange(n) % 3,
        decode=lambda row: np.asarray(pictures[row].resize((8, 8))).transpose(2, 0, 1),
        open=lambda row: pictures[row],
        size=8,
    )


FEEDS: dict[str, tuple[Callable[[], Split | Files], dict[str, Any]]] = {
    "memory": (functools.partial(separable, 40), {"crop_padding": 1, "flip": True}),
    "files": (as_files, {"crop_padding": 1, "flip": True}),
    "random crops": (as_files, {"crop_scale": 0.3, "flip": True}),
}


@pytest.mark.parametrize("name", FEEDS)
def test_an_epoch_can_be_entered_at_any_batch(name: str) -> None:
    make, options = FEEDS[name]
    whole = list(feed(make(), batch_size=6, **options))
    for (images, labels, size), (again, names, count) in zip(
        whole[2:], feed(make(), start=2, batch_size=6, **options), strict=True
    ):
        assert torch.equal(images, again)
        assert torch.equal(labels, names)
        assert size == count
    other = next(iter(feed(make(), epoch=1, batch_size=6, **options)))
    assert not torch.equal(other[0], whole[0][0])
    assert float(whole[0][0].max()) <= 1


@pytest.mark.parametrize("name", FEEDS)
def test_processes_share_what_one_would_see(name: str) -> None:
    make, options = FEEDS[name]
    whole = list(feed(make(), batch_size=6, **options))
    parts = [list(feed(make(), batch_size=6, part=Part(rank, 2), **options)) for rank in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1])
    for (images, labels, size), *halves in zip(whole, *parts, strict=True):
        for rank, (some, names, count) in enumerate(halves):
            torch.testing.assert_close(some, images[rank::2], rtol=0, atol=0)
            assert torch.equal(names, labels[rank::2])
            assert count == size


def test_workers_change_nothing() -> None:
    random.seed(5)
    before = random.getstate()
    alone = list(feed(as_files(), crop_scale=0.3, batch_size=7))
    assert random.getstate() == before
    for (images, *_), (again, *_) in zip(alone, feed(as_files(), crop_scale=0.3, batch_size=7, workers=2), strict=True):
        assert torch.equal(images, again)


def test_random_crops_of_decoded_images_are_refused() -> None:
    with pytest.raises(UserError, match="crop_scale: the images are held decoded"):
        next(iter(feed(separable(), crop_scale=0.5)))


def test_augmentation_shifts_and_flips_each_image_on_its_own() -> None:
    images = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4).expand(200, 1, 4, 4)
    same = augment(images, torch.Generator().manual_seed(0), 0, False)
    assert torch.equal(same, images)
    flipped = augment(images, torch.Generator().manual_seed(0), 0, True)
    is_flipped = (flipped == images.flip(3)).flatten(1).all(1)
    assert torch.equal(is_flipped, ~(flipped == images).flatten(1).all(1))
    assert 60 < int(is_flipped.sum()) < 140
    cropped = augment(images, torch.Generator().manual_seed(0), 1, False)
    padded = nn.functional.pad(images[0, 0], [1] * 4)
    windows = {tuple(padded[r : r + 4, c : c + 4].flatten().tolist()) for r in range(3) for c in range(3)}
    assert {tuple(crop.flatten().tolist()) for crop in cropped} == windows


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_gets_one_line(workers: int) -> None:
    def decode(row: int) -> Any:
        raise UserError(f"photo{row}.jpg: not a readable image")

    with pytest.raises(UserError) as error:
        list(feed(as_files()._replace(decode=decode), workers=workers))
    assert re.fullmatch(r"photo\d+\.jpg: not a readable image", str(error.value))


# Resume


def stateful(state: dict[str, Tensor]) -> Loss:
    """A training that remembers: each step's loss is weighted by a draw and by what all steps before left behind."""

    def loss(**given: Any) -> Any:
        found, metrics = standard(**given)
        if given["classifier"].training:
            state["memory"] = 0.9 * state.get("memory", torch.zeros(())) + torch.rand((), generator=given["generator"])
            found = found * (1 + state["memory"])
        return found, metrics

    return loss


def interrupted(folder: Path, stops: list[int], **options: Any) -> tuple[Tensor, Any]:
    """Weights and history of a training that dies at the given steps (counted anew in each attempt)."""
    for stop in [*stops, 10**9]:
        state: dict[str, Tensor] = {}
        calls = 0

        def loss(stop: int = stop, state: dict[str, Tensor] = state, **given: Any) -> Any:
            nonlocal calls
            calls += given["classifier"].training
            if calls > stop:
                raise KeyboardInterrupt
            return stateful(state)(**given)

        net = small_net()
        how = Method(loss, takes_box=False, takes_progress=False, replays=1, state=state)
        setting = Setting(checkpoints=Checkpoints(folder / "out.safetensors", "x"), interval=0)
        try:
            history = run(net, how, setting, **options)
        except KeyboardInterrupt:
            continue
        return weights(net), history
    raise AssertionError


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "learning_rate": 0.01, "warmup_epochs": 1},
        {"scheduler": "onecycle", "momentum_at_peak": 0.8, "ema": 0.8, "keep": "best", "crop_padding": 1, "flip": True},
    ],
    ids=["adamw", "onecycle-ema-best"],
)
def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path, options: dict[str, Any]) -> None:
    expected, history = interrupted(tmp_path / "whole", [], **options)
    found, again = interrupted(tmp_path / "cut", [3, 4, 1, 6], **options)
    assert torch.equal(found, expected)
    assert again == history


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    expected, history = interrupted(tmp_path / "whole", [])
    with pytest.raises(AssertionError):
        interrupted_only(tmp_path / "cut", 7)
    newest = sorted((tmp_path / "cut").glob(".out.x.*"))
    assert len(newest) == 2
    content = newest[-1].read_bytes()
    newest[-1].write_bytes(content[: len(content) // 2])  # truncated
    found, again = interrupted(tmp_path / "cut", [])
    assert "damaged checkpoint passed over" in capfd.readouterr().err
    assert torch.equal(found, expected)
    assert again == history


def interrupted_only(folder: Path, stop: int) -> None:
    net, state = small_net(), dict[str, Tensor]()
    calls = 0

    def loss(**given: Any) -> Any:
        nonlocal calls
        calls += given["classifier"].training
        assert calls <= stop
        return stateful(state)(**given)

    how = Method(loss, takes_box=False, takes_progress=False, replays=1, state=state)
    run(net, how, Setting(checkpoints=Checkpoints(folder / "out.safetensors", "x"), interval=0))


def test_a_full_disk_ends_no_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Unwritable:
        def __reduce__(self) -> Any:
            raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(tmp_path / "net.safetensors", "a")
    checkpoints.save(0, 1, {"value": torch.ones(1)})
    checkpoints.save(0, 2, {"value": Unwritable()})
    assert "no checkpoint written ([Errno 28] No space left on device)" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".net.a.000000-00000001.checkpoint"]
    loaded = checkpoints.load()
    assert loaded is not None
    assert float(loaded["value"]) == 1


def test_a_flipped_bit_is_noticed_and_other_recipes_are_not_read(tmp_path: Path) -> None:
    own, other = (Checkpoints(tmp_path / "net.safetensors", name) for name in ("a", "b"))
    own.save(0, 1, {"value": torch.arange(1000.0)})
    own.save(0, 2, {"value": torch.arange(1000.0) + 1})
    assert other.load() is None
    newest = sorted(tmp_path.glob(".net.a.*"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    loaded = own.load()
    assert loaded is not None
    assert torch.equal(loaded["value"], torch.arange(1000.0))
    own.save(0, 3, {})
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".net.a.000000-00000004.123.partial").write_bytes(b"killed while it wrote")
    other.clear()
    assert not list(tmp_path.iterdir())


def test_another_number_of_processes_is_refused_with_the_command() -> None:
    with pytest.raises(UserError, match="the recipe asks for 2, this run has 1; start it with `python -m torch"):
        run(small_net(), processes=2)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_network_trains_like_the_plain_one() -> None:
    data, losses = separable(), []
    for compiled in (False, True):
        net = small_net().eval()  # without dropout, whose draws differ
        step = Step(net, method(), compiled=compiled)
        loss, _ = step(data.images.float() / 255, data.labels, torch.Generator())
        loss.backward()
        losses.append((loss.item(), net[1].weight.grad.clone()))
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
    torch.testing.assert_close(losses[0][1], losses[1][1], rtol=1e-4, atol=1e-6)


def test_a_signal_asks_for_a_stop_and_afterwards_means_what_it_meant() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with listening():
        assert not stop_asked()
        signal.raise_signal(signal.SIGTERM)
        assert stop_asked()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the second one ends at once"
    assert not stop_asked()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("name", registry.names("training"))
def test_every_training_runs_in_bfloat16_and_channels_last(name: str) -> None:
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    net = nn.Sequential(convolution, nn.Flatten(), nn.Linear(512, 4))
    images = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(16) % 4
    losses = []
    for settings in ({}, {"precision": torch.bfloat16, "channels_last": True}):
        loss, _ = Step(net, by_name(name), **settings)(images, labels, torch.Generator().manual_seed(2), 0.5)
        net.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
