"""Training of reward heads: from labelled texts, or from a reward model that scored every likely token (distillation).

    responses:  w_t (r(x_t+1 | x) - y)^2                     the observed token alone, y the label of its text
    rad:        (mean difference)^2 / s_b + (centred difference)^2 / s_c      over the likely tokens of a prefix
    both:       + regularizer * <W h, e(u)>^2 / s_c          u random tokens, of which neither says anything

A reward model's scores differ far more between prefixes than between the tokens after one; only the latter steers. So
distillation weighs both parts by their own variances, s_b and s_c. Knows nothing of decoding.

Source: Troshin, Niculae and Fokkens, arXiv 2407.04615, sections 3 and 4; the weighing is this project's.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mixer.adapters.fingerprint import base_fingerprint
from mixer.adapters.peft import AnchorSet, load_anchors
from mixer.desk import Desk
from mixer.errors import InvalidValue
from mixer.resources import ANCHORS
from mixer.rewards.files import FOLDER, calibration_record, save_reward
from mixer.rewards.heads import HeadCalibration, Reward, RewardHead, Trunk, advantage, likely
from mixer.rewards.rad import REPORT
from mixer.rewards.reference import divergence
from mixer.training.anchor import load_base, portable_name
from mixer.training.data import ATTRIBUTES, find_pairs
from mixer.training.labels import Labelled, Part, labelled_texts, of_part
from mixer.training.prefix_samples import LIKELY, MixedBase, Places, collect, written
from mixer.training.reward_model import load_teacher, output_embedding

Source = Literal["rad", "responses"]
Reads = Literal["final", "layers", "trunk"]
BUDGETS = (0.1, 0.5)  # nats a token
CLIP = 4.0
MOST_RESPONSES = 6000  # texts
SHARES = {"train": 1.0, "validation": 0.1, "test": 0.15}


@dataclass(frozen=True)
class HeadConfig:
    """Shape of a head, what it learns from, and for how long.

    Attributes:
        reads: `final`, the model's own final state, which can be fused; `layers`, a learned mix of all layers' states;
            `trunk`, with one hidden layer of `inner` on top.
        texts: to take places from, of which half are the attribute's own; `a_text` places each.
    """

    source: Source = "rad"
    rank: int = 32
    reads: Reads = "final"
    inner: int = 128
    regularizer: float = 0.0
    texts: int = 4800
    a_text: int = 6
    epochs: int = 20
    rows: int = 512
    lr: float = 3e-3
    decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rank, self.inner, self.a_text, self.epochs, self.rows) < 1 or self.texts < 20:
            raise InvalidValue("rank, inner, a_text, epochs and rows must be positive, texts 20 or more.", "Raise it.")
        if not (self.lr > 0 and self.regularizer >= 0 and self.decay >= 0):
            raise InvalidValue("lr must be above zero, regularizer and decay not below.", "Raise the one that is not.")


class Student(torch.nn.Module):
    """A head in training. States and embeddings are brought to sizes at which one learning rate serves all bases."""

    def __init__(self, places: Places, embedding: Tensor, config: HeadConfig) -> None:
        super().__init__()
        count, size = places.states.shape[1:]
        self.reads = config.reads
        self.e_scale = float(embedding.square().sum(-1).mean().sqrt())
        self.embedding = embedding / self.e_scale
        final = places.states[:, -1].float()
        self.h_scale = float(final.square().mean().sqrt()) if config.reads == "final" else 1.0
        self.down = torch.nn.Parameter(torch.randn(config.rank, size) / size**0.5)
        self.up = torch.nn.Parameter(torch.zeros(size, config.rank))
        self.weight = torch.nn.Parameter(torch.zeros(size))
        self.bias = torch.nn.Parameter(torch.tensor(0.5))
        if config.reads != "final":
            self.mix = torch.nn.Parameter(torch.full((count,), 1 / count))
        if config.reads == "trunk":
            self.inner = torch.nn.Parameter(torch.randn(config.inner, size) / size**0.5)
            self.outer = torch.nn.Parameter(torch.zeros(size, config.inner))

    def trunk(self) -> Trunk | None:
        if self.reads == "final":
            return None
        return Trunk(self.mix, *((self.inner, self.outer) if self.reads == "trunk" else ()))

    def parts(self, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Baselines `(n,)` and the other part of the rewards of `tokens`, `(n, k)`; states `(n, S, D)`."""
        trunk = self.trunk()
        h = states[:, -1] / self.h_scale if trunk is None else trunk(states)
        shift = (h @ self.down.T) @ self.up.T
        return h @ self.weight / len(self.weight) ** 0.5 + self.bias, (self.embedding[tokens] @ shift[..., None])[
            ..., 0
        ]

    @torch.no_grad()
    def head(self) -> RewardHead:
        """The head for states and embeddings as the model has them."""
        trunk = self.trunk()
        if trunk is not None:
            inner, outer = (None if part is None else part.detach().clone() for part in (trunk.inner, trunk.outer))
            trunk = Trunk(trunk.mix.detach().clone(), inner, outer)
        up = self.up.detach() / self.e_scale
        weight = self.weight.detach() / len(self.weight) ** 0.5 / self.h_scale
        return RewardHead(self.down.detach() / self.h_scale, up, weight, float(self.bias), trunk)


