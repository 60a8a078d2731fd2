"""Coupling: what each slider does to every judge's score, and a calibration fitted to these measurements.

Held-out prompts are split into three sets. On the first set, the calibration is fitted to sliders moved alone and to
random mixes. On the second, it predicts the scores of other random mixes. On the third, texts are generated with
plain and with calibrated sliders. All mixes continue the same prompts of a set with the same seeds. Standard errors are
by bootstrap over prompts. This module knows nothing of how texts or judges are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mixer.adapters.anchor_set import anchors_fingerprint
from mixer.adapters.calibration import SliderCalibration, fit
from mixer.adapters.calibration_file import PARTS, write_calibration
from mixer.adapters.fingerprint import base_fingerprint
from mixer.errors import InvalidValue
from mixer.measure.control import LogLikelihoods, held_out_prompts
from mixer.measure.leak import (
    MEAN_ABS_NORMAL,
    RESAMPLES,
    SUMMARY_FIGURES,
    WAYS,
    LevelAsked,
    MixWriter,
    WaySummary,
    measure_leak,
)
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.desk import Desk

SINGLE_POSITIONS = (-1.5, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 1.5)  # of one slider, while the others rest
CHECKED_LEVELS = (-1.0, -0.5, 0.5, 1.0)  # the levels that are asked for on the third set of prompts


@dataclass(frozen=True)
class SingleSliderScores:
    """Every attribute's mean score, with its standard error, while one slider is moved and the others rest."""

    attribute: str
    position: float
    scores: dict[str, float]
    errors: dict[str, float]


@dataclass(frozen=True)
class PredictionQuality:
    """How well the calibration predicts scores of random mixes on the second set of prompts.

    Attributes:
        explained: by attribute, the share of the variance that it explains (R²).
        error: mean absolute error.
        noise: the mean absolute error that a perfect prediction would have, because the scores are noisy.
    """

    explained: dict[str, float]
    error: float
    noise: float


@dataclass(frozen=True)
class CouplingReport:
    """A calibration and the measurements behind it.

    Attributes:
        errors: standard errors of the calibration's numbers, by part.
        how: the settings of the measurement.
        moved: scores of sliders moved alone.
        forecast: how well the calibration predicts other mixes.
        asks: every level of every attribute, asked for in both ways.
        wholes: each way, averaged over all levels.
    """

    calibration: SliderCalibration
    errors: dict[str, list[Any]]
    how: dict[str, Any]
    moved: tuple[SingleSliderScores, ...]
    forecast: PredictionQuality
    asks: tuple[LevelAsked, ...]
    wholes: tuple[WaySummary, ...]

    def record(self) -> dict[str, Any]:
        """The measurements as a JSON object, without the calibration."""
        rest = {key: value for key, value in asdict(self).items() if key not in ("calibration", "errors")}
        return {"errors": self.errors, **rest}

    def save(self, desk: Desk, folder: Path) -> Path:
        """Write it beside the anchors that it was measured with; returns the path."""
        fingerprint = anchors_fingerprint(base_fingerprint(desk.base_model), desk.anchor_set.adapters)
        return write_calibration(self.calibration, folder, fingerprint, self.record())

    def table(self) -> str:
        """Changes asked for and measured, and the summaries, as two markdown tables."""
        lines = ["| attribute | asked | plain: own | leak | decoupled: own | leak |", "|---|---|---|---|---|---|"]
        for plain, decoupled in zip(*([a for a in self.asks if a.way == way] for way in WAYS), strict=True):
            pair = (plain, decoupled)
            cells = [f"{a.own:+.2f} ± {a.own_error:.2f} | {a.leak:.3f} ± {a.leak_error:.3f}" for a in pair]
            lines.append(f"| {plain.attribute} {plain.level:+g} | {plain.wanted:+.2f} | {cells[0]} | {cells[1]} |")
        lines += ["", "| over all | own | miss | leak | leak / own | perplexity |", "|---|---|---|---|---|---|"]
        for summary in self.wholes:
            figures = [(getattr(summary, name), getattr(summary, f"{name}_error")) for name in SUMMARY_FIGURES]
            cells = [f"{value:.3f} ± {error:.3f}" for value, error in figures]
            perplexity = "–" if summary.perplexity is None else summary.perplexity
            lines.append(f"| {summary.way} | {' | '.join(cells)} | {perplexity} |")
        forecast, values = self.forecast, list(self.forecast.explained.values())
        lines += [
            "",
            f"Leak by chance alone: {self.wholes[0].floor:.3f}. Other mixes predicted: R² {np.mean(values):.2f}",
        ]
        lines[-1] += (
            f" (least {min(values):.2f}), mean error {forecast.error:.3f}, of which chance {forecast.noise:.3f}."
        )
        return "\n".join(lines)


