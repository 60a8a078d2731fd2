"""RAD's reward model: the base's network with one number as its output, a reward after every token.

    loss = sum_t 2 t / (L (L + 1)) (r(x_1 .. x_t) - y)^2        y the label of the whole text, 0 or 1

Every prefix is regressed on the label of its whole text, later prefixes with more weight. The rewards of k next tokens
after a prefix are computed in one pass: the tokens are k more positions, which attend to the prefix and not to each
other. `mixer.rewards.rad` loads what is trained here. Knows nothing of reward heads, sliders or generation.

Source: Deng and Raffel, "Reward-Augmented Decoding", EMNLP 2023, arXiv 2310.09520, section 2.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixer.adapters.fingerprint import base_fingerprint
from mixer.errors import InvalidValue
from mixer.rewards.rad import LORA_SCALING, REPORT, WEIGHTS, cast, read_teacher
from mixer.training.data import ATTRIBUTES, TOXICITY
from mixer.training.frozen_base import load_base, portable_name
from mixer.training.labels import LabelledText, labelled_texts, padded, text_batches
from mixer.training.optimizers import MasterAdamW

CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class TeacherConfig:
    """How a reward model is trained; with `lora`, adapters of that rank are trained instead of all weights."""

    minutes: float = 8.0
    lora: int = 0
    lr: float = 2e-4
    batch_tokens: int = 1024
    warmup: float = 0.05
    pair_epochs: int = 2  # how often one pass over all texts has each pair
    longest: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.minutes > 0 and self.lr > 0 and self.lora >= 0 and self.batch_tokens > 0 and self.longest > 1):
            raise InvalidValue("minutes, lr, batch_tokens and longest must be positive.", "Raise the one that is not.")


class RewardModel(nn.Module):
    """A causal network with a linear layer that gives one number.

    Args:
        backbone: gives a hidden state for every token, `(B, L, D)`.
        size: of a hidden state, D.
    """

    def __init__(self, backbone: nn.Module, size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.weight = nn.Parameter(torch.zeros(size))
        self.bias = nn.Parameter(torch.tensor([0.5]))

    def forward(self, ids: Tensor, **options: Any) -> Tensor:
        """Rewards of every prefix, `(B, L)` float32, of token ids `(B, L)`."""
        hidden = self.backbone(input_ids=ids, **options).last_hidden_state
        return hidden.float() @ self.weight + self.bias

    def after(self, ids: Tensor, ends: Tensor, candidates: Tensor) -> Tensor:
        """Rewards of many prefixes of each text, each with many next tokens, in one pass.

        Args:
            ids: `(B, L)`; tokens behind a text's last prefix may be padding.
            ends: the index of each prefix's last token, `(B, P)`.
            candidates: tokens that may follow each prefix, `(B, P, k)`.

        Returns:
            `(B, P, k)` float32: entry (b, p, i) is the reward of `ids[b, : ends[b, p] + 1]` and its candidate i.
        """
        batch, length = ids.shape
        _, count, k = candidates.shape
        ends = ends.repeat_interleave(k, dim=1)  # (B, P k)
        positions = torch.arange(length, device=ids.device).expand(batch, -1)
        own = torch.eye(count * k, dtype=torch.bool, device=ids.device).expand(batch, -1, -1)
        prefix = positions[:, None, :] <= torch.cat([positions, ends], dim=1)[:, :, None]  # (B, L + P k, L)
        branches = torch.cat([torch.zeros_like(own[:, :1]).expand(-1, length, -1), own], dim=1)
        mask = _additive(torch.cat([prefix, branches], dim=2), self._dtype)
        tokens = torch.cat([ids, candidates.flatten(1)], dim=1)
        position_ids = torch.cat([positions, ends + 1], dim=1)
        rewards = self(tokens, attention_mask=mask[:, None], position_ids=position_ids, use_cache=False)
        return rewards[:, length:].view(batch, count, k)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.backbone.parameters()).dtype


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that is added to attention scores: 0 where `seen`, the dtype's least number elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def prefix_loss(rewards: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
    """RAD's loss of each text, `(B,)`.

    Args:
        rewards: of the prefixes that end at the 1st, 2nd, .. token, `(B, L)`; ignored behind a text's length.
        lengths, labels: `(B,)`.
    """
    order = torch.arange(1, rewards.shape[1] + 1, device=rewards.device)
    weights = 2 * order / (lengths * (lengths + 1))[:, None] * (order <= lengths[:, None])
    return (weights * (rewards - labels[:, None]) ** 2).sum(1)


def output_embedding(lm: PreTrainedModel) -> Tensor:
    """The matrix that final states are multiplied by for logits, `(V, D)`."""
    return lm.get_output_embeddings().weight.detach()  # type: ignore[union-attr]


def new_teacher(base: Path | str | None, lora: int = 0) -> tuple[RewardModel, PreTrainedTokenizerBase, str]:
    """A reward model on a base's network, its tokenizer, and the base's fingerprint."""
    lm, tokenizer = load_base(base, "cpu")
    fingerprint = base_fingerprint(lm)
    backbone: Any = lm.base_model
    if lora:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=lora, lora_alpha=round(LORA_SCALING * lora), target_modules="all-linear")
        backbone = get_peft_model(backbone, config, autocast_adapter_dtype=False)
    else:
        backbone.requires_grad_(True)
    return RewardModel(backbone, output_embedding(lm).shape[1]), tokenizer, fingerprint


@torch.inference_mode()
def measure(model: RewardModel, texts: Sequence[LabelledText], batch_tokens: int = 4096) -> dict[str, float | int]:
    """RAD's loss; of whole texts, squared error, accuracy at 0.5 and area under the ROC curve."""
    losses, last, labels = [], [], []
    for batch in text_batches(texts, batch_tokens, np.random.default_rng(0)):
        ids, lengths, targets = padded(batch)
        rewards = model(ids, use_cache=False)[:, 1:]
        losses.append(prefix_loss(rewards, lengths - 1, targets))
        last.append(rewards.gather(1, lengths[:, None] - 2)[:, 0])
        labels.append(targets)
    score, label = torch.cat(last), torch.cat(labels)
    above = (score[label == 1][:, None] > score[label == 0]).float().mean()
    return {
        "texts": len(label),
        "prefix_loss": round(float(torch.cat(losses).mean()), 4),
        "error": round(float(((score - label) ** 2).mean()), 4),
        "accuracy": round(float(((score > 0.5) == (label == 1)).float().mean()), 4),
        "auc": round(float(above), 4),
    }


