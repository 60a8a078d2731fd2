"""Leak: how much the other scores move when one attribute is set to a level, by plain and by calibrated sliders.

Each level of each attribute is asked for once with the slider alone (`plain`) and once with the positions that the
calibration gives (`decoupled`). Changes of scores are against the base. All texts of one prompt have the same seed.
Standard errors are by bootstrap over prompts. This module knows nothing of how a calibration is fitted.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from mixer.adapters.calibration import SliderCalibration
from mixer.measure.control import LogLikelihoods
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.desk import Desk

WAYS = ("plain", "decoupled")
SUMMARY_FIGURES = ("reach", "miss", "leaks", "share")  # see `WaySummary`
RESAMPLES = 300  # of the bootstrap
MEAN_ABS_NORMAL = (2 / np.pi) ** 0.5  # mean absolute value of a standard normal variable


@dataclass(frozen=True)
class LevelAsked:
    """One level of one attribute, asked for in one way. All changes are mean changes of scores against the base.

    Attributes:
        way: `plain` or `decoupled`.
        wanted: the change of the attribute's own score that was asked for.
        own: the change that was measured, with its standard error.
        leak: mean absolute change of the other scores, with its standard error.
        perplexity: of the texts under the base; None if it was not measured.
    """

    attribute: str
    level: float
    way: str
    wanted: float
    own: float
    own_error: float
    leak: float
    leak_error: float
    perplexity: float | None


@dataclass(frozen=True)
class WaySummary:
    """One way, averaged over all levels of all attributes that were asked for.

    Attributes:
        reach: mean absolute change of the own score.
        miss: mean absolute difference between the own score's change and the change that was asked for.
        leaks: mean absolute change of all other scores.
        share: `leaks / reach`.
        floor: the leaks that noise alone would show.
        perplexity: geometric mean.
    """

    way: str
    reach: float
    reach_error: float
    miss: float
    miss_error: float
    leaks: float
    leaks_error: float
    share: float
    share_error: float
    floor: float
    perplexity: float | None


class MixWriter:
    """Continues prompts under mixes and scores the texts.

    Args:
        names: the A attributes that are scored.
        params: prompt i is continued with the seed `params.seed + i`.
    """

    def __init__(self, desk: Desk, names: tuple[str, ...], prompts: tuple[str, ...], params: SamplingParams) -> None:
        self._desk, self.names, self.prompts = desk, names, prompts
        seeds = range(params.seed or 0, (params.seed or 0) + len(prompts))
        self._params = [replace(params, seed=seed) for seed in seeds]

    def __call__(
        self, positions: np.ndarray, prompt_numbers: np.ndarray, title: str
    ) -> tuple[np.ndarray, list[list[str]]]:
        """Scores `(M, n, A)` and texts of M mixes on n prompts.

        Args:
            positions: of the sliders, `(M, A)`.
            prompt_numbers: `(n,)`.
            title: of the progress bar.
        """
        from mixer.values.request import Request

        scores, texts = [], []
        for row in tqdm(positions, title, unit="mix", file=sys.stderr):
            mix = self._desk.mix(dict(zip(self.names, map(float, row), strict=True)))
            requests = [Request(self.prompts[i], mix, self._params[i]) for i in prompt_numbers]
            outputs = self._desk.generate_batch(requests)
            judged = [self._desk.scores(output.text) for output in outputs]
            scores.append([[one[name] for name in self.names] for one in judged])
            texts.append([output.text for output in outputs])
        return np.array(scores), texts


def measure_leak(
    write: MixWriter,
    calibration: SliderCalibration,
    prompt_numbers: np.ndarray,
    levels: Sequence[float],
    rng: np.random.Generator,
    loglikelihoods: LogLikelihoods | None,
) -> tuple[tuple[LevelAsked, ...], tuple[WaySummary, ...]]:
    """Ask for every level of every attribute, in both ways.

    Args:
        prompt_numbers: the prompts of `write` to continue, `(n,)`.
        levels: level 1 asks for the score that the slider alone has at its positive pole, -1 at the negative one.
    """
    names = calibration.attributes
    asked = [(i, float(level)) for i in range(len(names)) for level in levels]  # Q pairs
    base, _ = write(np.zeros((1, len(names))), prompt_numbers, "the base")
    resamples = rng.integers(0, len(prompt_numbers), (RESAMPLES, len(prompt_numbers)))
    own = np.array([i for i, _ in asked])
    others = np.arange(len(names)) != own[:, None]  # (Q, A)
    wanted = [calibration.targets(level * np.eye(len(names))[i])[i] for i, level in asked]
    wanted = np.array(wanted) - calibration.scores(np.zeros(len(names)))[own]
    levels_asked, summaries = [], []
    for way in WAYS:
        settings = [{names[i]: level} for i, level in asked]
        if way == "decoupled":
            settings = [calibration.positions(setting) for setting in settings]
        positions = np.array([[setting.get(name, 0.0) for name in names] for setting in settings])
        scores, texts = write(positions, prompt_numbers, way)
        changes = scores - base  # (Q, n, A)
        figures = _figures(changes.mean(1), own, others, wanted)
        resampled = _stacked([_figures(changes[:, drawn].mean(1), own, others, wanted) for drawn in resamples])
        perplexities = [_perplexity(write, prompt_numbers, one, loglikelihoods) for one in texts]
        for q, (i, level) in enumerate(asked):
            levels_asked.append(
                LevelAsked(
                    names[i],
                    level,
                    way,
                    _rounded(wanted[q]),
                    _rounded(figures["own"][q]),
                    _rounded(resampled["own"][:, q].std()),
                    _rounded(figures["leak"][q]),
                    _rounded(resampled["leak"][:, q].std()),
                    perplexities[q],
                )
            )
        noise = changes.std(1, ddof=1) / changes.shape[1] ** 0.5
        known = [perplexity for perplexity in perplexities if perplexity is not None]
        summary = {name: _rounded(figures[name]) for name in SUMMARY_FIGURES}
        summary |= {f"{name}_error": _rounded(resampled[name].std()) for name in SUMMARY_FIGURES}
        floor = _rounded(noise[others].mean() * MEAN_ABS_NORMAL)
        perplexity = round(float(np.exp(np.log(known).mean())), 2) if known else None
        summaries.append(WaySummary(way, **summary, floor=floor, perplexity=perplexity))
    return tuple(levels_asked), tuple(summaries)


def _figures(changes: np.ndarray, own: np.ndarray, others: np.ndarray, wanted: np.ndarray) -> Mapping[str, Any]:
    """`own` and `leak` of every level asked for, `(Q,)`, and the summary figures, from mean changes `(Q, A)`."""
    own_changes = changes[np.arange(len(own)), own]
    leak = np.where(others, np.abs(changes), 0).sum(1) / others.sum(1)
    reach, miss = np.abs(own_changes).mean(), np.abs(own_changes - wanted).mean()
    share = leak.mean() / reach if reach else 0.0  # sliders that move nothing have no share
    summary = (reach, miss, leak.mean(), share)
    return {"own": own_changes, "leak": leak, **dict(zip(SUMMARY_FIGURES, summary, strict=True))}


def _stacked(figures: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Each figure of all resamples as one array."""
    return {name: np.array([one[name] for one in figures]) for name in figures[0]}


def _perplexity(
    write: MixWriter, prompt_numbers: np.ndarray, texts: Sequence[str], loglikelihoods: LogLikelihoods | None
) -> float | None:
    """Of all texts together; None without `loglikelihoods`, or if all texts are empty."""
    written = [(write.prompts[i], text) for i, text in zip(prompt_numbers, texts, strict=True) if text.strip()]
    if loglikelihoods is None or not written:
        return None
    return round(float(np.exp(-np.mean(loglikelihoods([p for p, _ in written], [t for _, t in written])))), 2)


def _rounded(value: float) -> float:
    return round(float(value), 4)
