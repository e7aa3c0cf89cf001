"""Which of several processes this is, under `accelerate launch`; one process knows nothing of `accelerate`.

All processes must see the same run folder. They share nothing else: each answers every n-th sample.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

_PATIENCE = timedelta(days=7)  # how long the fast ones wait for the slow one


@dataclass(frozen=True, slots=True)
class Processes:
    rank: int = 0
    count: int = 1
    local_rank: int = 0
    wait: Callable[[], None] = lambda: None

    @property
    def main(self) -> bool:
        return self.rank == 0

    def device(self, wanted: str) -> str:
        """This process's own device, where the choice was left to us."""
        if self.count == 1 or wanted != "auto":
            return wanted
        import torch

        return f"cuda:{self.local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


def current(device: str = "auto") -> Processes:
    """The process as its launcher describes it in the environment (WORLD_SIZE, RANK, LOCAL_RANK)."""
    if int(os.environ.get("WORLD_SIZE") or 1) < 2:
        return Processes()
    import torch
    from accelerate import PartialState

    cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=_PATIENCE)
    return Processes(state.process_index, state.num_processes, state.local_process_index, state.wait_for_everyone)
