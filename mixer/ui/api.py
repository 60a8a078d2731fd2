"""What programs can ask of a desk: endpoints for `gradio_client`, for HTTP, and as tools for MCP clients.

MCP clients read docstrings and nothing else, so the docstrings name what this desk has, and the bounds of all numbers.
Any client can post anything: everything is checked here, and an error is a sentence. Knows no page and no browser
session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr

from mixer.errors import FormulaError, MixerError
from mixer.formula.lexer import LONGEST
from mixer.ui.controls.formula_box import names
from mixer.ui.state.controls import (
    DeckValue,
    options,
    read_box,
    read_positions,
    read_prompt,
    read_steering,
    read_text,
)
from mixer.ui.state.decouple import mix_of
from mixer.ui.state.formula_text import recipe
from mixer.ui.state.presets import presets
from mixer.values.chat import Prompt
from mixer.values.request import FIELDS
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.desk import Desk

MOST_LETTERS = 20_000  # of a text that judges read
# The fields that the endpoint `generate` takes; their order is that of its arguments.
GENERATE = (
    *("prompt", "positions", "tokens", "temperature", "seed", "formula"),
    *("rewards", "levels", "budget", "whole", "fewest_tokens", "decouple", "reply", "system"),
    *("top_p", "top_k", "min_p", "stop", "bias", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_sequence_breakers", "messages"),
)

# Prompt, sliders, sampling parameters and formula -> the text.
Write = Callable[[Prompt, DeckValue, SamplingParams, str | None], str]


def offer(desk: Desk, at_once: int, write: Write | None = None) -> None:
    """Adds the endpoints to the page that is being built.

    Args:
        at_once: how many texts are written side by side.
        write: writes a text in another process; without it the desk of this process does.
    """
    gr.api(generate(desk, write), api_name="generate", concurrency_limit=at_once)
    for function in (describe(desk), explain(desk), scores(desk)):
        gr.api(function, api_name=function.__name__, queue=False)


def _write(desk: Desk) -> Write:
    """Writes a text in this process."""

    def write(prompt: Prompt, value: DeckValue, params: SamplingParams, formula: str | None) -> str:
        return desk.generate(prompt, mix_of(desk, value), params, formula, value.steering).text

    return write


def generate(desk: Desk, write: Write | None = None) -> Callable[..., str]:
    """The endpoint `generate`; `write` as in `offer`."""
    write = write or _write(desk)

    def generate(
        prompt: str = FIELDS["prompt"].default,
        settings: dict[str, float] | None = None,
        max_new_tokens: int = FIELDS["tokens"].default,
        temperature: float = FIELDS["temperature"].default,
        seed: int | None = FIELDS["seed"].default,
        formula: str | None = None,
        rewards: dict[str, float] | None = None,
        levels: dict[str, float] | None = None,
        budget: float | None = None,
        whole: bool = FIELDS["whole"].default,
        min_new_tokens: int = FIELDS["fewest_tokens"].default,
        decouple: bool = FIELDS["decouple"].default,
        chat: bool = FIELDS["reply"].default,
        system: str = FIELDS["system"].default,
        top_p: float = FIELDS["top_p"].default,
        top_k: int = FIELDS["top_k"].default,
        min_p: float = FIELDS["min_p"].default,
        stop: list[str] | None = None,
        logit_bias: dict[str, float] | None = None,
        repetition_penalty: float = FIELDS["repetition_penalty"].default,
        presence_penalty: float = FIELDS["presence_penalty"].default,
        frequency_penalty: float = FIELDS["frequency_penalty"].default,
        dry_multiplier: float = FIELDS["dry_multiplier"].default,
        dry_base: float = FIELDS["dry_base"].default,
        dry_allowed_length: int = FIELDS["dry_allowed_length"].default,
        dry_sequence_breakers: list[str] | None = None,
        messages: list[dict[str, str]] | None = None,
    ) -> str:
        more = {
            "min_new_tokens": min_new_tokens,
            "top_p": top_p,
            "top_k": top_k,
            "min_p": min_p,
            "stop": stop,
            "logit_bias": logit_bias,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
            "dry_multiplier": dry_multiplier,
            "dry_base": dry_base,
            "dry_allowed_length": dry_allowed_length,
            "dry_sequence_breakers": dry_sequence_breakers,
        }
        try:
            asked_on = read_prompt(prompt, chat, system, messages)
            positions = read_positions({} if settings is None else settings, desk.attributes)
            chosen = None if formula is None else read_box({"text": formula}).text
            asked = {"rewards": rewards, "levels": levels, "budget": budget, "whole": whole}
            steering = read_steering({k: v for k, v in asked.items() if v is not None}, desk.rewards)
            params = options(max_new_tokens, temperature, seed, more)
            value = DeckValue(0, positions, steering, FIELDS["decouple"].check(decouple))
            return write(asked_on, value, params, chosen)
        except MixerError as error:
            raise _refusal(error) from error

    more = {
        "prompt": f"Prompt and text together have at most {desk.context:,} tokens.",
        "positions": f"Attributes, with what is at -1 and at 1: {_attributes(desk)}.",
        "formula": f"At most {LONGEST:,} characters. `explain` checks a formula and `describe` lists all names.",
        "rewards": f"Heads: {', '.join(desk.rewards) or 'none'}.",
    }
    return _documented(
        generate,
        f"Continues a prompt, or replies to messages, with {desk.name}, a small language model, under a mix of "
        "attributes, by a formula, or steered by rewards. Returns the new text without the prompt.",
        **{FIELDS[name].argument: f"{FIELDS[name].describe(True)} {more.get(name, '')}".strip() for name in GENERATE},
    )


def describe(desk: Desk) -> Callable[..., dict[str, Any]]:
    """The endpoint `describe`."""
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
                FIELDS[name].argument: list(FIELDS[name].bounds(served=True))
                for name in GENERATE
                if FIELDS[name].kind in (int, float, dict)
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


def explain(desk: Desk) -> Callable[..., dict[str, Any]]:
    """The endpoint `explain`."""

    def explain(formula: str) -> dict[str, Any]:
        try:
            plan = desk.formula(read_box({"text": formula}).text)
        except FormulaError as error:
            place = {"line": error.line, "column": error.column, "length": error.length}
            return {"error": {"message": error.message, "hint": error.hint, **place}}
        except MixerError as error:
            raise _refusal(error) from error
        summands = [{"text": one.text, "factor": one.factor, "exponent": one.exponent} for one in plan.report.summands]
        found = recipe(plan, desk.vocabulary)
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


def scores(desk: Desk) -> Callable[..., dict[str, float]]:
    """The endpoint `scores`."""

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
