"""The page's layout: what is on it, and which handler each control calls. Uses public names of the desk alone."""

from __future__ import annotations

from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from mixer.ui import api, handlers
from mixer.ui.controls.deck import deck_component
from mixer.ui.controls.formula_box import formula_component, formula_summary
from mixer.ui.controls.shelf import Panel, shelf
from mixer.ui.controls.stage import STATUS, stage_component
from mixer.ui.controls.tools import NOTICES, PLAIN, PUT, TELL, tools_component
from mixer.ui.live.browsers import BrowserSessions
from mixer.ui.live.stream import run
from mixer.ui.live.zero_gpu import ZeroGpu, gpu_decorator, is_zero_gpu
from mixer.ui.panels import batch, export, pad, paint, sweep
from mixer.ui.state.decouple import scales
from mixer.ui.state.page_state import PENALTIES, PageState
from mixer.ui.state.presets import presets
from mixer.ui.state.snippets import SHIPPED, DeskSource
from mixer.ui.translations import LANGUAGES
from mixer.ui.web import script
from mixer.values.request import FIELDS

if TYPE_CHECKING:
    from mixer.desk import Desk

OPENING = "Continuous interpolation"  # the preset that the page opens with
CACHE = (900, 3600)  # seconds: how often exported files are looked through, and how old they may become
AT_ONCE = 8  # takes that stream side by side; more wait in the queue
TITLE = "Mixing desk"
PANELS: dict[str, Panel] = {  # of the shelf, by title
    "Paint": paint.panel,
    "Sweep": sweep.panel,
    "Pad": pad.panel,
    "Batch": batch.panel,
    "Export": export.panel,
}
PENALTY_LABELS = {
    "repetition_penalty": "Repetition penalty",
    "presence_penalty": "Presence penalty",
    "frequency_penalty": "Frequency penalty",
    "dry_multiplier": "DRY multiplier",
}
COMPUTING = ("Paint", "Sweep", "Batch", "Export")  # panels that need the model in this process, so not on ZeroGPU


def build(
    desk: Desk, browsers: BrowserSessions | None = None, opening: str | None = OPENING, origin: DeskSource = SHIPPED
) -> gr.Blocks:
    """The page of a desk. It opens with the preset `opening` if the desk can run that, else with everything at rest.

    `origin` is what the desk was loaded from, for the code that the page shows.
    """
    browsers = BrowserSessions() if browsers is None else browsers
    zero_gpu = ZeroGpu(desk, gpu_decorator()) if is_zero_gpu() else None
    choices = presets(desk)
    state = next((preset.state for preset in choices if preset.name == opening), PageState())
    with (
        gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=CACHE) as page,
        gr.Column(elem_id="desk"),
    ):
        _header(desk)
        tools = tools_component(desk, choices, state, origin)
        with gr.Column(elem_id="console"):
            deck = deck_component(desk.vocabulary, state, scales(desk))
            box = formula_component(desk, state.formula)
            controls = _options(state, desk.model.replies)
        with gr.Column(elem_id="prompt-area"):
            gr.HTML(NOTICES, apply_default_css=False, elem_id="notices")
            controls["prompt"] = prompt = gr.Textbox(
                state.prompt,
                label="Prompt",
                lines=2,
                max_lines=4,
                elem_id="prompt",
                placeholder="How the text begins, or what to reply to",
            )
            # A model without a chat template was not trained to reply, so there is no switch.
            controls["reply"] = gr.Checkbox(
                state.reply and desk.model.replies,
                label="Reply to the prompt",
                container=False,
                elem_id="reply",
                visible=desk.model.replies,
            )
        stage = stage_component(state, **formula_summary(desk, state.formula))
        panels = {title: panel for title, panel in PANELS.items() if not (zero_gpu and title in COMPUTING)}
        shelf(desk, browsers, panels)
        with gr.Row(elem_id="transport"):
            stop = gr.Button("Stop", elem_id="stop", scale=0)
            start = gr.Button("Generate", variant="primary", elem_id="generate", scale=0)
            gr.HTML(STATUS, apply_default_css=False, elem_id="status")

        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        plain: list[Any] = [controls[name] for name in PLAIN]
        tools.submit(None, tools, plain, js=PUT, **quiet)
        gr.on([part.change for part in (deck, box, *plain)], None, [deck, box, *plain], js=TELL, **quiet)
        gr.on(
            [start.click, prompt.submit],
            handlers.generate(desk, browsers, zero_gpu.run if zero_gpu else partial(run, desk)),
            [deck, box, *plain],
            [stage, controls["seed"]],
            trigger_mode="always_last",
            show_progress="hidden",
            concurrency_limit=AT_ONCE,
            api_visibility="private",
        )
        deck.input(handlers.steer(desk, browsers), deck, None, trigger_mode="always_last", **quiet)
        stop.click(handlers.stop(browsers), None, None, **quiet)
        api.offer(desk, AT_ONCE, zero_gpu.text if zero_gpu else None)
        page.unload(handlers.unload(browsers))
    return page


def _options(state: PageState, replies: bool) -> dict[str, Any]:
    """The controls of the options, by the name of their field."""
    # Numbers without bounds of Gradio's own, which would answer in a toast: the handler answers on the page.
    with gr.Accordion("Options", open=False, elem_id="options"):
        mode = gr.Radio(
            list(FIELDS["mode"].choices),
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
        penalties = {}
        for names in (PENALTIES[:2], PENALTIES[2:]):
            with gr.Row(equal_height=True):
                for name in names:
                    penalties[name] = gr.Number(
                        getattr(state, name),
                        label=PENALTY_LABELS[name],
                        info="1: none" if FIELDS[name].default else "0: none",
                        step=0.05,
                        elem_id=name.replace("_", "-"),
                        min_width=120,
                    )
        system = gr.Textbox(
            state.system,
            label="System message",
            info="what the model is told before it replies",
            lines=1,
            max_lines=4,
            elem_id="system",
            visible=replies,
        )
    return {
        "system": system,
        "mode": mode,
        "temperature": temperature,
        "tokens": tokens,
        "seed": seed,
        "rate": rate,
        "fresh": fresh,
        **penalties,
    }


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
