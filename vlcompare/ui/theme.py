"""The page's look: a gradio theme without fonts from the network, the style sheets, and the scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from vlcompare.render.terms import TERMS
from vlcompare.types import SIDES

FOLDER = Path(__file__).parent
SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
# gradio's theme variables -> sizes, and the style sheet's colours
LOOK = {
    "body_background_fill": "var(--paper)",
    "body_text_color": "var(--ink)",
    "body_text_color_subdued": "var(--soft)",
    "background_fill_primary": "var(--card)",
    "background_fill_secondary": "var(--fill)",
    "block_background_fill": "var(--card)",
    "block_border_color": "var(--line)",
    "block_border_width": "0px",
    "block_padding": "0px",
    "block_label_border_width": "0px",
    "block_title_text_size": "13px",
    "block_title_text_weight": "500",
    "block_label_text_size": "12px",
    "block_info_text_size": "12px",
    "form_gap_width": "0px",
    "input_border_width": "1px",
    "input_padding": "8px 10px",
    "input_text_size": "14px",
    "layout_gap": "12px",
    "button_border_width": "1px",
    "button_small_padding": "4px 12px",
    "button_small_text_size": "13px",
    "button_large_padding": "8px 16px",
    "button_large_text_size": "15px",
    "button_large_text_weight": "600",
    "button_small_radius": "6px",
    "button_large_radius": "8px",
    "checkbox_label_padding": "5px 10px",
    "checkbox_label_text_size": "13.5px",
    "checkbox_label_border_width": "1px",
    "block_shadow": "none",
    "block_label_background_fill": "var(--card)",
    "block_label_text_color": "var(--soft)",
    "block_title_text_color": "var(--soft)",
    "block_info_text_color": "var(--soft)",
    "border_color_primary": "var(--line)",
    "border_color_accent": "var(--left)",
    "input_background_fill": "var(--card)",
    "input_border_color": "var(--line)",
    "input_placeholder_color": "var(--soft)",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "panel_background_fill": "var(--card)",
    "panel_border_color": "var(--line)",
    "button_primary_background_fill": "var(--ink)",
    "button_primary_background_fill_hover": "var(--left)",
    "button_primary_text_color": "var(--card)",
    "button_primary_text_color_hover": "var(--card)",
    "button_primary_border_color": "var(--ink)",
    "button_secondary_background_fill": "var(--card)",
    "button_secondary_background_fill_hover": "var(--fill)",
    "button_secondary_text_color": "var(--ink)",
    "button_secondary_border_color": "var(--line)",
    "button_cancel_background_fill": "var(--card)",
    "button_cancel_background_fill_hover": "var(--bad-soft)",
    "button_cancel_text_color": "var(--bad)",
    "button_cancel_text_color_hover": "var(--bad)",
    "button_cancel_border_color": "var(--line)",
    "checkbox_background_color": "var(--card)",
    "checkbox_background_color_selected": "var(--left)",
    "checkbox_border_color": "var(--soft)",
    "checkbox_border_color_selected": "var(--left)",
    "checkbox_label_background_fill": "var(--card)",
    "checkbox_label_background_fill_selected": "var(--fill)",
    "checkbox_label_text_color": "var(--ink)",
    "checkbox_label_text_color_selected": "var(--ink)",
    "checkbox_label_border_color": "var(--line)",
    "checkbox_label_shadow": "none",
    "link_text_color": "var(--left)",
    "color_accent": "var(--left)",
    "color_accent_soft": "var(--fill)",
    "slider_color": "var(--left)",
    "code_background_fill": "var(--fill)",
}


def theme() -> gr.themes.Base:
    """Neutral and flat; the colours are the style sheet's variables, which follow dark mode by themselves."""
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.stone,
        font=SANS,
        font_mono=MONO,
        text_size=gr.themes.sizes.text_md,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_sm,
    )
    values: dict[str, Any] = {}
    for name, value in LOOK.items():
        values[name] = value
        if hasattr(base, f"{name}_dark"):
            values[f"{name}_dark"] = value
    return base.set(**values)


SCRIPTS = (
    "refusals.js",
    "reveal.js",
    "changes.js",
    "page.js",
    "dropdowns.js",
    "tabs.js",
    "terms.js",
    "compare/compare.js",
    "compare/region.js",
    "inspect/inspect.js",
    "study/study.js",
)
SHEETS = (
    "style.css",
    "terms.css",
    "compare/compare.css",
    "compare/region.css",
    "compare/panels/panels.css",
    "inspect/inspect.css",
    "study/study.css",
)


# fields whose label takes a mark that explains a term: id of the component -> the term
FIELD_TERMS = {
    **{f"vl-{side}-quantization": "quantization" for side in SIDES},
    **{f"vl-{side}-prompt_order": "prompt order" for side in SIDES},
    "vl-mode": "measure or race",
    "vi-gap": "confidence gap",
}


def launch_look() -> dict[str, Any]:
    """The arguments of `Blocks.launch` for the look."""
    script, css = (
        "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names) for names in (SCRIPTS, SHEETS)
    )
    marks = json.dumps({field: [name, TERMS[name]] for field, name in FIELD_TERMS.items()})
    head = f'<meta name="color-scheme" content="light dark"><script>window.vlFieldTerms={marks};{script}</script>'
    return {"theme": theme(), "css": css, "head": head}
