"""What formulas do: the same prompts and seeds with a formula and without it, by judges' scores and likelihood.

Each shipped preset of a technique that changes what is written is set against its slider positions alone. Texts are
scored without their prompts. A judge that is part of a formula also scores its texts, and likes them for that reason.
Knows nothing of how formulas are computed.
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

PROMPT = "prompt"
# Which scores each technique should raise. `prompt` is no judge's: how much likelier the base finds the text after its
# own prompt than after another one, in nats a token.
MEANT: Mapping[str, tuple[str, ...]] = {
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
BESIDE: Mapping[str, str] = {"Persona": "[formal]"}  # what a technique adds to, where that is not the sliders


@dataclass(frozen=True)
class Texts:
    """What was written in one way: figures over all prompts."""

    perplexity: float | None  # under the base, after the prompt
    distinct: float  # distinct words among all words, averaged over texts
    tokens_per_second: float


@dataclass(frozen=True)
class Effect:
    """One score without a formula and with it, and the mean difference text by text with its standard error."""

    score: str
    without: float
    under: float
    difference: float
    error: float

    @property
    def works(self) -> bool:
        """Whether it rises by more than two standard errors."""
        return self.difference > 2 * self.error


@dataclass(frozen=True)
class Trial:
    """One preset beside the sliders alone, or beside another formula."""

    name: str
    formula: str
    beside: str | None
    settings: Mapping[str, float]
    effects: tuple[Effect, ...]
    without: Texts
    under: Texts


@dataclass(frozen=True)
class FormulaReport:
    """All trials, and how they were made."""

    prompts: int
    tokens: int
    seed: int
    temperature: float
    top_p: float
    trials: tuple[Trial, ...]

    def table(self) -> str:
        """A markdown table, one score of a preset a row."""
        lines = [
            "| preset | score | without | with | difference | distinct words | perplexity | tokens/s |",
            "|---" * 8 + "|",
        ]
        for trial in self.trials:
            own = [
                _change(trial.without.distinct, trial.under.distinct, ".2f"),
                _change(trial.without.perplexity, trial.under.perplexity, ".0f"),
                _change(trial.without.tokens_per_second, trial.under.tokens_per_second, ",.0f"),
            ]
            for place, effect in enumerate(trial.effects):
                change = f"{effect.difference:+.2f} ± {effect.error:.2f}{'' if effect.works else ' (no)'}"
                cells = [trial.name, effect.score, f"{effect.without:.2f}", f"{effect.under:.2f}", change]
                lines.append(f"| {' | '.join([*cells, *own] if place == 0 else ['', *cells[1:], '', '', ''])} |")
        return "\n".join(lines)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def _change(before: float | None, after: float | None, style: str) -> str:
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
    """Measure what presets do.

    Args:
        presets: those shipped that `MEANT` names, if None.
        prompts: `held_out_prompts()` if None; presets' own prompts are not used.
        seed: prompt i is continued with seed `seed + i`, with the formula and without.
        loglikelihoods: `base_loglikelihoods(base)`; without it, there are no perplexities and no `prompt` scores.

    Raises:
        UnknownName: nobody said what a preset is meant to change. InvalidValue: there are less than two prompts.
        FormulaError: the desk cannot run a formula.
    """
    prompts = tuple(held_out_prompts() if prompts is None else prompts)
    if len(prompts) < 2:
        raise InvalidValue("One prompt shows no difference.", "Give two or more.")
    presets = [preset for preset in load_presets() if preset.name in MEANT] if presets is None else presets
    for preset in presets:
        if preset.name not in MEANT:
            raise UnknownName("preset with a score to measure it by", preset.name, MEANT)
    params = [SamplingParams(tokens, temperature=temperature, top_p=top_p, seed=seed + i) for i in range(len(prompts))]
    desk.warm_up()
    plain: dict[tuple[Mix, str | None], tuple[list[str], float]] = {}
    trials = []
    for preset in tqdm(presets, unit="preset", file=sys.stderr):
        mix, beside = desk.mix(preset.settings), BESIDE.get(preset.name)
        if (mix, beside) not in plain:
            plain[mix, beside] = _write(desk, prompts, mix, params, beside)
        ways = [plain[mix, beside], _write(desk, prompts, mix, params, preset.formula)]
        effects = []
        for name in MEANT[preset.name]:
            if name != PROMPT or loglikelihoods:
                scores = [_scores(desk, name, prompts, texts, loglikelihoods) for texts, _ in ways]
                effects.append(_effect(name, *scores))
        without, under = (_texts(prompts, texts, speed, loglikelihoods) for texts, speed in ways)
        settings = dict(preset.settings)
        trials.append(Trial(preset.name, preset.formula, beside, settings, tuple(effects), without, under))
    return FormulaReport(len(prompts), tokens, seed, temperature, top_p, tuple(trials))


def _write(
    desk: Desk, prompts: Sequence[str], mix: Mix, params: Sequence[SamplingParams], formula: str | None
) -> tuple[list[str], float]:
    """One text a prompt, and tokens a second in all."""
    from mixer.values.request import Request

    start = time.perf_counter()
    requests = [Request(prompt, mix, own, formula) for prompt, own in zip(prompts, params, strict=True)]
    outputs = desk.generate_batch(requests)
    seconds = time.perf_counter() - start
    return [output.text for output in outputs], sum(len(output.token_ids) for output in outputs) / seconds


def _scores(
    desk: Desk, name: str, prompts: Sequence[str], texts: Sequence[str], loglikelihoods: LogLikelihoods | None
) -> np.ndarray:
    """`(N,)`; not a number for an empty text that no likelihood can be given."""
    if name != PROMPT:
        return np.array([desk.scores(text)[name] for text in texts])
    assert loglikelihoods is not None
    others = [*prompts[1:], prompts[0]]
    found = np.full(len(texts), np.nan)
    kept = [i for i, text in enumerate(texts) if text.strip()]
    own, other = (loglikelihoods([p[i] for i in kept], [texts[i] for i in kept]) for p in (prompts, others))
    found[kept] = own - other
    return found


def _effect(name: str, without: np.ndarray, under: np.ndarray) -> Effect:
    both = ~np.isnan(without) & ~np.isnan(under)
    change = (under - without)[both]
    error = change.std(ddof=1) / len(change) ** 0.5 if len(change) > 1 else 0.0
    figures = (without[both].mean(), under[both].mean(), change.mean(), error)
    return Effect(name, *(round(float(figure), 4) for figure in figures))


def _texts(prompts: Sequence[str], texts: Sequence[str], speed: float, loglikelihoods: LogLikelihoods | None) -> Texts:
    perplexity = None
    written = [(prompt, text) for prompt, text in zip(prompts, texts, strict=True) if text.strip()]
    if loglikelihoods and written:
        means = loglikelihoods([prompt for prompt, _ in written], [text for _, text in written])
        perplexity = round(float(np.exp(-np.mean(means))), 2)
    shares = [len(set(words)) / len(words) for words in (text.lower().split() for text in texts) if words]
    return Texts(perplexity, round(float(np.mean(shares or [1.0])), 4), round(speed, 1))
