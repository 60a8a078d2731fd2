"""The effect of formulas: the same prompts and seeds with and without a formula, by judges' scores and likelihood.

Each shipped preset that is meant to change the text is compared with its slider positions alone. Texts are scored
without their prompts. If a judge is part of a formula, its score of that formula's texts is biased upward. This module
knows nothing of how formulas are computed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mixer.errors import InvalidValue, UnknownName
from mixer.files.presets import Preset, load_presets
from mixer.measure.control import LogLikelihoods, held_out_prompts
from mixer.values.mix import Mix
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.desk import Desk

# Not a judge's score: the text's log-likelihood under the base after its own prompt, less that after another prompt, in
# nats per token.
PROMPT = "prompt"
# The scores that each technique should raise.
RAISED_SCORES: Mapping[str, tuple[str, ...]] = {
    "Classifier-free guidance": (PROMPT,),
    "PREADD": ("politeness",),
    "DExperts": ("sentiment",),
    "Reward model as a LM": ("politeness",),
    "FUDGE": ("politeness",),
    "Self-debias": ("politeness",),
    "Detox by union": ("politeness",),
    "Detox with a judge": ("politeness",),
    "Persona": ("formality", "humor"),
    "Contrastive decoding": ("poetry",),
}
COMPARED_WITH: Mapping[str, str] = {"Persona": "[formal]"}  # the formula to compare with, if not the sliders alone


@dataclass(frozen=True)
class TextFigures:
    """Figures over the texts of all prompts, with or without a formula.

    Attributes:
        perplexity: under the base, after the prompt.
        distinct: distinct words divided by all words, averaged over texts.
        tokens_per_second: of the whole batch.
    """

    perplexity: float | None
    distinct: float
    tokens_per_second: float


@dataclass(frozen=True)
class ScoreChange:
    """A mean score without a formula and with it (`under`).

    Attributes:
        difference: mean over prompts of the score with the formula less the score without.
        error: its standard error.
    """

    score: str
    without: float
    under: float
    difference: float
    error: float

    @property
    def works(self) -> bool:
        """Whether the score rises by more than two standard errors."""
        return self.difference > 2 * self.error


@dataclass(frozen=True)
class PresetComparison:
    """One preset compared with its slider positions alone, or with another formula.

    Attributes:
        beside: the other formula; None for the sliders alone.
        settings: the preset's slider positions by attribute.
        without: figures of the texts that the preset is compared with.
        under: figures of the preset's texts.
    """

    name: str
    formula: str
    beside: str | None
    settings: Mapping[str, float]
    effects: tuple[ScoreChange, ...]
    without: TextFigures
    under: TextFigures


@dataclass(frozen=True)
class FormulaReport:
    """All comparisons, and the settings of the measurement."""

    prompts: int
    tokens: int
    seed: int
    temperature: float
    top_p: float
    trials: tuple[PresetComparison, ...]

    def table(self) -> str:
        """A markdown table with a row for each score of each preset."""
        lines = [
            "| preset | score | without | with | difference | distinct words | perplexity | tokens/s |",
            "|---" * 8 + "|",
        ]
        for trial in self.trials:
            figures = [
                _before_after(trial.without.distinct, trial.under.distinct, ".2f"),
                _before_after(trial.without.perplexity, trial.under.perplexity, ".0f"),
                _before_after(trial.without.tokens_per_second, trial.under.tokens_per_second, ",.0f"),
            ]
            for place, effect in enumerate(trial.effects):
                change = f"{effect.difference:+.2f} ± {effect.error:.2f}{'' if effect.works else ' (no)'}"
                cells = [trial.name, effect.score, f"{effect.without:.2f}", f"{effect.under:.2f}", change]
                lines.append(f"| {' | '.join([*cells, *figures] if place == 0 else ['', *cells[1:], '', '', ''])} |")
        return "\n".join(lines)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def _before_after(before: float | None, after: float | None, style: str) -> str:
    return "" if before is None or after is None else f"{before:{style}} → {after:{style}}"


def formulas(
    desk: Desk,
    presets: Sequence[Preset] | None = None,
    prompts: Sequence[str] | None = None,
    tokens: int = 60,
    seed: int = 7,
    temperature: float = 0.8,
    top_p: float = 0.95,
    loglikelihoods: LogLikelihoods | None = None,
) -> FormulaReport:
    """Measure how presets change scores.

    Args:
        presets: the shipped presets that `RAISED_SCORES` names, if None.
        prompts: `held_out_prompts()` if None. The presets' own prompts are not used.
        seed: prompt i is continued with seed `seed + i`, with the formula and without.
        loglikelihoods: `base_loglikelihoods(base)`. If None, there are no perplexities and no `prompt` scores.

    Raises:
        UnknownName: `RAISED_SCORES` does not name a preset.
        InvalidValue: there are fewer than two prompts.
        FormulaError: the desk cannot run a formula.
    """
    prompts = tuple(held_out_prompts() if prompts is None else prompts)
    if len(prompts) < 2:
        raise InvalidValue("One prompt shows no difference.", "Give two or more.")
    presets = [preset for preset in load_presets() if preset.name in RAISED_SCORES] if presets is None else presets
    for preset in presets:
        if preset.name not in RAISED_SCORES:
            raise UnknownName("preset with a score to measure it by", preset.name, RAISED_SCORES)
    params = [SamplingParams(tokens, temperature=temperature, top_p=top_p, seed=seed + i) for i in range(len(prompts))]
    desk.warm_up()
    plain: dict[tuple[Mix, str | None], tuple[list[str], float]] = {}
    trials = []
    for preset in tqdm(presets, unit="preset", file=sys.stderr):
        mix, beside = desk.mix(preset.settings), COMPARED_WITH.get(preset.name)
        if (mix, beside) not in plain:
            plain[mix, beside] = _write(desk, prompts, mix, params, beside)
        ways = [plain[mix, beside], _write(desk, prompts, mix, params, preset.formula)]
        effects = []
        for name in RAISED_SCORES[preset.name]:
            if name != PROMPT or loglikelihoods:
                scores = [text_scores(desk, name, prompts, texts, loglikelihoods) for texts, _ in ways]
                effects.append(_score_change(name, *scores))
        without, under = (_text_figures(prompts, texts, speed, loglikelihoods) for texts, speed in ways)
        settings = dict(preset.settings)
        trials.append(PresetComparison(preset.name, preset.formula, beside, settings, tuple(effects), without, under))
    return FormulaReport(len(prompts), tokens, seed, temperature, top_p, tuple(trials))


def _write(
    desk: Desk, prompts: Sequence[str], mix: Mix, params: Sequence[SamplingParams], formula: str | None
) -> tuple[list[str], float]:
    """One text for each prompt, and tokens per second of the whole batch."""
    from mixer.values.request import Request

    start = time.perf_counter()
    requests = [Request(prompt, mix, own, formula) for prompt, own in zip(prompts, params, strict=True)]
    outputs = desk.generate_batch(requests)
    seconds = time.perf_counter() - start
    return [output.text for output in outputs], sum(len(output.token_ids) for output in outputs) / seconds


def text_scores(
    desk: Desk, name: str, prompts: Sequence[str], texts: Sequence[str], loglikelihoods: LogLikelihoods | None
) -> np.ndarray:
    """One score, `PROMPT` or a judge's name, of N texts, `(N,)`; NaN for `PROMPT` of an empty text."""
    if name != PROMPT:
        return np.array([desk.scores(text)[name] for text in texts])
    assert loglikelihoods is not None
    other_prompts = [*prompts[1:], prompts[0]]
    scores = np.full(len(texts), np.nan)
    kept = [i for i, text in enumerate(texts) if text.strip()]
    own, other = (loglikelihoods([p[i] for i in kept], [texts[i] for i in kept]) for p in (prompts, other_prompts))
    scores[kept] = own - other
    return scores


def _score_change(name: str, without: np.ndarray, under: np.ndarray) -> ScoreChange:
    both = ~np.isnan(without) & ~np.isnan(under)
    change = (under - without)[both]
    error = change.std(ddof=1) / len(change) ** 0.5 if len(change) > 1 else 0.0
    figures = (without[both].mean(), under[both].mean(), change.mean(), error)
    return ScoreChange(name, *(round(float(figure), 4) for figure in figures))


def _text_figures(
    prompts: Sequence[str], texts: Sequence[str], speed: float, loglikelihoods: LogLikelihoods | None
) -> TextFigures:
    perplexity = None
    written = [(prompt, text) for prompt, text in zip(prompts, texts, strict=True) if text.strip()]
    if loglikelihoods and written:
        means = loglikelihoods([prompt for prompt, _ in written], [text for _, text in written])
        perplexity = round(float(np.exp(-np.mean(means))), 2)
    shares = [len(set(words)) / len(words) for words in (text.lower().split() for text in texts) if words]
    return TextFigures(perplexity, round(float(np.mean(shares or [1.0])), 4), round(speed, 1))
