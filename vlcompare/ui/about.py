"""About this machine, at the foot of the page: what answers here, as far as it is no secret of the operator's.

Versions, devices and which kernel takes each operation; no folder, no name of the machine, nothing of the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from vlcompare.render.markup import Safe, el
from vlcompare.runtime.doctor import Operation, facts
from vlcompare.ui.events import QUIET
from vlcompare.units import format_bytes

_PACKAGES = ("torch", "numba", "triton", "bitsandbytes", "mamba-ssm")
TITLE = "About this machine"


def build() -> gr.Accordion:
    """The fold, inside the current Blocks; it is filled when it is opened."""
    with gr.Accordion(TITLE, open=False, elem_classes="vl-more", elem_id="vl-machine") as fold:
        shown = gr.HTML(el("p", "Looking …", class_="vl-empty"), elem_id="vl-machine-view")
    fold.expand(view, None, [shown], **QUIET)
    return fold


def view() -> Safe:
    """A table; see `runtime.doctor`, whose command line tells the operator more."""
    from vlcompare.runtime.doctor import hardware, operations, software  # here: torch comes along

    installed, processor = software.installed(), software.processor()
    devices, _ = hardware.devices()
    versions = [f"{name} {installed.versions[name]}" for name in _PACKAGES if name in installed.versions]
    rows: list[tuple[str, str]] = [
        ("Program", f"vlcompare {installed.vlcompare}, Python {installed.python}"),
        ("Packages", ", ".join(versions)),
    ]
    for device in devices:
        more = f"{processor.threads} threads" if device.name == "cpu" else f"capability {device.capability}"
        rows.append((device.name, f"{device.title}, {format_bytes(device.total_bytes)}, {more}"))
    rows += [(f"{one} kernels", text) for one, text in _kernels(operations.operations(devices)[0])]
    rows += [("Notice", text) for text in operations.notices()[0]]
    lines = [el("tr", el("th", name, scope="row"), el("td", text)) for name, text in rows]
    return el("table", el("tbody", *lines), class_="vl-table vl-words", aria_label=TITLE)


def _kernels(found: Sequence[Operation]) -> list[tuple[str, str]]:
    """(device, "numba: scan of a prompt, ...") for each kernel of each device, with why none faster."""
    texts: dict[str, list[str]] = {}
    for (device, kernel, reason), names in facts.alike(found).items():
        because = f" ({reason.rstrip('.')})" if reason else ""
        texts.setdefault(device, []).append(f"{kernel} for {', '.join(names)}{because}")
    return [(device, "; ".join(parts)) for device, parts in texts.items()]
