"""The one training loop: any training, any feed, exactly resumable."""

from __future__ import annotations

import copy
import math
import time
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.contracts import Count, Natural, NonNegative, Positive, Share, UserError, derive_seed
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.distributed import first_says, gathered
from pipeline.training.feeds import ALONE, Files, Part, Split, batches, seeded, split_order
from pipeline.training.optimisers import Schedule, make_optimizer
from pipeline.training.progress import Means, Progress, stop_asked
from pipeline.training.step import Step
from pipeline.training.validation import score, validate

CHECKED = 50  # batches between two looks at the loss on a GPU, and at the clock with several processes: each waits
GO_ON, SAVE, STOP = range(3)


class Setting(NamedTuple):
    """Where and how a training runs; nothing of it changes the weights but the number of processes.

    Attributes:
        device: of the training.
        part: this process's part of each batch.
        workers: processes that decode images from files.
        checkpoints: where the state is kept; None: nowhere.
        interval: least time between two checkpoints, in seconds.
    """

    device: torch.device = torch.device("cpu")
    part: Part = ALONE
    workers: int = 0
    checkpoints: Checkpoints | None = None
    interval: float = 300.0


def fit(
    *,
    step: Step,
    train: Split | Files,
    validation: Split,
    seed: int,
    setting: Setting = Setting(),  # noqa: B008 (immutable)
    epochs: Count = 30,
    batch_size: Count = 128,
    optimizer: Literal["sgd", "adam", "adamw", "nadamw", "lamb", "lion", "rmsprop"] = "sgd",
    learning_rate: Positive = 0.1,
    momentum: Share = 0.9,
    momentum_at_peak: Share | None = None,
    weight_decay: NonNegative = 5e-4,
    scheduler: Literal["cosine", "poly", "onecycle", "none"] = "cosine",
    warmup_epochs: Natural = 0,
    gradient_clip: Positive | None = None,
    crop_padding: Natural = 0,
    flip: bool = False,
    crop_scale: Share | None = None,
    ema: Share | None = None,
    keep: Literal["last", "best"] = "last",
    processes: Count = 1,
) -> list[dict[str, float]]:
    """Train the step's classifier in place.

    Killed and called again with the same arguments it goes on from its last checkpoint, in the middle of an epoch too,
    and ends with the same weights: bit for bit on a CPU with as many threads as before. Order, augmentation and
    the training's draws are functions of (seed, epoch, batch), so no generator's state has to be kept.

    Args:
        step: the training, around its classifier.
        train: training images and labels.
        validation: validation images and labels.
        seed: of all draws.
        setting: device, processes and checkpoints.
        epochs: passes over the training data. A training with replays (`free`) sees each batch that often in each.
        batch_size: images a step, over all processes; a last, smaller batch is kept unless it holds one image
            (BatchNorm needs two).
        optimizer: a timm optimiser.
        learning_rate: its peak.
        momentum: of SGD (Nesterov's), or the first decay rate of the others.
        momentum_at_peak: for `onecycle`: the momentum falls from `momentum` to this while the learning rate rises, and
            comes back (0.95 and 0.85 are torch's defaults); None: constant.
        weight_decay: not applied to biases and normalisation layers (timm's default).
        scheduler: of the learning rate, set at every step; see `Schedule`. `poly` is linear, with a warm-up a triangle.
        warmup_epochs: rise at the start.
        gradient_clip: largest l2 norm of the gradient.
        crop_padding: pixels of zero padding for random crops.
        flip: random horizontal flips.
        crop_scale: random crops of at least this share of the area, resized (timm's); for images loaded from files.
        ema: decay of an exponential moving average of the weights, which is validated and kept in their stead.
        keep: weights of the `last` epoch, or of the `best` one on the validation split, by robust accuracy where the
            training reports it, else by accuracy.
        processes: that share each batch, one GPU each, by torch's launcher. The training's own draws and BatchNorm's
            statistics are those of a process's part, so they depend on this number.

    Returns:
        One row of metrics an epoch: `epoch`, `learning_rate`, and `train_*` and `validation_*` of loss, accuracy and
        whatever the training reports.

    Raises:
        UserError: the loss is not finite, or the launcher started another number of processes.
        SystemExit: the process was asked to stop; the state is saved.
    """
    device, part = setting.device, setting.part
    if part.world != processes:
        raise UserError(
            f"processes: the recipe asks for {processes}, this run has {part.world}; start it with "
            f"`python -m torch.distributed.run --standalone --nproc-per-node {processes} -m pipeline train ...`"
        )
    n, replays = len(train.labels), step.method.replays
    count = len(split_order(torch.arange(n), batch_size, part.world))
    solver = make_optimizer(step.classifier, optimizer, learning_rate, momentum, weight_decay)
    schedule = Schedule(
        solver,
        scheduler,
        steps=epochs * count * replays,
        warmup_steps=warmup_epochs * count * replays,
        learning_rate=learning_rate,
        momentum=momentum,
        momentum_at_peak=momentum_at_peak,
    )
    run = _Run(step, solver, schedule, ema, setting)
    progress = Progress(epochs, count, n, quiet=part.rank > 0)
    # One step for all epochs: torch.compile would compile each new one again.
    watched = step if run.judged is step.classifier else step.around(run.judged)
    resumed = run.load()
    progress.start(run.epoch, run.batch, resumed)
    for epoch in range(run.epoch, epochs):
        step.train()
        feed = batches(
            train,
            epoch=epoch,
            start=run.batch,
            seed=seed,
            batch_size=batch_size,
            crop_padding=crop_padding,
            flip=flip,
            crop_scale=crop_scale,
            part=part,
            device=device,
            workers=setting.workers,
        )
        for number, (images, labels, whole) in enumerate(feed, run.batch):
            run.place = f"epoch {epoch + 1}, batch {number + 1}"
            for replay in range(replays):
                at = (epoch * count + number) * replays + replay
                schedule.set(at)
                torch.manual_seed(derive_seed(seed, "dropout", at, part.rank))
                draws = seeded(seed, "training", at, part.rank)
                run.update(images, labels, draws, at / (epochs * count * replays), whole, gradient_clip)
            progress.tick(epoch, number)
            if number + 1 < count:
                run.rest(epoch, number + 1)
        row = {"epoch": epoch + 1.0, "learning_rate": solver.param_groups[0]["lr"], **run.totals.named("train", part)}
        run.check(row["train_loss"])
        row |= validate(watched, validation, batch_size, seed, part)
        run.end(row, keep)
        progress.show(row)
        if epoch + 1 < epochs:
            run.rest(epoch + 1, 0)
    step.classifier.load_state_dict(run.best["weights"] if keep == "best" else run.judged.state_dict())
    return run.history