def train_teacher(
    base: Path | str | None,
    attribute: str,
    data: Path | None,
    out: Path,
    config: TeacherConfig | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> dict:
    """Train a reward model into `out`, resuming an unfinished run; returns its report, also in `out/teacher.json`.

    The validation loss is measured after every pass and at the end; the weights with the least one are kept.

    Args:
        config: None accepts a finished reward model with any settings.
        checkpoint_seconds: time between two checkpoints, at least.

    Raises:
        UnknownName, BadArtifact: there are no texts for this attribute; see `labelled_texts`.
    """
    made_from: dict[str, Any] = {"attribute": attribute, "base": portable_name(base), "data": data is not None}
    if config:
        made_from["config"] = asdict(config)
    if (report := finished(out, made_from)) is not None:
        return report
    config = config or TeacherConfig()
    made_from["config"] = asdict(config)
    torch.manual_seed(config.seed)
    model, tokenizer, fingerprint = new_teacher(base, config.lora)
    train = labelled_texts(data, attribute, "train", tokenizer, config.longest, config.pair_epochs, config.seed)
    validation, test = (
        labelled_texts(data, attribute, part, tokenizer, config.longest, seed=config.seed)
        for part in ("validation", "test")
    )
    out.mkdir(parents=True, exist_ok=True)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = MasterAdamW(list(trained.values()), config.lr)
    step, spent, best = _resume(out / CHECKPOINT, optimizer)
    saved = time.perf_counter()
    with tqdm(total=100, bar_format="{desc} |{bar}| {n:.1f} % {postfix}", desc=attribute, file=sys.stderr) as bar:
        while spent < 60 * config.minutes:
            # A resumed run begins a new pass: its order depends on the step, so no order needs to be saved.
            for batch in text_batches(train, config.batch_tokens, np.random.default_rng([config.seed, step])):
                begin = time.perf_counter()
                ids, lengths, labels = padded(batch)
                loss = prefix_loss(model(ids, use_cache=False)[:, 1:], lengths - 1, labels).mean()
                loss.backward()
                done = spent / (60 * config.minutes)
                optimizer.step(max(0.0, min((step + 1) / 50, (1 - done) / (1 - config.warmup), 1.0)))
                step, spent = step + 1, spent + time.perf_counter() - begin
                bar.n = min(100.0, 100 * spent / (60 * config.minutes))
                bar.set_postfix_str(f"step {step} · loss {loss.item():.3f}")
                if time.perf_counter() - saved > checkpoint_seconds:
                    _save_checkpoint(out / CHECKPOINT, optimizer, step, spent, best)
                    saved = time.perf_counter()
                if spent >= 60 * config.minutes:
                    break
            loss = float(measure(model, validation)["prefix_loss"])
            if loss < best:
                best = loss
                save_file({name: p.detach().contiguous() for name, p in trained.items()}, out / WEIGHTS)
    model.load_state_dict(load_file(out / WEIGHTS), strict=False)
    report = {
        "made_from": made_from,
        "base_fingerprint": fingerprint,
        "train_texts": len(train),
        "steps": step,
        "minutes": round(spent / 60, 2),
        "validation": measure(model, validation),
        "test": measure(model, test),
        "test_pairs": _measure_pairs(model, data, attribute, tokenizer, config),
    }
    (out / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    (out / CHECKPOINT).unlink(missing_ok=True)
    return report


def load_teacher(base: Path | str | None, folder: Path, dtype: torch.dtype = torch.float32) -> RewardModel:
    """A trained reward model, ready to score.

    Raises:
        BadArtifact: there is none, or it was trained on another base.
    """
    lm, _ = load_base(base, "cpu")
    teacher = read_teacher(folder, base_fingerprint(lm))
    model = RewardModel(lm.base_model, output_embedding(lm).shape[1])
    cast(model.backbone, dtype)
    model.backbone.load_state_dict(teacher.weights(lm), strict=False)
    model.weight.data, model.bias.data = teacher.weight, torch.tensor([teacher.bias])
    return model.requires_grad_(False).eval()


def finished(folder: Path, made_from: dict[str, Any]) -> dict | None:
    """The report of an earlier run that ended, if all of `made_from` is in it; else None."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        same = all(report["made_from"][name] == value for name, value in made_from.items())
        return report if same and (folder / WEIGHTS).is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measure_pairs(
    model: RewardModel, data: Path | None, attribute: str, tokenizer: PreTrainedTokenizerBase, config: TeacherConfig
) -> dict[str, float | int] | None:
    """Measures on the test pairs alone, which differ in the attribute alone; None where there are no pairs."""
    if attribute == TOXICITY:
        return None
    source = None if attribute in ATTRIBUTES else data  # shipped pairs come without unpaired texts
    pairs = labelled_texts(source, attribute, "test", tokenizer, config.longest, seed=config.seed)
    return measure(model, pairs)


def _save_checkpoint(path: Path, optimizer: MasterAdamW, step: int, spent: float, best: float) -> None:
    tensors = {"progress": torch.tensor([step, spent, best], dtype=torch.float64)}
    for index, master in enumerate(optimizer.masters):
        state = optimizer.inner.state[master]
        tensors |= {f"{index}.master": master} | {f"{index}.{name}": value for name, value in state.items()}
    save_file(tensors, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def _resume(path: Path, optimizer: MasterAdamW) -> tuple[int, float, float]:
    """Load the optimizer's state of an earlier run; returns its steps, seconds and best validation loss so far."""
    if not path.is_file():
        return 0, 0.0, float("inf")
    tensors = load_file(path)
    with torch.no_grad():
        for index, (master, weight) in enumerate(zip(optimizer.masters, optimizer.weights, strict=True)):
            master.copy_(tensors[f"{index}.master"])
            weight.copy_(master)
            names = ("step", "exp_avg", "exp_avg_sq")
            optimizer.inner.state[master] = {name: tensors[f"{index}.{name}"] for name in names}
    step, spent, best = tensors["progress"].tolist()
    return int(step), spent, best
