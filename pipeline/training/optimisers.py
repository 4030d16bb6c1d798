"""timm's optimisers, and schedules of learning rate and momentum by timm and torch."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn


def make_optimizer(
    classifier: nn.Module, name: str, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """A timm optimiser. `momentum` is SGD's and RMSprop's, and the first of the `betas` of those that have betas."""
    from timm.optim import create_optimizer_v2, get_optimizer_info

    info = get_optimizer_info(name)
    given: dict[str, object] = {"momentum": momentum}
    if info.has_betas:  # timm would ignore the momentum
        given = {"betas": (momentum, inspect.signature(info.opt_class).parameters["betas"].default[1])}
    solver: torch.optim.Optimizer = create_optimizer_v2(
        classifier, opt=name, lr=learning_rate, weight_decay=weight_decay, **given
    )
    return solver


class Schedule:
    """Sets the learning rate (and the momentum) before each of `steps` steps.

    Args:
        solver: whose parameter groups are set.
        name: `cosine` or `poly` (linear) with a linear rise from zero: timm's, down to zero; `onecycle`: torch's
            OneCycleLR with cosine arcs, from a 25th of the peak up and down to a 250,000th, as in the released code of
            PRIME; `none`: constant.
        steps: of the whole training.
        warmup_steps: steps of the rise.
        learning_rate: the peak.
        momentum: at the ends of `onecycle`; elsewhere constant, as the optimiser has it.
        momentum_at_peak: of `onecycle`; None: constant.
    """

    def __init__(
        self,
        solver: torch.optim.Optimizer,
        name: str,
        *,
        steps: int,
        warmup_steps: int,
        learning_rate: float,
        momentum: float,
        momentum_at_peak: float | None,
    ) -> None:
        from timm.scheduler import create_scheduler_v2

        self._cycle: torch.optim.lr_scheduler.OneCycleLR | None = None
        self._timm: Any = None
        if name == "onecycle":
            self._cycle = torch.optim.lr_scheduler.OneCycleLR(
                solver,
                max_lr=learning_rate,
                total_steps=max(steps, 2),  # torch divides by steps - 1
                pct_start=warmup_steps / steps,
                cycle_momentum=momentum_at_peak is not None,
                base_momentum=momentum if momentum_at_peak is None else momentum_at_peak,
                max_momentum=momentum,
            )
        elif name != "none":
            self._timm, _ = create_scheduler_v2(
                solver,
                sched=name,
                num_epochs=max(steps - warmup_steps, 1),
                warmup_epochs=warmup_steps,
                warmup_prefix=True,  # the fall begins where the rise ends, at the peak
                warmup_lr=0.0,
                min_lr=0.0,
                decay_rate=1.0,  # the power of timm's `poly`
                step_on_epochs=False,
                updates_per_epoch=1,
            )

    def set(self, step: int) -> None:
        """Set the optimiser for a step; steps come in order from 0, or from where a state was loaded."""
        if self._timm is not None:
            self._timm.step_update(step)
        elif self._cycle is not None:
            while self._cycle.last_epoch < step:
                self._cycle.step()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: OneCycleLR counts its steps, timm's schedules are functions of the step."""
        return {} if self._cycle is None else self._cycle.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        if self._cycle is not None:
            self._cycle.load_state_dict(state)
