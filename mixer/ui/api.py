"""What programs can ask of a desk: endpoints for `gradio_client`, for HTTP, and as tools for MCP clients.

MCP clients read docstrings and nothing else, so these name what this very desk has, and bound every number. Any client
can post anything: everything is checked here and answered in sentences. Knows no page and no browser session.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from mixer.errors import FormulaError, InvalidValue, MixerError
from mixer.formula.lexer import LONGEST
from mixer.ui.controls.formula_box import names
from mixer.ui.state.controls import (
    LIMIT,
    MOST_TOKENS,
    DeckValue,
    options,
    read_box,
    read_flag,
    read_positions,
    read_steering,
    read_text,
)
from mixer.ui.state.decouple import mix_of
from mixer.ui.state.formula_text import recipe
from mixer.ui.state.presets import presets
from mixer.values.bounds import bounded
from mixer.values.mix import POSITION_LIMIT
from mixer.values.sampling import SamplingParams
from mixer.values.steering import BUDGET, MOST_NATS

if TYPE_CHECKING:
    from mixer.desk import Desk

MOST_LETTERS = 20_000  # of a text that judges read


# Prompt, sliders, options and formula to the text that the desk writes.
Write = Callable[[str, DeckValue, SamplingParams, str | None], str]


def offer(desk: Desk, at_once: int, write: Write | None = None) -> None:
    """Adds the endpoints to the page that is being built.

    Args:
        at_once: texts that are written side by side.
        write: writes a text elsewhere; the desk itself does if None.
    """
    gr.api(_generate(desk, write or _here(desk)), api_name="generate", concurrency_limit=at_once)
    for function in (_describe(desk), _explain(desk), _scores(desk)):
        gr.api(function, api_name=function.__name__, queue=False)


def _here(desk: Desk) -> Write:
    def write(prompt: str, value: DeckValue, params: SamplingParams, formula: str | None) -> str:
        return desk.generate(prompt, mix_of(desk, value), params, formula, value.steering).text

    return write


def _generate(desk: Desk, write: Write) -> Callable[..., str]:
    def generate(
        prompt: str,
        settings: dict[str, float] | None = None,
        max_new_tokens: int = 120,
        temperature: float = 0.8,
        seed: int | None = None,
        formula: str | None = None,
        rewards: dict[str, float] | None = None,
        levels: dict[str, float] | None = None,
        budget: float | None = None,
        whole: bool = False,
        min_new_tokens: int = 0,
        decouple: bool = False,
    ) -> str:
        try:
            text = read_text("The prompt", prompt)
            positions = read_positions({} if settings is None else settings, desk.attributes)
            chosen = None if formula is None else read_box({"text": formula}).text
            asked = {"rewards": rewards, "levels": levels, "budget": budget, "whole": whole}
            steering = read_steering({k: v for k, v in asked.items() if v is not None}, desk.rewards)
            params = _params(max_new_tokens, min_new_tokens, temperature, seed)
            calm = read_flag("decouple", decouple)
            return write(text, DeckValue(0, positions, steering, calm), params, chosen)
        except MixerError as error:
            raise _refusal(error) from error

    return _documented(
        generate,
        f"Continues a prompt with {desk.name}, a small base language model, under a mix of attributes, by a formula, or"
        " steered by rewards. Returns the new text without the prompt.",
        prompt=f"How the text begins. Prompt and text together have at most {desk.context:,} tokens.",
        settings=f"Attribute -> position from -{LIMIT} to {LIMIT}: -1 and 1 are the poles, beyond is extrapolation; 0, "
        f"and what is left out, is the base model. Attributes, with what is at -1 and at 1: {_attributes(desk)}.",
        max_new_tokens=f"Most tokens of the text, 1 to {MOST_TOKENS}.",
        temperature="0 (always the likeliest token) to 2.",
        seed="Whole number from 0; equal seeds give equal texts. Left out, a fresh one is drawn.",
        formula="What to write by, such as `base - 0.96*union(base, [rude])`, where `sliders` is the model that the "
        f"settings make; at most {LONGEST:,} characters. Left out, that model itself writes. `explain` checks a formula"
        " and `describe` lists all names.",
        rewards=f"Reward head -> position from -{POSITION_LIMIT:g} to {POSITION_LIMIT:g}: 0 is at rest, 1 pushes every "
        f"token toward the attribute, -1 away from it. Heads: {', '.join(desk.rewards) or 'none'}.",
        levels="Reward head -> level from 0 to 1 to aim for, by the head's own reading of the text; a head with a "
        "position cannot have a level too.",
        budget=f"Most nats of divergence at every token, 0 to {MOST_NATS:g}, that rewards, and judges and rewards of "
        f"the formula, spend together. Left out, {BUDGET:g} where anything steers, and no limit where nothing does.",
        whole="Whether the budget counts the settings and the formula too.",
        min_new_tokens="The text does not end before so many tokens, 0 to max_new_tokens.",
        decouple="Whether the settings are levels of the measured scores instead, where -1 and 1 are what a pole alone "
        "reaches: positions are then found that move these scores and hold the others where the base model has them.",
    )


def _params(most: object, least: object, temperature: object, seed: object) -> SamplingParams:
    params = options(most, temperature, seed)
    number = bounded("min_new_tokens", least, 0, params.max_new_tokens)
    if number != int(number):
        raise InvalidValue("min_new_tokens is a whole number.", "Leave the fraction away.")
    return replace(params, min_new_tokens=int(number))


def _describe(desk: Desk) -> Callable[..., dict[str, Any]]:
    known = presets(desk)

    def describe() -> dict[str, Any]:
        return {
            "base": desk.name,
            "context": desk.context,
            "attributes": {
                name: {"-1": one.labels[0], "1": one.labels[1], "about": one.description}
                for name, one in desk.attributes.items()
            },
            "rewards": list(desk.rewards),
            "limits": {
                "settings": [-LIMIT, LIMIT],
                "rewards": [-POSITION_LIMIT, POSITION_LIMIT],
                "levels": [0, 1],
                "budget": [0, MOST_NATS],
                "max_new_tokens": [1, MOST_TOKENS],
                "temperature": [0, 2],
            },
            "formula": {name["text"]: name["title"] for name in names(desk.vocabulary)},
            "presets": {
                one.name: {
                    "about": one.about,
                    "paper": one.credit,
                    "formula": one.state.formula,
                    "settings": dict(one.state.positions),
                    "prompt": one.state.prompt,
                }
                for one in known
            },
        }

    return _documented(
        describe,
        "Says what this desk has: its base model, attributes with their poles, reward heads, limits of all numbers, "
        "names and functions for formulas, and presets of known techniques.",
    )


def _explain(desk: Desk) -> Callable[..., dict[str, Any]]:
    def explain(formula: str) -> dict[str, Any]:
        try:
            plan = desk.formula(read_box({"text": formula}).text)
        except FormulaError as error:
            place = {"line": error.line, "column": error.column, "length": error.length}
            return {"error": {"message": error.message, "hint": error.hint, **place}}
        except MixerError as error:
            raise _refusal(error) from error
        summands = [{"text": one.text, "factor": one.factor, "exponent": one.exponent} for one in plan.report.summands]
        found = recipe(plan.bound, desk.vocabulary)
        return {
            "weight": plan.report.weight,
            "summands": summands,
            "warnings": list(plan.report.warnings),
            "rows": len(plan.bound.branches),
            "follows_settings": found.tie == "sliders",
            "settings": None if found.positions is None else dict(found.positions),
        }

    return _documented(
        explain,
        "Checks a formula and says what it comes to, without writing anything: its weight S; its summands with the "
        "factor f and the exponent f/S that each one's probabilities have in the result (null where that depends on "
        "the text); warnings; how many rows of a batch it takes; whether it follows the settings; and, for a plain mix "
        "of weights, the settings that it stands for. Of a wrong formula, the error with its line and column, from 1.",
        formula=f"Such as `1.5*sliders - 0.5*base`; at most {LONGEST:,} characters. `describe` lists all names.",
    )


def _scores(desk: Desk) -> Callable[..., dict[str, float]]:
    def scores(text: str) -> dict[str, float]:
        try:
            return desk.scores(read_text("The text", text, MOST_LETTERS))
        except MixerError as error:
            raise _refusal(error) from error

    return _documented(
        scores,
        "Measures a text: for every attribute that has a judge, a score from 0 (the pole at -1) to 1 (the pole at 1).",
        text=f"In English, at most {MOST_LETTERS:,} characters.",
    )


def _documented(function: Callable[..., Any], about: str, **arguments: str) -> Callable[..., Any]:
    """The function with the docstring that clients read; of an argument they read one line, however long."""
    lines = [f"    {name}: {text}" for name, text in arguments.items()]
    function.__doc__ = "\n".join([about, *(["", "Args:", *lines] if lines else [])])
    return function


def _attributes(desk: Desk) -> str:
    poles = [f"{name} ({' | '.join(one.labels)})" for name, one in desk.attributes.items()]
    return ", ".join(poles) or "none"


def _refusal(error: MixerError) -> gr.Error:
    return gr.Error(str(error), print_exception=False)
