"""RAD's reward model: the base model's own network with one number as its output, read after every token.

    loss = sum_t 2 t / (L (L + 1)) (r(x_1 .. x_t) - y)^2        y the label of the whole text, 0 or 1

Every prefix regresses on what the text will turn out to be, later ones with more weight. At a place in a text, k next
tokens are k positions of one pass: they share the prefix and do not see each other. `mixer.rewards.rad` reads what
is trained here. Knows nothing of students, sliders or generation.

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
from mixer.training.anchor import MasterAdamW, load_base, portable_name
from mixer.training.data import ATTRIBUTES
from mixer.training.labels import TOXICITY, Labelled, labelled_texts, padded, text_batches

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
    pair_epochs: int = 2  # the pairs count this often in one pass over all texts
    longest: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.minutes > 0 and self.lr > 0 and self.lora >= 0 and self.batch_tokens > 0 and self.longest > 1):
            raise InvalidValue("minutes, lr, batch_tokens and longest must be positive.", "Raise the one that is not.")


class RewardModel(nn.Module):
    """A causal network with a scalar head.

    Args:
        backbone: gives a hidden state for every token, `(B, L, D)`.
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

    def after(self, ids: Tensor, places: Tensor, candidates: Tensor) -> Tensor:
        """Rewards of texts cut off at many places, each with many next tokens, in one pass.

        Args:
            ids: `(B, L)`; what lies behind a text's last place may be padding.
            places: the last token of each prefix, `(B, P)`.
            candidates: tokens that may follow there, `(B, P, k)`.

        Returns:
            `(B, P, k)` float32: entry (b, p, i) is the reward of `ids[b, : places[b, p] + 1]` with its candidate i.
        """
        batch, length = ids.shape
        _, count, k = candidates.shape
        ends = places.repeat_interleave(k, dim=1)  # (B, P k)
        positions = torch.arange(length, device=ids.device).expand(batch, -1)
        own = torch.eye(count * k, dtype=torch.bool, device=ids.device).expand(batch, -1, -1)
        prefix = positions[:, None, :] <= torch.cat([positions, ends], dim=1)[:, :, None]  # (B, L + P k, L)
        branches = torch.cat([torch.zeros_like(own[:, :1]).expand(-1, length, -1), own], dim=1)
        mask = _additive(torch.cat([prefix, branches], dim=2), self._dtype)
        tokens = torch.cat([ids, candidates.flatten(1)], dim=1)
        where = torch.cat([positions, ends + 1], dim=1)
        rewards = self(tokens, attention_mask=mask[:, None], position_ids=where, use_cache=False)
        return rewards[:, length:].view(batch, count, k)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.backbone.parameters()).dtype


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as attention adds it to its scores: 0 where `seen`, far below everything elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def prefix_loss(rewards: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
    """RAD's loss of each text, `(B,)`.

    Args:
        rewards: of the prefixes that end at the 1st, 2nd, .. token, `(B, L)`; behind a text's length is padding.
        lengths, labels: `(B,)`.
    """
    order = torch.arange(1, rewards.shape[1] + 1, device=rewards.device)
    weights = 2 * order / (lengths * (lengths + 1))[:, None] * (order <= lengths[:, None])
    return (weights * (rewards - labels[:, None]) ** 2).sum(1)


def output_embedding(lm: PreTrainedModel) -> Tensor:
    """The matrix that final states are multiplied by for logits, `(V, D)`."""
    return lm.get_output_embeddings().weight.detach()  # type: ignore[union-attr]


def new_teacher(base: Path | str, lora: int = 0) -> tuple[RewardModel, PreTrainedTokenizerBase, str]:
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
def measure(model: RewardModel, rows: Sequence[Labelled], batch_tokens: int = 4096) -> dict[str, float | int]:
    """RAD's loss, and the last token's error, accuracy at 0.5 and area under the ROC curve, on whole texts."""
    losses, last, labels = [], [], []
    for batch in text_batches(rows, batch_tokens, np.random.default_rng(0)):
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
    base: Path | str, attribute: str, data: Path | None, out: Path, config: TeacherConfig | None = None
) -> dict:
    """Train a reward model into `out`, resuming an unfinished run; returns its report, also in `out/teacher.json`.

    The weights that did best on the validation texts, measured after every pass and at the end, are the ones kept.

    Args:
        config: None takes a finished reward model as it is, whatever its settings.
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
            # Dropping the batches that an unfinished pass has seen would need its order; a new one serves as well.
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
                if time.perf_counter() - saved > CHECKPOINT_SECONDS:
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


def load_teacher(base: Path | str, folder: Path, dtype: torch.dtype = torch.float32) -> RewardModel:
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
    """The report of a former run that ended with these settings, and any others."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        same = all(report["made_from"][name] == value for name, value in made_from.items())
        return report if same and (folder / WEIGHTS).is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measure_pairs(
    model: RewardModel, data: Path | None, attribute: str, tokenizer: PreTrainedTokenizerBase, config: TeacherConfig
) -> dict[str, float | int] | None:
    """Measures on the test pairs alone, which differ in nothing but the attribute; None where there are none."""
    if attribute == TOXICITY:
        return None
    source = None if attribute in ATTRIBUTES else data  # those that ship, without unpaired texts
    alone = labelled_texts(source, attribute, "test", tokenizer, config.longest, seed=config.seed)
    return measure(model, alone)


def _save_checkpoint(path: Path, optimizer: MasterAdamW, step: int, spent: float, best: float) -> None:
    tensors = {"progress": torch.tensor([step, spent, best], dtype=torch.float64)}
    for index, master in enumerate(optimizer.masters):
        state = optimizer.inner.state[master]
        tensors |= {f"{index}.master": master} | {f"{index}.{name}": value for name, value in state.items()}
    save_file(tensors, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def _resume(path: Path, optimizer: MasterAdamW) -> tuple[int, float, float]:
    """Steps, seconds and the best validation loss so far, after putting the optimizer where a former run left it."""
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
