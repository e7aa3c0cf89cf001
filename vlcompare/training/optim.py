"""Muon for matrices, AdamW for the rest, and the schedule of both.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces a matrix's momentum by the nearest
semi-orthogonal matrix, found by five Newton-Schulz steps with the published quintic coefficients. Steps are scaled by
sqrt(max(1, rows / columns)), as there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximately semi-orthogonal matrices with the same row and column spaces (singular values near 1).

    matrices: (B, rows, columns); each by itself, but B small products take little longer than one.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if flip else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, with Nesterov's look-ahead and decoupled weight decay. Two-dimensional parameters only.

    `split` of a parameter group orthogonalises that many stacked matrices separately (a fused q, k, v projection).
    """

    def __init__(
        self, params: Iterable[Tensor] | list[dict], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "split": 1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[Any, ...], list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = self._update(parameter, parameter.grad, group["momentum"])
                if group["weight_decay"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                for target, part in zip(parameter.chunk(group["split"]), update.chunk(group["split"]), strict=True):
                    alike.setdefault((*part.shape, part.dtype, part.device), []).append((target, part))
            for (rows, columns, *_), pairs in alike.items():
                directions = orthogonalise(torch.stack([part for _, part in pairs]))
                for (target, _), direction in zip(pairs, directions, strict=True):
                    target.add_(direction, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))

    def _update(self, parameter: Tensor, gradient: Tensor, share: float) -> Tensor:
        """The momentum moves on; the gradient where it will lead (Nesterov)."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"].lerp_(gradient, 1 - share)
        return gradient.lerp(momentum, share)


def adamw(params: Iterable[Tensor] | list[dict[str, Any]], lr: float, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW as every training here uses it."""
    return torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay)


def muon_matrices(layers: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices of blocks of either family that Muon suits: (two stacked halves each, whole ones).

    Left out are those of Mamba that are small or no products of the residual: A_log, x_proj, dt_proj.
    """
    halves: list[nn.Parameter] = []
    whole: list[nn.Parameter] = []
    for name, parameter in layers.named_parameters():
        if parameter.ndim == 2 and not any(part in name for part in ("A_log", "x_proj", "dt_proj")):
            (halves if "in_proj" in name else whole).append(parameter)
    return halves, whole


def trapezoid(step: int, total: int, *, warmup: int, decay_from: float) -> float:
    """The rate's factor: linear warm-up, constant, then linear down to a hundredth from `decay_from` of the run on.

    Until the decay begins the rate does not depend on `total`: a run can be made longer without a warm restart.
    """
    if step < warmup:
        return (step + 1) / warmup
    begin = decay_from * total
    if step < begin:
        return 1.0
    return max(0.01, (total - step) / max(1.0, total - begin))


def set_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Scale every group's own rate (kept under "base") by the schedule's factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("base", group["lr"])
            group["lr"] = group["base"] * factor
