"""Models are built, and their kernels compiled, without torch's compiler, which is there when it is wanted."""

from __future__ import annotations

import json
import subprocess
import sys

LEAN = """
import importlib, json, sys
import torch
from vlcompare.models.config import MambaConfig, ModelConfig, PythiaConfig, VisionConfig
from vlcompare.models.lean_imports import without_compiler
from vlcompare.models.vlm import meta_model
from vlcompare.runtime.loading.compile_ahead import compiling

HEAVY = "torch._dynamo", "torch._dynamo.utils", "sympy", "triton"
def present():
    return [name for name in HEAVY if name in sys.modules]

vision = VisionConfig("eva02_tiny_patch14_224", 28)
for family, language in {"pythia": PythiaConfig(512, 64, 1, 4, 256), "mamba": MambaConfig(512, 64, 1)}.items():
    meta_model(ModelConfig(family, vision, language, 28))
    compiling(family, torch.bfloat16, "nf4").join()
lean = present()
import timm
marked = timm.models.naflexvit.NaFlexRopeIterator.__next__
from torchvision.ops import roi_align
with without_compiler():
    stands = sys.modules["torch._dynamo"]
    wanted = importlib.import_module("torch._dynamo.utils").is_compile_supported("cpu")
real = sys.modules["torch._dynamo"]
squared = torch.compile(lambda x: x * x, backend="eager")(torch.full((2,), 3.0)).tolist()
box = roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]), 1).item()
print(json.dumps([lean, stands is real, real is torch._dynamo, wanted, squared, box, marked.__name__, present()]))
"""


def test_no_compiler_until_it_is_wanted() -> None:
    out = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, check=True).stdout
    lean, same, real, wanted, squared, box, marked, after = json.loads(out)
    assert lean == [] and not same and real and wanted is True
    assert squared == [9.0, 9.0] and box == 1.0 and marked == "__next__"
    assert "torch._dynamo" in after
