"""What each slider does to every judge, a calibration fitted to it, and whether that holds for other prompts.

Three sets of held-out prompts: on one the calibration is fitted to sliders moved alone and to random mixes; on the
second it predicts other random mixes; on the third texts are written with plain and with calibrated sliders. All mixes
continue the same prompts of a set with the same seeds. Errors are over prompts drawn anew (bootstrap). Knows nothing of
how texts or judges are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mixer.adapters.calibration import SliderCalibration, fit
from mixer.adapters.calibration_file import PARTS
from mixer.errors import InvalidValue
from mixer.measure.control import LogLikelihoods, held_out_prompts
from mixer.measure.leak import DRAWS, NOISE, OVER, WAYS, LevelAsked, MixWriter, WaySummary, check
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.desk import Desk

ALONE = (-1.5, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 1.5)  # positions of one slider, the others at rest
LEVELS = (-1.0, -0.5, 0.5, 1.0)  # that are asked for to check


@dataclass(frozen=True)
class Moved:
    """One slider alone at one position: every attribute's mean score, and its standard error."""

    attribute: str
    position: float
    scores: dict[str, float]
    errors: dict[str, float]


@dataclass(frozen=True)
class Forecast:
    """Scores of random mixes on other prompts against what the calibration predicts: by attribute the share of their
    variance that it explains, the mean size of its errors, and how large they would be if it were true."""

    explained: dict[str, float]
    error: float
    noise: float


@dataclass(frozen=True)
class CouplingReport:
    """A calibration, and all that was measured for it."""

    calibration: SliderCalibration
    errors: dict[str, list[Any]]
    how: dict[str, Any]
    moved: tuple[Moved, ...]
    forecast: Forecast
    asks: tuple[LevelAsked, ...]
    wholes: tuple[WaySummary, ...]

    def record(self) -> dict[str, Any]:
        """What is measured, as JSON has it."""
        rest = {key: value for key, value in asdict(self).items() if key not in ("calibration", "errors")}
        return {"errors": self.errors, **rest}

    def table(self) -> str:
        """What was asked and what came, as two markdown tables."""
        lines = ["| attribute | asked | plain: own | leak | decoupled: own | leak |", "|---|---|---|---|---|---|"]
        for plain, calm in zip(*([a for a in self.asks if a.way == way] for way in WAYS), strict=True):
            cells = [f"{a.own:+.2f} ± {a.own_error:.2f} | {a.leak:.3f} ± {a.leak_error:.3f}" for a in (plain, calm)]
            lines.append(f"| {plain.attribute} {plain.level:+g} | {plain.wanted:+.2f} | {cells[0]} | {cells[1]} |")
        lines += ["", "| over all | own | miss | leak | leak / own | perplexity |", "|---|---|---|---|---|---|"]
        for one in self.wholes:
            pairs = [(getattr(one, part), getattr(one, f"{part}_error")) for part in OVER]
            cells = [f"{value:.3f} ± {error:.3f}" for value, error in pairs]
            lines.append(f"| {one.way} | {' | '.join(cells)} | {'–' if one.perplexity is None else one.perplexity} |")
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
    alone: Sequence[float] = ALONE,
    levels: Sequence[float] = LEVELS,
    tokens: int = 60,
    seed: int = 7,
    temperature: float = 0.8,
    top_p: float = 0.95,
    loglikelihoods: LogLikelihoods | None = None,
) -> CouplingReport:
    """Measure, fit and check.

    Args:
        prompts: `held_out_prompts` if None; those beyond the sum of `each` are left.
        each: prompts to fit on, to predict on, to check on.
        mixes: random mixes to fit on, and to predict.
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
    spots = np.concatenate([np.zeros((1, len(names))), single, _random(rng, mixes[0], len(names))])
    seen, _ = write(spots, fitting, "fitting")
    calibration = fit(names, spots, seen.mean(1), limit)
    draws = [fit(names, spots, seen[:, _drawn(rng, each[0])].mean(1), limit) for _ in range(DRAWS)]

    others = _random(rng, mixes[1], len(names))
    found, _ = write(others, predicting, "predicting")
    asks, wholes = check(write, calibration, checking, levels, rng, loglikelihoods)
    moved = zip(spots[1 : 1 + len(single)], seen[1 : 1 + len(single)], strict=True)
    return CouplingReport(
        calibration,
        {part: np.std([getattr(d, part) for d in draws], 0).round(3).tolist() for part in PARTS},
        {
            "prompts": list(each),
            "mixes": list(mixes),
            "tokens": tokens,
            "seed": seed,
            "temperature": temperature,
            "top_p": top_p,
        },
        tuple(_moved(names, spot, scores) for spot, scores in moved),
        _forecast(names, calibration.scores(others), found),
        asks,
        wholes,
    )


def _random(rng: np.random.Generator, many: int, sliders: int) -> np.ndarray:
    """Mixes of two sliders or more, `(many, sliders)`, each within its poles."""
    spots = rng.uniform(-1, 1, (many, sliders)).round(2)
    ranks = rng.permuted(np.tile(np.arange(sliders), (many, 1)), axis=1)
    return np.where(ranks < rng.integers(2, sliders + 1, (many, 1)), spots, 0.0)


def _drawn(rng: np.random.Generator, many: int) -> np.ndarray:
    return rng.integers(0, many, many)


def _moved(names: Sequence[str], spot: np.ndarray, scores: np.ndarray) -> Moved:
    at = int(np.flatnonzero(spot)[0])
    errors = scores.std(0, ddof=1) / len(scores) ** 0.5
    return Moved(names[at], float(spot[at]), _named(names, scores.mean(0)), _named(names, errors))


def _named(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return dict(zip(names, values.round(4).tolist(), strict=True))


def _forecast(names: Sequence[str], predicted: np.ndarray, found: np.ndarray) -> Forecast:
    means, noise = found.mean(1), found.std(1, ddof=1) / found.shape[1] ** 0.5
    wrong = predicted - means
    explained = 1 - (wrong**2).sum(0) / ((means - means.mean(0)) ** 2).sum(0)
    chance = float(noise.mean() * NOISE)
    return Forecast(_named(names, explained), round(float(np.abs(wrong).mean()), 4), round(chance, 4))
