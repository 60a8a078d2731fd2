"""Colors and fonts of the page as a Gradio theme; the style sheets in assets/web/ take their colors from its variables.

Only fonts that Gradio itself serves, and the system's own: the page loads nothing from other machines.
"""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils.fonts import LocalFont

WEIGHTS = (400, 700)  # the 600 files that come with Gradio lack most letters


def theme() -> gr.themes.Base:
    """Warm gray console, one teal accent; dark and light."""
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_sm,
        font=[LocalFont("IBM Plex Sans", WEIGHTS), "system-ui", "sans-serif"],
        font_mono=[LocalFont("IBM Plex Mono", WEIGHTS), "ui-monospace", "monospace"],
    )
    return base.set(
        body_background_fill="#eceae5",
        body_background_fill_dark="#131415",
        body_text_color="#23211e",
        body_text_color_dark="#e6e3dd",
        body_text_color_subdued="#625d55",
        body_text_color_subdued_dark="#a39e95",
        background_fill_primary="#f8f7f4",
        background_fill_primary_dark="#1b1c1e",
        background_fill_secondary="#f0eeea",
        background_fill_secondary_dark="#222426",
        block_background_fill="*background_fill_primary",
        block_background_fill_dark="*background_fill_primary",
        border_color_primary="#d6d2ca",
        border_color_primary_dark="#323437",
        block_border_width="0px",
        block_shadow="none",
        block_label_text_color="*body_text_color_subdued",
        block_info_text_color="*body_text_color_subdued",
        block_info_text_color_dark="*body_text_color_subdued",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        checkbox_label_text_color="*body_text_color",
        input_background_fill="#ffffff",
        input_background_fill_dark="#141517",
        input_border_width="1px",
        input_border_color="*border_color_primary",
        input_border_color_dark="*border_color_primary",
        input_placeholder_color="#6f6a62",
        input_placeholder_color_dark="#8d8880",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_dark="#2dd4bf",
        button_primary_background_fill_hover_dark="#5eead4",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#06201d",
        button_secondary_background_fill="*background_fill_secondary",
        button_secondary_background_fill_dark="*background_fill_secondary",
        button_secondary_text_color="*body_text_color",
        button_secondary_text_color_dark="*body_text_color",
    )
