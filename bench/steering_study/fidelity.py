"""How closely reward heads follow the reward model they stand in for, at held-out places, before anything is written.

RAD steers by the reward model itself, on the `LIKELY` likeliest tokens; a head steers there too, with the strength that
moves the base's distribution equally far on the average. What is left between the two is the head's fault. Figures are
centred per place: differences between places, which make up most of a reward's variance, steer nothing. The methods are
heads trained on the same texts. Knows nothing of generation.

Source of the methods: Troshin, Niculae and Fokkens, arXiv 2407.04615; of RAD: Deng and Raffel, arXiv 2310.09520.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from mixer.adapters.fingerprint import base_fingerprint
from mixer.rewards.files import find_rewards, load_reward
from mixer.rewards.heads import RewardHead
from mixer.rewards.reference import divergence
from mixer.training.head_measures import centred, fidelity, strength
from mixer.training.head_training import HeadTraining
from mixer.training.prefix_samples import LIKELY, PrefixSamples
from mixer.training.reward_head import HeadConfig, fit
from mixer.training.reward_model import RewardModel, load_teacher

BUDGETS = (0.1, 0.5)
ENERGIES = (0.9, 0.99)
PREFIXES, TOKENS = 200, 256  # of the matrix whose rank is measured
RAD, BASE, RANDOM, SHIPPED = "RAD", "base, not steered", "random W", "ARM that ships"


@dataclass(frozen=True)
class MethodFit:
    """One way of steering, against RAD.

    Attributes:
        r2, centred_r2, centred_correlation: of the rewards of likely tokens.
        divergence: `KL(p_RAD || p_arm)` in nats where both have each budget's mean distance from the base.
        error: its standard error over places, and agreement: share of places where both have the same likeliest token,
            at the larger budget; both directions count.
    """

    name: str
    r2: float
    centred_r2: float
    centred_correlation: float
    divergence: tuple[float, ...]
    error: tuple[float, ...]
    agreement: float


@dataclass(frozen=True)
class Spectrum:
    """Singular values that hold each share of `ENERGIES` in the matrix of rewards, prefixes by tokens."""

    prefixes: int
    tokens: int
    raw: tuple[int, ...]
    centred: tuple[int, ...]


@dataclass(frozen=True)
class FidelityReport:
    """All methods of one attribute."""

    attribute: str
    places: int
    spectrum: Spectrum
    methods: tuple[MethodFit, ...]

    def table(self) -> str:
        """A markdown table, one method a row."""
        budgets = " | ".join(f"KL from RAD at {budget:g} nats" for budget in BUDGETS)
        lines = [
            f"| {self.attribute} | centred R² | correlation | {budgets} | same choice |",
            "|---" * (4 + len(BUDGETS)) + "|",
        ]
        for method in self.methods:
            gaps = [f"{gap:.4f} ± {error:.4f}" for gap, error in zip(method.divergence, method.error, strict=True)]
            figures = [
                f"{method.centred_r2:.3f}",
                f"{method.centred_correlation:.3f}",
                *gaps,
                f"{method.agreement:.3f}",
            ]
            lines.append(f"| {method.name} | {' | '.join(figures)} |")
        held = " and ".join(f"{energy:.0%}" for energy in ENERGIES)
        ranks = [", ".join(map(str, numbers)) for numbers in (self.spectrum.raw, self.spectrum.centred)]
        size = f"{self.spectrum.prefixes} x {self.spectrum.tokens}"
        lines.append(f"\n{size} rewards: {held} of the energy in {ranks[0]} dimensions, row-centred in {ranks[1]}.")
        return "\n".join(lines)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def energy_rank(matrix: Tensor, share: float) -> int:
    """How many singular values of a matrix hold this share of its squares."""
    energy = torch.linalg.svdvals(matrix.double()).square()
    return int((energy.cumsum(0) < share * energy.sum()).sum()) + 1


@torch.inference_mode()
def reward_matrix(teacher: RewardModel, texts: Sequence[Sequence[int]], tokens: Tensor) -> Tensor:
    """Rewards of every text with every token after it, `(N, T)`; texts of at least one token each."""
    rows = []
    for text in texts:
        ids, place = torch.tensor([list(text)]), torch.tensor([[len(text) - 1]])
        rows.append(teacher.after(ids, place, tokens[None, None])[0, 0])
    return torch.stack(rows)


def spectrum(teacher: RewardModel, texts: Sequence[Sequence[int]], seed: int = 0) -> Spectrum:
    """Ranks of the rewards after random places of these texts, of tokens that occur in them."""
    generator = torch.Generator().manual_seed(seed)
    cut = [text[: 2 + int(torch.randint(len(text) - 1, (), generator=generator))] for text in texts if len(text) > 2]
    known = torch.tensor(sorted({token for text in texts for token in text}))
    tokens = known[torch.randperm(len(known), generator=generator)[:TOKENS]]
    matrix = reward_matrix(teacher, cut[:PREFIXES], tokens)
    raw, apart = (tuple(energy_rank(m, e) for e in ENERGIES) for m in (matrix, centred(matrix)))
    return Spectrum(len(matrix), len(tokens), raw, apart)


def compare(name: str, places: PrefixSamples, rewards: Tensor | None, figures: dict[str, float]) -> MethodFit:
    """A method that steers by `rewards` of the likely tokens, `(N, LIKELY)`; by none if None."""
    logprobs = torch.log_softmax(places.logprobs[:, :LIKELY].float(), dim=-1)
    target = places.rewards[:, :LIKELY].clamp(0, 1)
    gaps, errors, same = [], [], torch.zeros(0)
    for budget in BUDGETS:
        both, agree = [], []
        for sign in (1, -1):
            rad = _steered(logprobs, sign * target, budget)
            own = logprobs.double() if rewards is None else _steered(logprobs, sign * rewards, budget)
            both.append((rad.exp() * (rad - own)).sum(-1))
            agree.append((rad.argmax(-1) == own.argmax(-1)).float())
        gap, same = torch.stack(both).mean(0), torch.stack(agree).mean(0)
        gaps.append(round(float(gap.mean()), 5))
        errors.append(round(float(gap.std() / len(gap) ** 0.5), 5))
    kept = {key: figures.get(key, 0.0) for key in ("r2", "centred_r2", "centred_correlation")}
    return MethodFit(name, **kept, divergence=tuple(gaps), error=tuple(errors), agreement=round(float(same.mean()), 4))


def _steered(logprobs: Tensor, rewards: Tensor, budget: float) -> Tensor:
    """Log-probabilities `(N, k)` pushed along the rewards until they are, on the average, `budget` nats away."""
    bias = rewards - (rewards * logprobs.exp()).sum(-1, keepdim=True)
    # In units of its own spread, so that one search serves heads of any scale.
    bias = bias / bias.square().mean().sqrt().clamp(min=1e-12)
    beta = strength(logprobs, bias, budget, both=False)
    assert abs(float(divergence(logprobs, bias, beta).mean()) - budget) < 0.01 * budget or not bool(bias.any())
    return torch.log_softmax(logprobs.double() + beta * bias.double(), dim=-1)


def compare_head(name: str, head: RewardHead, places: PrefixSamples, embedding: Tensor) -> MethodFit:
    """A method that steers by a head."""
    with torch.inference_mode():
        h = head.state(places.states.float())
        rewards = head.rewards(h, embedding[places.candidates[:, :LIKELY]])
    return compare(name, places, rewards, fidelity(head, places, embedding))


def variants(config: HeadConfig, sweep: bool) -> dict[str, HeadConfig]:
    """The heads to compare, by name: what they read and learn from; with `sweep` also ranks and the regularizer."""
    methods = {
        f"ARM distilled, {reads}": replace(config, source="rad", reads=reads) for reads in ("final", "layers", "trunk")
    }
    methods |= {
        f"ARM on responses, {reads}": replace(config, source="responses", reads=reads) for reads in ("final", "trunk")
    }
    if sweep:
        methods |= {f"ARM distilled, rank {rank}": replace(config, rank=rank) for rank in (4, 16, 64)}
        methods |= {"ARM distilled, regularizer 1": replace(config, regularizer=1.0)}
        methods |= {"ARM on responses, regularizer 1": replace(config, source="responses", regularizer=1.0)}
    return methods


def rewards(attribute: str, bench: HeadTraining, sweep: bool = False) -> FidelityReport:
    """Train every method on the same places and measure it at the test places, beside the head that ships.

    Raises:
        BadArtifact: there is no reward model in `bench.work/ATTRIBUTE`.
    """
    parts = {
        source: [bench.samples(attribute, part, source) for part in ("train", "validation")]
        for source in ("rad", "responses")
    }
    test = bench.samples(attribute, "test", "rad")
    itself = {"r2": 1.0, "centred_r2": 1.0, "centred_correlation": 1.0}
    methods = [compare(RAD, test, test.rewards[:, :LIKELY].clamp(0, 1), itself), compare(BASE, test, None, {})]
    generator = torch.Generator().manual_seed(0)
    size, rank = bench.embedding.shape[1], bench.config.rank
    down, up = torch.randn(rank, size, generator=generator), torch.randn(size, rank, generator=generator)
    methods.append(compare_head(RANDOM, RewardHead(down, up, torch.zeros(size)), test, bench.embedding))
    if bench.anchors and (folder := find_rewards(bench.anchors).get(attribute)):
        shipped = load_reward(folder, base_fingerprint(bench.lm)).head
        methods.append(compare_head(SHIPPED, shipped, test, bench.embedding))
    for name, config in variants(bench.config, sweep).items():
        print(f"{attribute}: {name}", file=sys.stderr)
        train, validation = parts[config.source]
        head = fit(train, validation, bench.embedding, config, name)
        methods.append(compare_head(name, head, test, bench.embedding))
    teacher = load_teacher(bench.base, bench.teacher_folder(attribute), torch.float32)
    texts = [text.ids for text in bench.texts(attribute, "test")]
    return FidelityReport(attribute, len(test), spectrum(teacher, texts), tuple(methods))
