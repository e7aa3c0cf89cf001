"""Whether decode steps whose kernels are launched early give the same bits as others, and in less time.

Whole steps of both families are replayed from graphs: a kernel that does not wait for what it reads shows only where
another one is still at work in front of it. See `models.kernels.early_launch`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlcompare.models.config import MambaConfig, PythiaConfig
from vlcompare.models.kernels import agreement, early_launch
from vlcompare.models.mamba import Mamba
from vlcompare.models.pythia import Pythia
from vlcompare.runtime.loading import quantize
from vlcompare.runtime.sampling import greedy
from vlcompare.runtime.step_graphs import step_runner

STEPS = 48
ROUNDS = 3
_PROMPT = 16


def difference(device: torch.device) -> float:
    """0 where everything that the steps report and leave in the state is equal to the bit, else infinite."""
    for lm in _models(device):
        plain, early = (_walk(lm, device, on)[0] for on in (False, True))
        if any(not torch.equal(one, other) for one, other in zip(plain, early, strict=True)):
            return float("inf")
    return 0.0


def times(device: torch.device) -> tuple[float, float]:
    """Microseconds of a step of each family, added up: launched early, and not."""
    found = {True: 0.0, False: 0.0}
    for lm in _models(device):
        rounds = [{on: _walk(lm, device, on)[1] for on in found} for _ in range(ROUNDS)]
        for on in found:
            found[on] += min(one[on] for one in rounds)
    return found[True], found[False]


def _models(device: torch.device) -> list[Any]:
    """Random ones with several layers, wide enough that a kernel's programs fill a GPU; their layers in NF4, too."""
    packs = quantize.has_bitsandbytes() and quantize.has_kernels("nf4", device)
    found = []
    for packed in (False, True) if packs else (False,):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            mamba = Mamba(MambaConfig(2048, 1024, 6))
            pythia = Pythia(PythiaConfig(2048, 1024, 6, 16, 4096, max_positions=128))
        for family, lm in {"mamba": mamba, "pythia": pythia}.items():
            lm = lm.to(device, torch.bfloat16).eval().requires_grad_(False)
            if packed:
                quantize.replace_linears(lm, family, "nf4", device, torch.bfloat16)
            found.append(lm)
    return found


@torch.inference_mode()
def _walk(lm: Any, device: torch.device, early: bool) -> tuple[list[Tensor], float]:
    """What STEPS replayed steps report and leave behind, and microseconds a step. Raises where there is no graph."""
    with early_launch.forced(early), agreement.trusting():
        state = lm.new_state(1, _PROMPT + STEPS + 1, device=device, dtype=torch.bfloat16)
        prompt = torch.arange(_PROMPT, device=device)[None]

        def tail(logits: Tensor) -> Any:  # of its own, so that no graph of the other kind is found
            return greedy(3)(logits)

        chosen = tail(lm.logits(lm(lm.embed_tokens(prompt), state)[:, -1]))
        runner = step_runner(lm, state, tail=tail)
        runner.prepare(1)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        told = []
        begin.record()
        for _ in range(STEPS):
            chosen = runner(chosen.ids)
            told.append(chosen.packed.clone())
        end.record()
        end.synchronize()
        if not runner.graphed:
            raise RuntimeError(runner.reason)
        kept = [x for x in vars(state.snapshot()).values() if isinstance(x, Tensor)]
        return [torch.stack(told), *kept], 1e3 * begin.elapsed_time(end) / STEPS