def coupling(
    desk: Desk,
    prompts: Sequence[str] | None = None,
    *,
    each: tuple[int, int, int] = (48, 48, 96),
    mixes: tuple[int, int] = (64, 32),
    alone: Sequence[float] = SINGLE_POSITIONS,
    levels: Sequence[float] = CHECKED_LEVELS,
    tokens: int = 60,
    seed: int = 7,
    temperature: float = 0.8,
    top_p: float = 0.95,
    loglikelihoods: LogLikelihoods | None = None,
) -> CouplingReport:
    """Measure the sliders, fit a calibration, and check it on other prompts.

    Args:
        prompts: `held_out_prompts` if None. Prompts beyond the sum of `each` are not used.
        each: number of prompts to fit on, to predict on, and to measure leak on; at least two each.
        mixes: number of random mixes to fit on, and to predict.
        alone: positions at which each slider is moved alone.
        levels: see `mixer.measure.leak.measure_leak`.
        seed: of the random mixes; prompt i is continued with seed `seed + i`.
        loglikelihoods: `base_loglikelihoods(base)` for perplexities.

    Raises:
        InvalidValue: there are too few prompts, or fewer than two attributes that have a judge.
    """
    prompts = tuple(held_out_prompts(count=sum(each)) if prompts is None else prompts)
    names = tuple(name for name in desk.attributes if name in desk.scores("A text."))
    if len(prompts) < sum(each) or min(each) < 2 or len(names) < 2:
        raise InvalidValue("There is nothing to measure.", "Give prompts for all parts, and two judged attributes.")
    rng, limit = np.random.default_rng(seed), max(map(abs, alone))
    fitting, predicting, checking = np.split(np.arange(sum(each)), np.cumsum(each)[:-1])
    params = SamplingParams(max_new_tokens=tokens, temperature=temperature, top_p=top_p, seed=seed)
    write = MixWriter(desk, names, prompts, params)

    single = np.array([position * axis for axis in np.eye(len(names)) for position in alone])
    positions = np.concatenate([np.zeros((1, len(names))), single, _random_mixes(rng, mixes[0], len(names))])
    scores, _ = write(positions, fitting, "fitting")
    calibration = fit(names, positions, scores.mean(1), limit)
    resampled = [fit(names, positions, scores[:, _resample(rng, each[0])].mean(1), limit) for _ in range(RESAMPLES)]

    other_positions = _random_mixes(rng, mixes[1], len(names))
    other_scores, _ = write(other_positions, predicting, "predicting")
    levels_asked, summaries = measure_leak(write, calibration, checking, levels, rng, loglikelihoods)
    moved = zip(single, scores[1 : 1 + len(single)], strict=True)
    return CouplingReport(
        calibration,
        {part: np.std([getattr(one, part) for one in resampled], 0).round(3).tolist() for part in PARTS},
        {
            "prompts": list(each),
            "mixes": list(mixes),
            "tokens": tokens,
            "seed": seed,
            "temperature": temperature,
            "top_p": top_p,
        },
        tuple(_single_slider_scores(names, mix, mix_scores) for mix, mix_scores in moved),
        _prediction_quality(names, calibration.scores(other_positions), other_scores),
        levels_asked,
        summaries,
    )


def _random_mixes(rng: np.random.Generator, count: int, sliders: int) -> np.ndarray:
    """Positions of random mixes, `(count, sliders)`, in [-1, 1]; two sliders or more are off rest in each mix."""
    positions = rng.uniform(-1, 1, (count, sliders)).round(2)
    ranks = rng.permuted(np.tile(np.arange(sliders), (count, 1)), axis=1)
    return np.where(ranks < rng.integers(2, sliders + 1, (count, 1)), positions, 0.0)


def _resample(rng: np.random.Generator, count: int) -> np.ndarray:
    """Numbers of prompts drawn with replacement, `(count,)`."""
    return rng.integers(0, count, count)


def _single_slider_scores(names: Sequence[str], positions: np.ndarray, scores: np.ndarray) -> SingleSliderScores:
    """From positions `(A,)`, of which one is off rest, and scores `(n, A)` of n texts."""
    moved = int(np.flatnonzero(positions)[0])
    errors = scores.std(0, ddof=1) / len(scores) ** 0.5
    position = float(positions[moved])
    return SingleSliderScores(names[moved], position, _by_name(names, scores.mean(0)), _by_name(names, errors))


def _by_name(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return dict(zip(names, values.round(4).tolist(), strict=True))


def _prediction_quality(names: Sequence[str], predicted: np.ndarray, scores: np.ndarray) -> PredictionQuality:
    """From predicted scores `(M, A)` of M mixes and measured scores `(M, n, A)` of their texts."""
    means, noise = scores.mean(1), scores.std(1, ddof=1) / scores.shape[1] ** 0.5
    errors = predicted - means
    spread = ((means - means.mean(0)) ** 2).sum(0)
    # Where all mixes score the same there is no variance to explain.
    explained = np.where(spread > 0, 1 - (errors**2).sum(0) / np.where(spread > 0, spread, 1), 0.0)
    expected = float(noise.mean() * MEAN_ABS_NORMAL)
    return PredictionQuality(_by_name(names, explained), round(float(np.abs(errors).mean()), 4), round(expected, 4))