def centred(values: Tensor) -> Tensor:
    """Rows less their means, `(..., k)`."""
    return values - values.mean(-1, keepdim=True)


def losses(student: Student, places: Places, rows: Tensor, config: HeadConfig) -> Tensor:
    """Loss of each of these places, `(n,)`."""
    states, tokens = places.states[rows].float(), places.candidates[rows]
    unit = 1.0
    if config.source == "rad":
        targets = places.rewards[rows]
        unit = float(centred(places.rewards).square().mean())
        base, shift = student.parts(states, tokens)
        errors = base[:, None] + shift - targets
        means = errors.mean(-1)
        result = means.square() / float(places.rewards.mean(-1).var()) + centred(errors).square().mean(-1) / unit
    else:
        base, shift = student.parts(states, tokens[:, -1:])
        result = places.weights[rows] * (base + shift[:, 0] - places.labels[rows]).square()
    if config.regularizer:
        others = torch.randint(len(student.embedding), (len(rows), LIKELY))
        result = result + config.regularizer * student.parts(states, others)[1].square().mean(-1) / unit
    return result


def fit(train: Places, validation: Places, embedding: Tensor, config: HeadConfig, title: str = "head") -> RewardHead:
    """The head that does best on the validation places, measured after every pass.

    Args:
        embedding: the base's output embedding, `(V, D)` float32.
    """
    torch.manual_seed(config.seed)
    student = Student(train, embedding, config)
    optimizer = torch.optim.AdamW(student.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=config.decay)
    steps = config.epochs * -(-len(train) // config.rows)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps, pct_start=0.1)
    best, head = float("inf"), student.head()
    with tqdm(range(config.epochs), desc=title, unit="pass", file=sys.stderr, leave=False) as bar:
        for _ in bar:
            for rows in torch.randperm(len(train)).split(config.rows):
                optimizer.zero_grad()
                losses(student, train, rows, config).mean().backward()
                optimizer.step()
                schedule.step()
            with torch.no_grad():
                parts = [
                    losses(student, validation, rows, config) for rows in torch.arange(len(validation)).split(2048)
                ]
            loss = float(torch.cat(parts).mean())
            bar.set_postfix_str(f"validation {loss:.4f}")
            if loss < best:
                best, head = loss, student.head()
    return head


@torch.inference_mode()
def calibrate(head: RewardHead, places: Places, embedding: Tensor, most: int = 400) -> HeadCalibration:
    """Sigma, and the strengths that spend each budget, on `most` of these places drawn at random."""
    drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:most]
    states = places.states[drawn].float()
    final, rewards = states[:, -1], head.rewards(head.state(states), embedding)
    logprobs = torch.log_softmax(final @ embedding.T, dim=-1)
    some = likely(logprobs)
    probs = torch.where(some, logprobs.exp(), 0.0)
    sigma = max(float(advantage(rewards, probs)[some].square().mean().sqrt()), 1e-8)
    steering = torch.where(some, advantage(rewards, probs, sigma, CLIP), 0.0)
    # All tokens that are not steered count as one.
    order = steering.abs().masked_fill(some, torch.inf).topk(int(some.sum(-1).max())).indices
    rest = torch.log1p(-torch.gather(logprobs, 1, order).exp().sum(-1, keepdim=True).clamp(max=1 - 1e-6))
    short = torch.cat([logprobs.gather(1, order), rest], dim=-1)
    push = torch.cat([steering.gather(1, order), torch.zeros_like(rest)], dim=-1)
    fused, few = advantage(rewards, logprobs.exp(), sigma), slice(most // 4)
    return HeadCalibration(
        sigma,
        CLIP,
        betas={b: round(strength(short, push, b), 4) for b in BUDGETS},
        fused_betas={b: round(strength(logprobs[few], fused[few], b), 4) for b in BUDGETS},
    )


@torch.inference_mode()
def calibrate_scores(rewards: Tensor, logprobs: Tensor) -> HeadCalibration:
    """The same for a reward model that steers by itself as RAD does: clamped, on the likeliest tokens alone.

    Args:
        rewards, logprobs: of the likeliest tokens of every place, `(N, k)`.
    """
    rewards, logprobs = rewards.clamp(0, 1), torch.log_softmax(logprobs, dim=-1)
    probs = logprobs.exp()
    sigma = max(float(advantage(rewards, probs).square().mean().sqrt()), 1e-8)
    push = advantage(rewards, probs, sigma)
    # RAD clips rewards to [0, 1] and nothing else: this clip is never reached.
    return HeadCalibration(
        sigma, 1 / sigma, {b: round(strength(logprobs, push, b), 4) for b in BUDGETS}, fused_betas={}
    )


def strength(logprobs: Tensor, bias: Tensor, budget: float, both: bool = True, highest: float = 64.0) -> float:
    """The factor on a bias at which the mean divergence over rows reaches a budget; `highest` where none does.

    Args:
        logprobs, bias: `(N, V)`.
        both: the mean over the bias and its opposite.
    """
    low, high = 0.0, highest
    for _ in range(24):
        middle = (low + high) / 2
        moved = divergence(logprobs, bias, middle).mean()
        if both:
            moved = (moved + divergence(logprobs, -bias, middle).mean()) / 2
        low, high = (middle, high) if moved <= budget else (low, middle)
    return low


class HeadTraining:
    """What the heads of one base share: the mixed base, texts it wrote, and caches of places in `work`."""

    def __init__(
        self, base: Path | str, anchors: Path | None, data: Path | None, work: Path, config: HeadConfig
    ) -> None:
        self.base, self.data, self.work, self.config = base, data, work, config
        self.anchors = anchors
        self.lm, self.tokenizer = load_base(base, "cpu")
        found = load_anchors(anchors, self.lm, str(base)) if anchors else AnchorSet({}, (), ())
        self.mixed = MixedBase(self.lm, found, config.seed)
        self.embedding: Tensor = output_embedding(self.lm).float()

    def teacher_folder(self, attribute: str) -> Path:
        return self.work / attribute

    def places(self, attribute: str, part: Part, source: Source) -> Places:
        """The places of one part, from the cache if they were collected before."""
        config = self.config
        name = f"{part}-{source}-{config.texts}x{config.a_text}-{config.seed}.safetensors"
        path = self.work / attribute / name
        if not path.is_file():
            teacher = None
            if source == "rad":
                teacher = load_teacher(self.base, self.teacher_folder(attribute), torch.bfloat16)
            collect(
                self.mixed, self.texts(attribute, part, source), config.a_text, teacher, config.seed, title=path.stem
            ).save(path)
        return Places.load(path)

    def texts(self, attribute: str, part: Part, source: Source = "rad") -> list[Labelled]:
        """For distillation half are the attribute's own, a quarter each other attributes' pairs and what the base
        writes; for responses all are its own, `MOST_RESPONSES` at most, since these need no reward model's time."""
        rng = np.random.default_rng([self.config.seed, len(part)])

        def some(texts: list[Labelled], count: int) -> list[Labelled]:
            return [texts[i] for i in rng.permutation(len(texts))[:count]]

        own = labelled_texts(self.data, attribute, part, self.tokenizer, seed=self.config.seed)
        if source == "responses":
            return some(own, MOST_RESPONSES)
        total = round(self.config.texts * SHARES[part])
        others = [
            Labelled(text.ids, float("nan"))
            for name in ATTRIBUTES
            if name != attribute
            for text in labelled_texts(None, name, part, self.tokenizer, seed=self.config.seed)
        ]
        return some(own, total // 2) + some(others, total // 4) + self._written(part, total // 4)

    def _written(self, part: Part, count: int) -> list[Labelled]:
        """Texts under random mixes, kept in `work` for all attributes."""
        path = self.work / f"written-{part}-{count}.json"
        if not path.is_file():
            desk = Desk.load(self.base, self.anchors or ANCHORS, device="cpu", strict=False)
            openings = [pair.opening for name in ATTRIBUTES for pair in of_part(find_pairs(None, name), part)]
            prompts = [openings[i % len(openings)] for i in range(count)]
            texts = written(desk, prompts, [self.mixed.random_mix() for _ in prompts], self.config.seed)
            path.write_text(json.dumps([text.ids for text in texts]))
        return [Labelled(tuple(ids), float("nan")) for ids in json.loads(path.read_text())]


def calibrate_teacher(attribute: str, bench: HeadTraining) -> dict:
    """Calibrate a trained reward model on the validation places, unless it is; returns its report, which keeps it."""
    path = bench.teacher_folder(attribute) / REPORT
    report = json.loads(path.read_text(encoding="utf-8"))
    if "calibration" not in report:
        places = bench.places(attribute, "validation", "rad")
        measured = calibrate_scores(places.rewards[:, :LIKELY], places.logprobs[:, :LIKELY])
        report["calibration"] = calibration_record(measured)
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def fidelity(head: RewardHead, places: Places, embedding: Tensor) -> dict[str, float]:
    """How well a head gives a reward model's scores of the `LIKELY` likeliest tokens: shares of variance explained, of
    all scores, of their means over a place (what a thermometer shows), and of what is left (what steers)."""
    states = places.states.float()
    tokens = places.candidates[:, :LIKELY]
    with torch.inference_mode():
        ours = head.rewards(head.state(states), embedding[tokens])
    theirs = places.rewards[:, :LIKELY]
    ours_apart, apart = centred(ours), centred(theirs)
    level = theirs.mean()
    product = float((ours_apart * apart).sum() / (ours_apart.norm() * apart.norm()).clamp(min=1e-12))
    figures = {
        "r2": explained(ours - level, theirs - level),
        "level_r2": explained(ours.mean(-1) - level, theirs.mean(-1) - level),
        "centred_r2": explained(ours_apart, apart),
        "centred_correlation": product,
        "argmax_agreement": float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
    }
    return {name: round(value, 4) for name, value in figures.items()}


def explained(ours: Tensor, theirs: Tensor) -> float:
    """Share of the squares of `theirs` that `ours` gives."""
    return float(1 - (ours - theirs).square().sum() / theirs.square().sum())


def train_head(attribute: str, bench: HeadTraining, out: Path) -> dict:
    """Train, calibrate and measure one head, and write it to `out/ATTRIBUTE/reward/`; returns its report.

    Raises:
        BadArtifact: it is to be distilled and there is no reward model in `bench.work/ATTRIBUTE`.
    """
    config = bench.config
    train, validation = (bench.places(attribute, part, config.source) for part in ("train", "validation"))
    head = fit(train, validation, bench.embedding, config, attribute)
    reward = Reward(attribute, head, calibrate(head, validation, bench.embedding))
    facts: dict[str, Any] = {
        "base": portable_name(bench.base),
        "kind": "arm",
        "source": config.source,
        "places": len(train),
        "config": asdict(config),
    }
    if config.source == "rad":
        facts["held_out"] = fidelity(head, bench.places(attribute, "test", "rad"), bench.embedding)
    save_reward(reward, out / attribute / FOLDER, base_fingerprint(bench.lm), facts)
    return json.loads((out / attribute / FOLDER / "reward.json").read_text(encoding="utf-8"))
