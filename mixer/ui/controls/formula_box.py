"""The formula box: one component with the text, its error or its result (S and exponents), and names to insert.

Style and behavior are in assets/web/formula.css and formula.js, which asks `look` about every text. How text and
sliders depend on each other is in `state.formula_text`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING
from typing import TYPE_CHECKING, Any

import gradio as gr

from mixer.errors import FormulaError, MixerError
from mixer.formula.bind import Vocabulary
from mixer.formula.tree import EXPRS, FUNCTIONS, TEXTS, Argument, Call, is_name, named, signature
from mixer.ui.state.controls import read_question
from mixer.ui.state.formula_text import DEFAULT, place, recipe, rewrite
from mixer.ui.state.presets import presets
from mixer.ui.web import script

if TYPE_CHECKING:
    from mixer.desk import Desk
    from mixer.formula.check import Summand
    from mixer.formula.compile import CompiledFormula

_TEMPLATE = """
<section class="formula" aria-labelledby="formula-label">
  <div class="formula-head">
    <label id="formula-label" for="formula-text">Formula</label>
  </div>
  <textarea id="formula-text" rows="2" spellcheck="false" autocomplete="off" autocapitalize="off"
    aria-describedby="formula-fault" aria-keyshortcuts="Control+Enter" title="Control+Enter generates"></textarea>
  <div class="report" tabindex="0" role="group" aria-label="What the formula comes to">
    <div class="fault" id="formula-fault" hidden><pre aria-hidden="true"></pre><p></p></div>
    <p class="sum" role="status"></p>
    <p class="note"></p>
  </div>
  <div class="chips" role="toolbar" data-row="models" aria-label="Models to put in"></div>
  <div class="chips" role="toolbar" data-row="functions" aria-label="Functions to put in"></div>
  <div class="sr-only" role="alert"></div>
</section>
"""


def formula_component(desk: Desk, text: str = DEFAULT) -> gr.HTML:
    """The box, with a formula in it; its value is {text, typed}."""
    return gr.HTML(
        value={"text": text, "typed": False},  # pyright: ignore[reportArgumentType]  (any JSON value is passed on)
        html_template=_TEMPLATE,
        js_on_load=script("formula.js"),
        apply_default_css=False,
        elem_id="formula",
        server_functions=[_look(desk)],
        names=names(desk.vocabulary),
        credits=[(preset.state.formula, f"{preset.about} {preset.credit}") for preset in presets(desk)],
        start=answer(desk, text),
    )


def _look(desk: Desk) -> Callable[[Any], dict[str, Any]]:
    def look(posted: Any) -> dict[str, Any]:
        try:
            seq, text, positions = read_question(posted, desk.attributes)
        except MixerError as error:  # the page itself never sends such a question
            return {"seq": 0, "refused": str(error)}
        return {"seq": seq, **answer(desk, text, positions)}

    return look


def answer(desk: Desk, text: str, moved: Any = None) -> dict[str, Any]:
    """What the page shows of a formula. With `moved`, its numbers are rewritten to those positions first.

    Returns:
        `error` alone; or the `text`, its `title`, `tie` and `positions` as in `Recipe`, its `weight`, `summands` with
        their `exponent`s, and `warnings`.
    """
    vocabulary = desk.vocabulary
    try:
        plan = desk.formula(text)
        if moved is not None and (rewritten := rewrite(plan.bound.formula, vocabulary, moved)) != text:
            text, plan = rewritten, desk.formula(rewritten)
    except FormulaError as error:
        return {"error": place(error, text)}
    found = recipe(plan, vocabulary)
    return {"text": text, "title": found.title, "tie": found.tie, "positions": found.positions, **_figures(plan)}


def formula_summary(desk: Desk, text: str) -> dict[str, str]:
    """The `title` and `tie` of a formula, as in `Recipe`; a wrong formula has those of `sliders`."""
    found = answer(desk, text)
    return {"title": found.get("title", ""), "tie": found.get("tie", "sliders")}


def _figures(plan: CompiledFormula) -> dict[str, Any]:
    report = plan.report
    return {
        "weight": "S depends on the text" if report.weight is None else f"S = {report.weight:.4g}".replace("-", "−"),
        "summands": [_summand(one) for one in report.summands],
        "warnings": list(report.warnings),
    }


def _summand(one: Summand) -> dict[str, str]:
    if one.exponent is not None:
        return {"text": one.text, "exponent": f"{one.exponent:.3g}".replace("-", "−")}
    factor = "" if one.factor is None else f"{one.factor:.3g} × ".replace("-", "−")
    return {"text": factor + one.text, "exponent": ""}


def names(vocabulary: Vocabulary) -> list[dict[str, str]]:
    """The names that a click inserts into a formula: models, poles and functions, each with an explanation."""
    found = [
        {"kind": "model", "text": "sliders", "title": "The model that the sliders make"},
        {"kind": "model", "text": "base", "title": "The base model"},
    ]
    mixes = vocabulary.mixes
    for attribute in vocabulary.attributes.values():
        for label, pole in zip(attribute.labels, ("negative", "positive"), strict=True):
            if dict(mixes[label].weights) == {f"{attribute.name}.{pole}": 1.0} and label != "sliders":
                about = f"The model at the {pole} end of {attribute.name}"
                text = label if is_name(label) else f"[{named(label)}]"
                found.append({"kind": "pole", "text": text, "title": about})
    known = {"judge": vocabulary.judge_labels, "strength": vocabulary.judge_labels, "reward": vocabulary.rewards}
    return found + [_function(call) for name, call in FUNCTIONS.items() if known.get(name, True)]


def _function(call: type[Call]) -> dict[str, str]:
    arguments = signature(call)
    about = " ".join((call.__doc__ or "").split())
    if not arguments:
        return {"kind": "function", "text": call.written, "title": about}
    quote = '"' if arguments[0].kind == TEXTS else ""
    return {
        "kind": "function",
        "text": call.written,
        "title": f"{call.written}({', '.join(map(_argument, arguments))}): {about}",
        "before": f"{call.written}({quote}",
        "after": f"{quote})",
    }


def _argument(argument: Argument) -> str:
    if argument.kind in (EXPRS, TEXTS):
        return '"a", "b", …' if argument.kind == TEXTS else "a, b, …"
    if argument.default is MISSING:
        return argument.name
    return f"{argument.name}={'…' if argument.default is None else f'{argument.default:g}'}"
