"""Sizes of models before anything is fetched: beside the chooser of checkpoints, and for a picture of one's own the way
to the published pair, in one press."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from vlcompare.errors import VLCompareError
from vlcompare.render.markup import Safe, el
from vlcompare.types import QUANTIZATIONS, SIDES, ModelSpec, Quantization
from vlcompare.ui import checkpoint_names
from vlcompare.ui.compare import views
from vlcompare.ui.compare.forms import allowed_checkpoint, may_be_folder
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.layout.tab import Parts, outputs_of
from vlcompare.ui.compare.session import CompareSession
from vlcompare.ui.events import QUIET, on_changes
from vlcompare.units import format_bytes

PAIR = ("finetuned_pythiavl_1b", "finetuned_mambavl_790m")


def wire_published(parts: Parts, handlers: Handlers) -> None:
    """Build both pieces into their places and connect them."""
    _wire_sizes(parts, handlers)
    _wire_offer(parts, handlers)


def _wire_offer(parts: Parts, handlers: Handlers) -> None:
    """Below the notice that the tiny models know no photographs: the button, and what it costs here."""
    with parts.asking.notice_place:
        button = gr.Button("Use the published 1B and 790M pair", size="sm", elem_id="vl-published", visible=False)
        # the first look at the machine takes seconds: torch is imported, and a few products are timed
        waiting = el("p", "Working out what it takes on this machine …", class_="vl-note")
        said = gr.HTML(waiting, elem_id="vl-published-cost")
    chosen = gr.State("none")

    def offer(notice: str | None) -> list[Any]:
        if "<p" not in str(notice or ""):
            return [gr.skip(), gr.skip(), gr.skip()]
        method, sentence = offer_of(handlers)
        return [gr.update(visible=method is not None), el("p", sentence, class_="vl-note"), method or "none"]

    def take(session: CompareSession, method: Quantization) -> list[Any]:
        session.changes += 1  # the fields may be in closed folds, which report no change: the state does
        return [*outputs_of(session, {"state": views.state(session)}), *PAIR, method, method]

    fields = [parts.sides[side][name] for name in ("checkpoint", "quantization") for side in SIDES]
    notice = parts.asking.notice
    notice.change(offer, [notice], [button, said, chosen], trigger_mode="always_last", **QUIET)
    button.click(take, [parts.session, chosen], [*parts.outputs, *fields], **QUIET)


def offer_of(handlers: Handlers) -> tuple[Quantization | None, str]:
    """(the quantization in which the published pair fits here, what it costs), or (None, why it cannot be used)."""
    from vlcompare.runtime.loading.cost import answer_seconds, cost, obstacle
    from vlcompare.runtime.loading.precision import preferred

    settings = handlers.settings
    if settings.offered and not set(PAIR) <= set(settings.offered):
        return None, "The published pair is not offered on this server."
    obstacles = []
    try:
        for method in preferred(settings.device):
            specs = [ModelSpec(name, method, settings.device) for name in PAIR]
            costs = [cost(spec) for spec in specs]
            why = obstacle(costs, settings.device, budget=settings.budget_bytes, evictable=_evictable(handlers))
            if not why:
                return method, cost_sentence(costs, [answer_seconds(spec) for spec in specs], method)
            obstacles.append(why)
    except VLCompareError as error:
        return None, f"The published pair cannot be used here: {error}"
    except RuntimeError:  # a GPU that is there during a call only, as on ZeroGPU, cannot be looked at
        return "none", "How much it takes here is not known before it runs."
    return None, f"The published pair does not fit here: {obstacles[0]}."


def cost_sentence(costs: Sequence[Any], seconds: Sequence[float | None], method: Quantization) -> str:
    """ "4.8 GB to fetch once, about 10 GB of memory, about 13 s an answer on this machine." """
    from vlcompare.runtime.loading.cost import weights_together

    download = sum(one.download or 0 for one in costs)
    memory = weights_together(costs) + max(one.beside for one in costs)
    parts = [f"{format_bytes(download)} to fetch once" if download else "Already on this machine"]
    parts.append(f"about {format_bytes(memory)} of memory")
    known = [value for value in seconds if value is not None]
    if known:
        parts.append(f"about {_seconds(max(known))} an answer on this machine")
    if method == "none":
        return ", ".join(parts) + "."
    bits = {"nf4": 4, "int8": 8}[method]
    rounded = f"the large layers' weights are rounded to {bits} bits, so answers may differ a little"
    return f"{', '.join(parts)}, in {checkpoint_names.QUANTIZATION_NAMES[method]}: {rounded}."


def _seconds(value: float) -> str:
    """An estimate says no more than it knows: one or two digits."""
    return f"{value:.1f} s" if value < 2 else f"{round(value)} s" if value < 90 else f"{round(value / 60)} min"


def _evictable(handlers: Handlers) -> int:
    return handlers.pool.held_bytes() if handlers.pool is not None else 0


def _wire_sizes(parts: Parts, handlers: Handlers) -> None:
    """Below each chooser the size of what is chosen; in its list, once it is opened, that of every checkpoint."""
    for side in SIDES:
        own = parts.side_parts[side]
        checkpoint, quantization = own.fields["checkpoint"], own.fields["quantization"]
        with own.model_place:
            said = gr.HTML(el("div"), elem_id=f"vl-{side}-size")

        def size(name: str | None, method: Quantization) -> Safe:
            return el("p", size_sentence(handlers, name, method), class_="vl-note")

        def listed(name: str | None, method: Quantization) -> list[Any]:
            offered = checkpoint_names.choices(handlers.settings)
            labels = [(labelled(handlers, label, one, method), one) for label, one in offered]
            return [gr.update(choices=labels), el("p", size_sentence(handlers, name, method), class_="vl-note")]

        def fitting(name: str | None) -> Any:
            method = first_choice(handlers, name)
            return gr.skip() if method is None else method

        checkpoint.input(fitting, [checkpoint], [quantization], **QUIET)  # type: ignore[attr-defined]
        fields = [checkpoint, quantization]
        own.line.expand(listed, fields, [checkpoint, said], **QUIET)
        on_changes(f"{side}-size", fields, size, fields, [said])


def first_choice(handlers: Handlers, name: Any) -> Quantization | None:
    """The quantization that a checkpoint gets when it is chosen: the first that fits here; None where it stays as it
    is, because the operator has chosen one or nothing is known. name: as the page sent it.
    """
    from vlcompare.runtime.loading.cost import cost, obstacle
    from vlcompare.runtime.loading.precision import first_choices

    settings = handlers.settings
    if settings.quantization_given:
        return None
    try:
        name = allowed_checkpoint(name, settings)
        by_name = not may_be_folder(name, settings)
        methods = first_choices(ModelSpec(name, device=settings.device), names_only=by_name)
        for method in methods if len(methods) > 1 else ():
            found = cost(ModelSpec(name, method, settings.device), names_only=by_name)
            if not obstacle([found], settings.device, budget=settings.budget_bytes, evictable=_evictable(handlers)):
                return method
    except (VLCompareError, RuntimeError):  # RuntimeError: a GPU that is there during a call only
        return None
    return methods[0]


def labelled(handlers: Handlers, label: str, name: str, method: Quantization) -> str:
    """A checkpoint's label with what is to be fetched, and whether it fits; the label alone for what is here."""
    said = _size(handlers, name, method)
    return f"{label} · {said}" if said else label