class _Run:
    """What changes while a training runs."""

    def __init__(
        self, step: Step, solver: torch.optim.Optimizer, schedule: Schedule, ema: float | None, setting: Setting
    ) -> None:
        self.step, self.solver, self.schedule, self.setting = step, solver, schedule, setting
        self.epoch = self.batch = 0  # the next batch
        self.place = ""
        self.totals, self.best = Means(), dict[str, Any]()
        self.history: list[dict[str, float]] = []
        self._average: Any = None
        if ema is not None:
            from timm.utils import ModelEmaV3

            self._average = ModelEmaV3(step.classifier, decay=ema)
        self._wrapped: nn.Module = step if setting.part.world == 1 else DistributedDataParallel(step)
        self._parameters = list(step.classifier.parameters())
        self._saved = time.monotonic()

    @property
    def judged(self) -> nn.Module:
        """The classifier that is validated and kept."""
        judged: nn.Module = self.step.classifier if self._average is None else self._average.module
        return judged

    def update(
        self,
        images: Tensor,
        labels: Tensor,
        draws: torch.Generator,
        progress: float,
        whole: int,
        gradient_clip: float | None,
    ) -> None:
        """One step of the optimiser."""
        loss, metrics = self._wrapped(images, labels, draws, progress)
        if self.setting.device.type == "cpu":
            self.check(loss.item())
        self.solver.zero_grad(set_to_none=True)
        # The wrapper takes the mean of the processes' gradients, whose parts of a last batch may differ in size.
        (loss * (len(labels) * self.setting.part.world / whole)).backward()
        if gradient_clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, gradient_clip)
        self.solver.step()
        if self._average is not None:
            self._average.update(self.step.classifier)
        self.totals.add(len(labels), loss=loss.detach(), **metrics)

    def check(self, loss: float) -> None:
        """Raise UserError if the loss (or a sum of losses) is not finite."""
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} in {self.place}: lower learning_rate, add warmup_epochs or set gradient_clip"
            )

    def end(self, row: dict[str, float], keep: str) -> None:
        """Close an epoch."""
        self.history.append(row)
        self.totals = Means()
        self.batch = 0
        if keep == "best" and (not self.best or score(row) > self.best["score"]):
            self.best = {"score": score(row), "weights": copy.deepcopy(self.judged.state_dict())}

    def rest(self, epoch: int, batch: int) -> None:
        """Between two batches, of which the next is given: look at the clock and for signals, save what is due."""
        part, device = self.setting.part, self.setting.device
        if batch % CHECKED and (part.world > 1 or (device.type != "cpu" and not stop_asked())):
            return
        due = time.monotonic() - self._saved >= self.setting.interval
        word = first_says(STOP if stop_asked() else SAVE if due else GO_ON, part, device)
        if batch:
            self.check(float(self.totals.sums["loss"]))
        if word != GO_ON:
            self._save(epoch, batch)
        if word == STOP:
            raise SystemExit(
                f"asked to stop before epoch {epoch + 1}, batch {batch + 1}; the same command goes on there"
            )

    def _save(self, epoch: int, batch: int) -> None:
        part, checkpoints = self.setting.part, self.setting.checkpoints
        states = gathered({name: value.detach().cpu() for name, value in self.step.method.state.items()}, part)
        totals = self.totals.over(part)
        if part.rank == 0 and checkpoints is not None:
            state = {
                "classifier": self.step.classifier.state_dict(),
                "average": None if self._average is None else self._average.module.state_dict(),
                "solver": self.solver.state_dict(),
                "schedule": self.schedule.state_dict(),
                "states": states,
                "totals": totals,
                "history": self.history,
                "best": self.best,
                "epoch": epoch,
                "batch": batch,
            }
            checkpoints.save(epoch, batch, state)
        self._saved = time.monotonic()

    def load(self) -> bool:
        """Go on from the last checkpoint; whether there is one."""
        checkpoints, part = self.setting.checkpoints, self.setting.part
        found = None if checkpoints is None else checkpoints.load()
        if found is None:
            return False
        self.step.classifier.load_state_dict(found["classifier"])
        self.solver.load_state_dict(found["solver"])
        self.schedule.load_state_dict(found["schedule"])
        if self._average is not None:
            self._average.module.load_state_dict(found["average"])
        state = self.step.method.state
        state.clear()
        state.update({name: value.to(self.setting.device) for name, value in found["states"][part.rank].items()})
        if part.rank == 0:  # the sums are those of all processes
            self.totals = Means({name: value.to(self.setting.device) for name, value in found["totals"].items()})
        self.history, self.best = found["history"], found["best"]
        self.epoch, self.batch = found["epoch"], found["batch"]
        return True
