"""Which of several processes this is, under `accelerate launch`, `torchrun` or `mpirun`.

All processes must see the same run folder. They share nothing else: each answers every n-th batch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

_PATIENCE = timedelta(days=7)  # how long the first to finish waits for the last
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # as launchers name it
ALONE = (
    "This is one process only: with --cpu, `accelerate launch` starts several through mpirun (--mpirun_hostfile) "
    "alone. For several on this machine's CPU: `accelerate launch --multi_gpu --num_processes 2 -m vlcompare "
    "evaluate ...`."
)


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
    """The process as its launcher describes it in the environment."""
    if max(int(os.environ.get(name) or 1) for name in _COUNTS) < 2:
        if started_alone(os.environ):
            print(ALONE, file=sys.stderr)
        return Processes()
    import torch
    from accelerate import PartialState

    cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=_PATIENCE)
    return Processes(state.process_index, state.num_processes, state.local_process_index, state.wait_for_everyone)


def started_alone(environment: Mapping[str, str]) -> bool:
    """Whether `accelerate launch --cpu` was asked for several processes and started one: it then names where they were
    to meet, and counts none."""
    asked = environment.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true") and "MASTER_ADDR" in environment
    return asked and not any(environment.get(name) for name in _COUNTS)