def size_sentence(handlers: Handlers, name: str | None, method: Quantization) -> str:
    """What this checkpoint costs, as a sentence; "" for an embedded one, and where nothing is known or allowed."""
    from vlcompare.runtime.loading.precision import reason

    said = _size(handlers, name, method)
    if not said:
        return ""
    why = reason(str(method), handlers.settings.device)
    return f"{said[0].upper()}{said[1:]}.{why and f' {why}'}"


def _size(handlers: Handlers, name: Any, method: Any) -> str:
    """name and method: as the page sent them."""
    from vlcompare.runtime.loading.cost import cost, obstacle

    settings = handlers.settings
    try:
        name = allowed_checkpoint(name, settings)
        known = checkpoint_names.lookup(name)
        if method not in QUANTIZATIONS or (known is not None and known.embedded):
            return ""
        found = cost(ModelSpec(name, method, settings.device), names_only=not may_be_folder(name, settings))
        if found.download is None or found.memory is None:
            return ""
        parts = [f"{format_bytes(found.download)} to fetch" if found.download else "on this machine"]
        parts.append(f"about {format_bytes(found.memory)} of memory")
        why = obstacle([found], settings.device, budget=settings.budget_bytes, evictable=_evictable(handlers))
        parts.append("fits here" if not why else "does not fit here")
    except (VLCompareError, RuntimeError):  # RuntimeError: a GPU that is there during a call only
        return ""
    return ", ".join(parts)
