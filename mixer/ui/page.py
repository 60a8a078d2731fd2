"""The page: what is on it, and what each control calls. Knows the desk by its public names alone."""

from __future__ import annotations

from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from mixer.ui import api, handlers
from mixer.ui.controls import deck as deck_ui
from mixer.ui.controls import formula_box as box_ui
from mixer.ui.controls import stage as stage_ui
from mixer.ui.controls import tools as tools_ui
from mixer.ui.controls.shelf import Panel, shelf
from mixer.ui.live.browsers import BrowserSessions
from mixer.ui.live.stream import run
from mixer.ui.live.zero_gpu import ZeroGpu, gpu, wanted
from mixer.ui.panels import batch, export, pad, paint, sweep
from mixer.ui.state.controls import MODES
from mixer.ui.state.decouple import scales
from mixer.ui.state.page_state import PageState
from mixer.ui.state.presets import presets
from mixer.ui.state.snippets import SHIPPED, DeskSource
from mixer.ui.translations import LANGUAGES
from mixer.ui.web import script

if TYPE_CHECKING:
    from mixer.desk import Desk

OPENING = "Continuous interpolation"  # the preset that the page opens with
CACHE = (900, 3600)  # seconds: how often exported files are looked through, and how old they may become
AT_ONCE = 8  # takes that stream side by side; more wait in the queue
TITLE = "Mixing desk"
PANELS: dict[str, Panel] = {  # the shelf's, by title
    "Paint": paint.panel,
    "Sweep": sweep.panel,
    "Pad": pad.panel,
    "Batch": batch.panel,
    "Export": export.panel,
}
COMPUTING = ("Paint", "Sweep", "Batch", "Export")  # panels that use the model in this process: not on ZeroGPU


def build(
    desk: Desk, registry: BrowserSessions | None = None, opening: str | None = OPENING, origin: DeskSource = SHIPPED
) -> gr.Blocks:
    """The page of a desk, opened with a preset if the desk can run it; with everything at rest otherwise.

    `origin` is what the desk was loaded from, for the code that the page shows.
    """
    registry = BrowserSessions() if registry is None else registry
    away = ZeroGpu(desk, gpu()) if wanted() else None
    known = presets(desk)
    state = next((preset.state for preset in known if preset.name == opening), PageState())
    with (
        gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=CACHE) as page,
        gr.Column(elem_id="desk"),
    ):
        _header(desk)
        tools = tools_ui.component(desk, known, state, origin)
        with gr.Column(elem_id="console"):
            deck = deck_ui.component(desk.vocabulary, state, scales(desk))
            box = box_ui.component(desk, state.formula)
            mode, temperature, tokens, seed, rate, fresh = _options(state)
        with gr.Column(elem_id="prompt-area"):
            gr.HTML(tools_ui.NOTICES, apply_default_css=False, elem_id="notices")
            prompt = gr.Textbox(
                state.prompt,
                label="Prompt",
                lines=2,
                max_lines=4,
                elem_id="prompt",
                placeholder="How the text begins",
            )
        stage = stage_ui.component(state, **box_ui.gist(desk, state.formula))
        shelf(desk, registry, {title: panel for title, panel in PANELS.items() if not (away and title in COMPUTING)})
        with gr.Row(elem_id="transport"):
            stop = gr.Button("Stop", elem_id="stop", scale=0)
            start = gr.Button("Generate", variant="primary", elem_id="generate", scale=0)
            gr.HTML(stage_ui.STATUS, apply_default_css=False, elem_id="status")

        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        plain = [prompt, mode, temperature, tokens, seed, rate, fresh]
        tools.submit(None, tools, plain, js=tools_ui.PUT, **quiet)
        gr.on([part.change for part in (deck, box, *plain)], None, [deck, box, *plain], js=tools_ui.TELL, **quiet)
        gr.on(
            [start.click, prompt.submit],
            handlers.generate(desk, registry, away.run if away else partial(run, desk)),
            [deck, box, *plain],
            [stage, seed],
            trigger_mode="always_last",
            show_progress="hidden",
            concurrency_limit=AT_ONCE,
            api_visibility="private",
        )
        deck.input(handlers.steer(desk, registry), deck, None, trigger_mode="always_last", **quiet)
        stop.click(handlers.stop(registry), None, None, **quiet)
        api.offer(desk, AT_ONCE, away.text if away else None)
        page.unload(handlers.unload(registry))
    return page


def _options(state: PageState) -> tuple[gr.Radio, gr.Number, gr.Number, gr.Number, gr.Number, gr.Checkbox]:
    # Numbers without bounds of Gradio's own, which would answer in a toast: `stream.options` answers on the page.
    with gr.Accordion("Options", open=False, elem_id="options"):
        mode = gr.Radio(
            list(MODES),
            value=state.mode,
            label="When a slider moves",
            info="keep: steer from here · refill: reread the text under the new mix · restart: begin again",
            elem_id="mode",
        )
        with gr.Row():
            temperature = gr.Number(
                state.temperature, label="Temperature", step=0.05, elem_id="temperature", min_width=80
            )
            tokens = gr.Number(state.tokens, label="Most tokens", precision=0, elem_id="tokens", min_width=80)
            seed = gr.Number(state.seed, label="Seed", precision=0, elem_id="seed", min_width=80)
        with gr.Row(equal_height=True):
            rate = gr.Number(state.rate, label="Tokens a second", info="0: all it can", elem_id="rate", min_width=120)
            fresh = gr.Checkbox(state.fresh, label="New seed each time", elem_id="fresh", min_width=150)
    return mode, temperature, tokens, seed, rate, fresh


def _header(desk: Desk) -> gr.HTML:
    notes = "".join(f"<li>{escape(problem)}</li>" for problem in desk.problems)
    many = len(desk.problems)
    problems = f"<details><summary>{many} note{'s' * (many > 1)}</summary><ul>{notes}</ul></details>" if many else ""
    bars = "".join(f'<i style="--at:{at}"></i>' for at in (0.25, 0.7, 0.45))
    languages = "".join(f'<option value="{code}" lang="{code}">{name}</option>' for code, name in LANGUAGES.items())
    return gr.HTML(
        f'<header class="masthead"><h1><span class="mark" aria-hidden="true">{bars}</span>'
        f'<span>{TITLE}</span></h1><span class="model" title="the resident base model">{escape(desk.name)}</span>'
        f'<span class="count">{len(desk.anchors)} <span>anchors</span> · {len(desk.rewards)} <span>rewards</span>'
        f'</span>{problems}<select class="language" aria-label="Language">{languages}</select></header>',
        js_on_load=script("masthead.js"),
        apply_default_css=False,
        elem_id="masthead",
    )
