"""A request for a text: as a value, and as one table of its fields.

Python, the command line, mix files, links, CSV files, the API and the page all take names, defaults, bounds and
descriptions from this table. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from mixer.values.chat import MOST_MESSAGES, Conversation, Prompt
from mixer.values.field import Field
from mixer.values.mix import POSITION_LIMIT, Mix
from mixer.values.sampling import BOUNDS, MOST_BIAS, SamplingParams
from mixer.values.steering import BUDGET, MOST_NATS, REST, Steering


@dataclass(frozen=True)
class Request:
    """One text to write in a batch."""

    prompt: Prompt
    mix: Mix = field(default_factory=Mix)
    params: SamplingParams = field(default_factory=SamplingParams)
    formula: str | None = None
    steering: Steering = REST


_TABLE = (
    Field(
        "prompt",
        str,
        "The prompt",
        "How the text begins.",
        default="",
        opening="The last train of the evening was",
        link="p",
        column="prompt",
    ),
    Field(
        "reply",
        bool,
        "Whether to reply",
        "Reply to the prompt as to a message, through the model's chat template, instead of going on from it.",
        default=False,
        argument="chat",
        flag="--chat",
        link="reply",
        column="reply",
    ),
    Field(
        "system",
        str,
        "The system message",
        "What the model is told before the prompt where it replies, such as `You are a poet.`",
        default="",
        flag="--system",
        link="system",
        column="system",
    ),
    Field(
        "messages",
        Conversation,
        "The messages",
        "A conversation to reply to, in place of a prompt: {low} to {high} messages, each with a `role` (system, user "
        "or assistant) and its `content`. A system message is the first, `system` goes behind it, and the last message "
        "is the user's.",
        low=1,
        high=MOST_MESSAGES,
        flag="--messages",
        column="messages",
    ),
    Field(
        "positions",
        dict,
        "The position",
        "Attribute -> position from {low} to {high}: -1 and 1 are the poles, beyond is extrapolation; 0, and what "
        "is left out, is the base model.",
        low=-POSITION_LIMIT,
        high=POSITION_LIMIT,
        served=1.5,
        argument="settings",
        flag="--set",
        link="s.",
    ),
    Field(
        "rewards",
        dict,
        "The reward",
        "Reward head -> position from {low} to {high}: 0 is at rest, 1 pushes every token toward the attribute, "
        "-1 away from it.",
        low=-POSITION_LIMIT,
        high=POSITION_LIMIT,
        flag="--reward",
        link="r.",
        column="reward.",
    ),
    Field(
        "levels",
        dict,
        "The level",
        "Reward head -> level from {low} to {high} to aim for, by the head's own reading of the text; a head with "
        "a position cannot have a level too.",
        high=1.0,
        flag="--aim",
        link="aim.",
        column="aim.",
    ),
    Field(
        "budget",
        float,
        "The budget",
        "Most nats of divergence at every token, {low} to {high}, that rewards, and judges and rewards of the "
        f"formula, spend together. Left out, {BUDGET:g} where anything steers, and no limit where nothing does.",
        default=BUDGET,
        high=MOST_NATS,
        flag="--budget",
        link="budget",
    ),
    Field(
        "whole",
        bool,
        "Whether the budget counts the sliders",
        "Whether the budget counts the settings and the formula too.",
        default=False,
        flag="--whole",
        link="whole",
    ),
    Field(
        "decouple",
        bool,
        "Whether the sliders are decoupled",
        "Whether the settings are levels of the measured scores instead, where -1 and 1 are what a pole alone "
        "reaches: positions are then found that move these scores and hold the others where the base model has "
        "them.",
        default=False,
        link="decouple",
    ),
    Field(
        "formula",
        str,
        "The formula",
        "What to write by, such as `base - 0.96*union(base, [rude])`, where `sliders` is the model that the "
        "settings make. Left out, that model itself writes.",
        opening="sliders",
        flag="--formula",
        link="f",
        column="formula",
    ),
    Field(
        "mode",
        str,
        "The mode",
        "What a slider does to a running text.",
        default="keep",
        argument="on_mix_change",
        link="mode",
        choices=("keep", "refill", "restart"),
    ),
    Field(
        "temperature",
        float,
        "The temperature",
        "{low} (always the likeliest token) to {high}.",
        SamplingParams.temperature,
        *BOUNDS["temperature"],
        served=2.0,
        flag="--temperature",
        link="t",
        column="temperature",
    ),
    Field(
        "tokens",
        int,
        "The number of tokens",
        "Most tokens of the text, {low} to {high}.",
        SamplingParams.max_new_tokens,
        *BOUNDS["max_new_tokens"],
        served=1000,
        opening=160,
        argument="max_new_tokens",
        flag="--max-new-tokens",
        link="n",
        column="tokens",
    ),
    Field(
        "fewest_tokens",
        int,
        "min_new_tokens",
        "The text does not end before so many tokens, {low} to max_new_tokens.",
        SamplingParams.min_new_tokens,
        *BOUNDS["min_new_tokens"],
        served=1000,
        argument="min_new_tokens",
        flag="--min-new-tokens",
        column="min_new_tokens",
    ),
    Field(
        "top_p",
        float,
        "top_p",
        "Draw from the smallest set of tokens with at least this probability, {low} to {high}.",
        SamplingParams.top_p,
        *BOUNDS["top_p"],
        flag="--top-p",
        column="top_p",
    ),
    Field(
        "top_k",
        int,
        "top_k",
        "Draw from so many of the likeliest tokens, {low} to {high}; 0 for all.",
        SamplingParams.top_k,
        *BOUNDS["top_k"],
        flag="--top-k",
        column="top_k",
    ),
    Field(
        "min_p",
        float,
        "min_p",
        "Draw from tokens at least this fraction as likely as the likeliest, {low} to {high}.",
        SamplingParams.min_p,
        *BOUNDS["min_p"],
        flag="--min-p",
        column="min_p",
    ),
    Field(
        "stop",
        tuple,
        "stop",
        "Texts that end the writing and are not part of it.",
        SamplingParams.stop,
        flag="--stop",
        column="stop",
    ),
    Field(
        "seed",
        int,
        "The seed",
        "Whole number from 0; equal seeds give equal texts. Left out or {low}, a fresh one is drawn.",
        SamplingParams.seed,
        *BOUNDS["seed"],
        served=2**53,  # browsers and spreadsheets round larger numbers
        opening=7,
        flag="--seed",
        link="seed",
        column="seed",
    ),
    Field(
        "bias",
        dict,
        "The bias",
        "Word or token id -> number from {low} (never) to {high} (always) that is added to its logit, before and "
        "after a space; digits alone are a token id.",
        SamplingParams.logit_bias,
        low=-MOST_BIAS,
        high=MOST_BIAS,
        argument="logit_bias",
        flag="--logit-bias",
        column="bias.",
    ),
    Field(
        "repetition_penalty",
        float,
        "The repetition penalty",
        "Divides positive and multiplies negative logits of tokens that prompt or text have, {low} to {high}; 1 for "
        "none.",
        SamplingParams.repetition_penalty,
        *BOUNDS["repetition_penalty"],
        flag="--repetition-penalty",
        link="rp",
        column="repetition_penalty",
    ),
    Field(
        "presence_penalty",
        float,
        "The presence penalty",
        "Taken off the logits of tokens that the text has, {low} to {high}.",
        SamplingParams.presence_penalty,
        *BOUNDS["presence_penalty"],
        flag="--presence-penalty",
        link="pp",
        column="presence_penalty",
    ),
    Field(
        "frequency_penalty",
        float,
        "The frequency penalty",
        "Taken off a token's logit once for each time that the text has it, {low} to {high}.",
        SamplingParams.frequency_penalty,
        *BOUNDS["frequency_penalty"],
        flag="--frequency-penalty",
        link="fp",
        column="frequency_penalty",
    ),
    Field(
        "dry_multiplier",
        float,
        "The DRY multiplier",
        "Strength of DRY, which takes multiplier * base ** (n - allowed length) off the logit of a token that would "
        "extend a repetition of n tokens, {low} (none) to {high}.",
        SamplingParams.dry_multiplier,
        *BOUNDS["dry_multiplier"],
        flag="--dry-multiplier",
        link="dry",
        column="dry_multiplier",
    ),
    Field(
        "dry_base",
        float,
        "The DRY base",
        "How fast DRY grows with the length of a repetition, {low} to {high}.",
        SamplingParams.dry_base,
        *BOUNDS["dry_base"],
        flag="--dry-base",
        column="dry_base",
    ),
    Field(
        "dry_allowed_length",
        int,
        "The DRY allowed length",
        "Repetitions of fewer tokens are free of DRY, {low} to {high}.",
        SamplingParams.dry_allowed_length,
        *BOUNDS["dry_allowed_length"],
        flag="--dry-allowed-length",
        column="dry_allowed_length",
    ),
    Field(
        "dry_sequence_breakers",
        tuple,
        "dry_sequence_breakers",
        "Texts that no repetition goes across, for DRY.",
        SamplingParams.dry_sequence_breakers,
        flag="--dry-sequence-breaker",
        column="dry_sequence_breakers",
    ),
    Field(
        "rate",
        float,
        "The speed",
        "Most tokens a second, {low} to {high}; 0 for all that the machine can.",
        default=0.0,
        high=1000.0,
        opening=30,  # faster than reading, slow enough to steer by hand
        link="rate",
    ),
    Field(
        "fresh",
        bool,
        "Whether to draw a new seed",
        "Draw a new seed for every text.",
        default=False,
        link="fresh",
    ),
)
FIELDS: Mapping[str, Field] = MappingProxyType({one.name: one for one in _TABLE})
# The fields that are arguments of `SamplingParams`, in the order of the table.
SAMPLING = tuple(one.name for one in _TABLE if one.argument in {own.name for own in fields(SamplingParams)})


def read_sampling(given: Mapping[str, Any], served: bool = False) -> SamplingParams:
    """Sampling parameters from values of the fields `SAMPLING`, by their arguments' names, checked by the table.

    Raises:
        InvalidValue: a value is not of its type or out of range; with `served`, out of a server's range.
    """
    checked = dict(given)
    for one in map(FIELDS.__getitem__, SAMPLING):
        value = given.get(one.argument)
        if value is not None and one.kind is not dict:  # `SamplingParams` itself checks a bias
            checked[one.argument] = one.check(value, served)
    return SamplingParams(**checked)
