"""What leaks: texts asked to be of one level of one attribute, by plain and by calibrated sliders, against the base.

Leak is what the scores of the other attributes change. All texts of a prompt have one seed, and errors are over prompts
drawn anew (bootstrap). Knows nothing of how a calibration is made.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
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
OVER = ("reach", "miss", "leaks", "share")  # figures over all that was asked
DRAWS = 300
NOISE = (2 / np.pi) ** 0.5  # mean size of a normal number, in standard deviations


@dataclass(frozen=True)
class LevelAsked:
    """One attribute asked to one level in one way; changes are against the base, in score.

    Attributes:
        wanted, own: change of its own score, asked and found. leak: mean size of the other scores' changes.
        perplexity: of the texts under the base.
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
    """One way over all that was asked.

    Attributes:
        reach: mean size of the own score's change; miss: of its distance from what was asked. leaks: of all others'
            changes, and share: in proportion to `reach`. floor: the leaks that would be found where there are none.
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
    """Continues prompts under mixes, prompt i with the i-th seed from that of `params` on, and has the texts judged."""

    def __init__(self, desk: Desk, names: tuple[str, ...], prompts: tuple[str, ...], params: SamplingParams) -> None:
        self._desk, self.names, self.prompts = desk, names, prompts
        seeds = range(params.seed or 0, (params.seed or 0) + len(prompts))
        self._params = [replace(params, seed=seed) for seed in seeds]

    def __call__(self, spots: np.ndarray, some: np.ndarray, what: str) -> tuple[np.ndarray, list[list[str]]]:
        """Scores `(M, n, A)` and texts of M mixes, `(M, A)` positions, on n prompts by number."""
        from mixer.values.request import Request

        scores, texts = [], []
        for spot in tqdm(spots, what, unit="mix", file=sys.stderr):
            mix = self._desk.mix(dict(zip(self.names, map(float, spot), strict=True)))
            outputs = self._desk.generate_batch([Request(self.prompts[i], mix, self._params[i]) for i in some])
            judged = [self._desk.scores(output.text) for output in outputs]
            scores.append([[one[name] for name in self.names] for one in judged])
            texts.append([output.text for output in outputs])
        return np.array(scores), texts


def check(
    write: MixWriter,
    calibration: SliderCalibration,
    some: np.ndarray,
    levels: Sequence[float],
    rng: np.random.Generator,
    loglikelihoods: LogLikelihoods | None,
) -> tuple[tuple[LevelAsked, ...], tuple[WaySummary, ...]]:
    """Every attribute asked to every level, in both ways."""
    names = calibration.attributes
    asked = [(i, float(level)) for i in range(len(names)) for level in levels]
    base, _ = write(np.zeros((1, len(names))), some, "the base")
    chosen = rng.integers(0, len(some), (DRAWS, len(some)))
    own = np.array([i for i, _ in asked])
    others = np.arange(len(names)) != own[:, None]  # (Q, A)
    wanted = [calibration.targets(level * np.eye(len(names))[i])[i] for i, level in asked]
    wanted = np.array(wanted) - calibration.scores(np.zeros(len(names)))[own]
    asks, wholes = [], []
    for way in WAYS:
        places = [{names[i]: level} for i, level in asked]
        spots = [calibration.positions(place) if way == "decoupled" else place for place in places]
        scores, texts = write(np.array([[spot.get(name, 0.0) for name in names] for spot in spots]), some, way)
        changes = scores - base  # (Q, n, A)
        parts = _parts(changes.mean(1), own, others, wanted)
        spread = {
            k: np.array(v) for k, v in _collected(_parts(changes[:, c].mean(1), own, others, wanted) for c in chosen)
        }
        perplexities = [_perplexity(write, some, one, loglikelihoods) for one in texts]
        for q, (i, level) in enumerate(asked):
            asks.append(
                LevelAsked(
                    names[i],
                    level,
                    way,
                    _short(wanted[q]),
                    _short(parts["own"][q]),
                    _short(spread["own"][:, q].std()),
                    _short(parts["leak"][q]),
                    _short(spread["leak"][:, q].std()),
                    perplexities[q],
                )
            )
        noise = changes.std(1, ddof=1) / changes.shape[1] ** 0.5
        known = [p for p in perplexities if p is not None]
        over = {f"{k}_error": _short(spread[k].std()) for k in OVER} | {k: _short(parts[k]) for k in OVER}
        perplexity = round(float(np.exp(np.log(known).mean())), 2) if known else None
        wholes.append(WaySummary(way, **over, floor=_short(noise[others].mean() * NOISE), perplexity=perplexity))
    return tuple(asks), tuple(wholes)


def _parts(means: np.ndarray, own: np.ndarray, others: np.ndarray, wanted: np.ndarray) -> Mapping[str, Any]:
    """Figures of mean changes `(Q, A)`: of every ask, `(Q,)`, and over all."""
    mine = means[np.arange(len(own)), own]
    leak = np.where(others, np.abs(means), 0).sum(1) / others.sum(1)
    size, miss = np.abs(mine).mean(), np.abs(mine - wanted).mean()
    return {"own": mine, "leak": leak, **dict(zip(OVER, (size, miss, leak.mean(), leak.mean() / size), strict=True))}


def _collected(all_parts: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    found = list(all_parts)
    return [(key, [one[key] for one in found]) for key in found[0]]


def _perplexity(
    write: MixWriter, some: np.ndarray, texts: Sequence[str], loglikelihoods: LogLikelihoods | None
) -> float | None:
    written = [(write.prompts[i], text) for i, text in zip(some, texts, strict=True) if text.strip()]
    if loglikelihoods is None or not written:
        return None
    return round(float(np.exp(-np.mean(loglikelihoods([p for p, _ in written], [t for _, t in written])))), 2)


def _short(value: float) -> float:
    return round(float(value), 4)
