"""Batch normalisation folded into convolutions: the same logits, and no trust in them close to the boundary."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline import store
from pipeline.models.classifier import Classifier, build
from pipeline.models.folding import folded
from pipeline.models.integrity import fingerprint
from pipeline.stages import attack as stage
from pipeline.stages.inputs import load_classifier, read_evaluation
from tests.test_stages import NET, Folder
from tests.test_stages import folder as folder  # a fixture

PROBE = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def resnet(model: str = "resnet18", **options: object) -> Classifier:
    """With statistics of batch normalisation as after a training."""
    torch.manual_seed(0)
    recipe = {"model": model, "model_options": {"channels": [8, 8, 8, 8], **options}, "stem": "small"}
    classifier = build({**recipe, "classes": 4, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3})
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.25)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return classifier.eval().requires_grad_(False)


def gradient(model: nn.Module, images: Tensor) -> Tensor:
    points = images.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(model(points).square().sum(), points)
    return found


def test_logits_and_gradients_are_the_same_and_the_original_is_left_alone() -> None:
    model = resnet()
    before = fingerprint(model)
    quick = folded(model, PROBE)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    images = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(quick(images), model(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient(quick, images), gradient(model, images), rtol=1e-3, atol=1e-3)
    assert fingerprint(model) == before
    assert not any(parameter.requires_grad for parameter in quick.parameters())
    assert not any(module.training for module in quick.modules())


class Noisy(nn.Module):
    """Adds noise that tracing would freeze into a constant."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images + torch.randn(1, 3, 16, 16))
        return logits


class Branching(Noisy):
    """Asks for a value, which a trace does not have."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images if images.sum() > 0 else -images)
        return logits


@pytest.mark.parametrize("kind", [Noisy, Branching])
def test_what_a_trace_would_change_comes_back_as_it_is(kind: type[Noisy]) -> None:
    model = kind(resnet()).eval()
    assert folded(model, PROBE) is model


def test_a_module_in_train_mode_or_none_to_fold_comes_back_as_it_is() -> None:
    model = resnet()
    next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).train()
    assert folded(model, PROBE) is model
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).eval()
    assert folded(plain, PROBE) is plain


class Biased(nn.Module):
    """Another classifier's logits, the class it prefers turned down: it is fooled where the other is not yet."""

    def __init__(self, model: nn.Module, by: float) -> None:
        super().__init__()
        self.model, self.by = model, by

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        top = logits.detach().topk(2, dim=1)
        near = top.values[:, 0] - top.values[:, 1] < self.by
        lowered = logits.scatter_add(1, top.indices[:, :1], logits.new_full((len(logits), 1), -self.by))
        return torch.where(near[:, None], lowered, logits)


def test_what_fools_the_folded_classifier_alone_is_attacked_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"method": "deepfool", "attack": "df"}
    model, _ = load_classifier(folder.path / "model.safetensors", torch.device("cpu"))
    data = read_evaluation(folder.path / "evaluation.safetensors", torch.device("cpu"))
    right = model(data.images).argmax(1) == data.labels
    seen = []

    def biased(original: nn.Module, probe: Tensor) -> nn.Module:
        seen.append(len(probe))
        return Biased(original, 0.3).eval()

    monkeypatch.setattr(stage, "folded", biased)
    assert folder.run("attack", spec, "df.safetensors", "--classifier", "model.safetensors") == 0
    tensors, meta = store.read_tensors(folder.path / "df.safetensors")
    fooled = model(torch.from_numpy(tensors["images"])).argmax(1) != data.labels
    assert seen and right.any() and fooled[right].all()
    monkeypatch.undo()
    assert folder.run("attack", spec, "plain.safetensors", "--classifier", "model.safetensors") == 0
    _, plain = store.read_tensors(folder.path / "plain.safetensors")
    assert meta["forward_passes"] > plain["forward_passes"]  # both attempts count


def test_the_stage_folds(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []

    def watched(model: nn.Module, probe: Tensor) -> nn.Module:
        made.append(folded(model, probe))
        return made[-1]

    monkeypatch.setattr(stage, "folded", watched)
    assert NET["model"] == "resnet18"
    spec = {"method": "pgd", "attack": "pgd", "options": {"epsilon": 0.1, "steps": 1}}
    assert folder.run("attack", spec, "folded.safetensors", "--classifier", "model.safetensors") == 0
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made[0].modules())
