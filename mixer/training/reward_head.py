"""Reward heads in training: they learn from labelled texts, or from a reward model that scored every likely token.

    responses:  w_t (r(x_t+1 | x) - y)^2                     the observed token alone, y the label of its text
    rad:        (mean difference)^2 / s_b + (centred difference)^2 / s_c      over the likely tokens of a prefix
    both:       + regularizer * <W h, e(u)>^2 / s_c          u random tokens, whose rewards are held near 0

The second is distillation. A reward model's scores differ far more between prefixes than between the tokens after one
prefix, and only the latter difference steers. So both parts are divided by their variances, s_b and s_c. Knows samples
of prefixes; no texts, no decoding.

Source: Troshin, Niculae and Fokkens, arXiv 2407.04615, sections 3 and 4; the weighing is this project's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from mixer.errors import InvalidValue
from mixer.rewards.heads import RewardHead, Trunk
from mixer.training.head_measures import centred
from mixer.training.prefix_samples import LIKELY, PrefixSamples

Source = Literal["rad", "responses"]
Reads = Literal["final", "layers", "trunk"]


@dataclass(frozen=True)
class HeadConfig:
    """Shape of a head, what it learns from, and for how long.

    Attributes:
        reads: `final`, the model's final state, which can be fused; `layers`, a learned mix of all layers' states;
            `trunk`, the same with one hidden layer of `inner` units on top.
        texts: how many texts to draw prefixes from, half of them the attribute's own; `a_text` prefixes of each.
        rows: samples of a batch.
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
    """A head in training. States and embeddings are scaled, so that one learning rate fits all bases."""

    def __init__(self, samples: PrefixSamples, embedding: Tensor, config: HeadConfig) -> None:
        super().__init__()
        count, size = samples.states.shape[1:]
        self.reads = config.reads
        self.e_scale = float(embedding.square().sum(-1).mean().sqrt())
        self.embedding = embedding / self.e_scale
        final = samples.states[:, -1].float()
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
        """What the head reads in place of the final state; None where that is all."""
        if self.reads == "final":
            return None
        return Trunk(self.mix, *((self.inner, self.outer) if self.reads == "trunk" else ()))

    def parts(self, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Baselines `(n,)`, and what `tokens`, `(n, k)`, add to them for their rewards; states `(n, S, D)`."""
        trunk = self.trunk()
        h = states[:, -1] / self.h_scale if trunk is None else trunk(states)
        shift = (h @ self.down.T) @ self.up.T
        baseline = h @ self.weight / len(self.weight) ** 0.5 + self.bias
        return baseline, (self.embedding[tokens] @ shift[..., None])[..., 0]

    @torch.no_grad()
    def head(self) -> RewardHead:
        """The head for the model's states and embeddings, unscaled."""
        trunk = self.trunk()
        if trunk is not None:
            inner, outer = (None if part is None else part.detach().clone() for part in (trunk.inner, trunk.outer))
            trunk = Trunk(trunk.mix.detach().clone(), inner, outer)
        up = self.up.detach() / self.e_scale
        weight = self.weight.detach() / len(self.weight) ** 0.5 / self.h_scale
        return RewardHead(self.down.detach() / self.h_scale, up, weight, float(self.bias), trunk)


def losses(student: Student, samples: PrefixSamples, rows: Tensor, config: HeadConfig) -> Tensor:
    """Loss of each of the samples with these indices, `(n,)`."""
    states, tokens = samples.states[rows].float(), samples.candidates[rows]
    unit = 1.0
    if config.source == "rad":
        targets = samples.rewards[rows]
        unit = float(centred(samples.rewards).square().mean())
        base, shift = student.parts(states, tokens)
        errors = base[:, None] + shift - targets
        means = errors.mean(-1)
        result = means.square() / float(samples.rewards.mean(-1).var()) + centred(errors).square().mean(-1) / unit
    else:
        base, shift = student.parts(states, tokens[:, -1:])
        result = samples.weights[rows] * (base + shift[:, 0] - samples.labels[rows]).square()
    if config.regularizer:
        others = torch.randint(len(student.embedding), (len(rows), LIKELY))
        result = result + config.regularizer * student.parts(states, others)[1].square().mean(-1) / unit
    return result


def fit(
    train: PrefixSamples, validation: PrefixSamples, embedding: Tensor, config: HeadConfig, title: str = "head"
) -> RewardHead:
    """Train a head; returns it as it was after the pass with the least loss on the validation samples.

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
