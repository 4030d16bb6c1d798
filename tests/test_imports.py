"""The short way to import timm: the same models, without torch's compiler, which can be had afterwards."""

from __future__ import annotations

import subprocess
import sys

LIGHT = "import sys; from pipeline.models import imports; imports.import_timm()"
COMPILER = "'torch._dynamo' in sys.modules"
NETS = (
    "import timm, torch; torch.manual_seed(0); nets = [timm.create_model('resnet18', num_classes=3), "
    "timm.create_model('vit_tiny_patch16_224', img_size=32)]; "
    "print(*[net.eval()(torch.ones(2, 3, 32, 32)).double().sum().item() for net in nets])"
)


def printed(*statements: str) -> list[str]:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", "; ".join(statements)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_same_models_without_the_compiler() -> None:
    *light, compiler = printed(LIGHT, NETS, f"print({COMPILER})")
    assert compiler == "False"
    assert light == printed(NETS)


def test_the_compiler_can_be_had_afterwards() -> None:
    compiled = "import torch; print(torch.compile(torch.nn.Linear(3, 2), backend='eager')(torch.ones(1, 3)).shape[1])"
    assert printed(LIGHT, compiled, f"print({COMPILER})") == ["2", "True"]


def test_falls_back_to_the_plain_import() -> None:
    empty = "import sys, types; from pipeline.models import imports; imports._stand_in = types.ModuleType"
    found = printed(empty, "imports.import_timm()", "import timm", f"print(timm.is_model('resnet18'), {COMPILER})")
    assert found == ["True", "True"]
