"""A config that runs the whole workflow in a minute."""

from __future__ import annotations

from typing import Any


def tiny_config() -> dict[str, Any]:
    recipe = {"epochs": 1, "batch_size": 64, "learning_rate": 0.05}
    return {
        "device": "cpu",
        "seed": 0,
        "datasets": {"digits": {"train_size": 200, "evaluation": 24, "test_share": 0.25}},
        "architectures": {"tiny": {"model": "resnet18", "stem": "small", "channels": [8, 8, 8, 8]}},
        "trainings": {
            "standard": dict(recipe),
            "robust": {"method": "adversarial", "norm": "l2", "epsilon": "1/4", "steps": 1, **recipe},
        },
        "corruptions": {"gaussian_noise": {"constants": "imagenet"}, "contrast": None},
        "attacks": {"df": {"method": "deepfool", "steps": 5}, "pgd": {"epsilon": "8/255", "steps": 2}},
        "measurements": {
            "clean_accuracy": {"method": "accuracy"},
            "corrupted_accuracy": {"method": "accuracy", "views": "corruptions"},
            "perturbation": {"views": ["df", "pgd"]},
            "margin": {"method": "dct_margin", "size": 4, "step": 4, "steps": 5},
            "gallery": {"views": "attacks", "samples": 2},
            "transfer": {"views": "attacks"},
        },
    }
