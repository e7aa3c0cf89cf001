"""How much memory is in use, measured the same way around every answer.

On CUDA: the allocator's own peak since the start. On CPU: the largest resident size of the process seen at the looks,
which includes the interpreter and every model that is loaded.
"""

from __future__ import annotations

import torch


class PeakMemory:
    """Peak bytes between construction and the last `look`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peak = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.look()

    def watch(self) -> None:
        """Take notice of what is in use now, where nobody else does: CUDA's allocator keeps its peak by itself.

        For every token: asking that allocator puts some hundred figures into a dictionary each time.
        """
        if self._device.type != "cuda":
            self.look()

    def look(self) -> int:
        """Take notice of what is in use now; returns the peak so far in bytes."""
        if self._device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self._device)
        else:
            import psutil  # here, since a machine that runs on a GPU alone can do without

            self._peak = max(self._peak, psutil.Process().memory_info().rss)
        return self._peak


def available_bytes(device: torch.device) -> int:
    """Bytes that a new model may take on the device now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return psutil.virtual_memory().available
