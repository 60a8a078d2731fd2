"""Training of anchors: one LoRA adapter per pole of an attribute, through `peft`, on any causal language model.

An anchor learns the texts of its own pole. Of a parallel pair only the continuation counts, since the opening says
nothing of style. The pair's other text is learned from too: the anchor must raise the likelihood of its own text by
more than that of the other one (DPO, Rafailov et al., arXiv 2305.18290, equation 7, per token instead of per text).
What both texts tell of the scene cancels in that difference. Where the base has a chat template, each pair is read in
turn as a text that goes on and as a reply to a request, so that an anchor steers both. Knows nothing of sliders, gates
or generation.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from mixer.adapters.fingerprint import base_fingerprint
from mixer.adapters.peft import CONFIG, WEIGHTS
from mixer.errors import BadArtifact, InvalidValue, UnknownName
from mixer.training.data import ATTRIBUTES, Pair, attributes_with_pairs, find_pairs, split_pairs
from mixer.training.frozen_base import load_base, own_folder, portable_name
from mixer.training.optimizers import MasterAdamW
from mixer.training.training_text import (
    Example,
    TrainingText,
    batches,
    mean_loglikelihoods,
    reply_text,
    score_texts,
    training_text,
    unpaired_texts,
)
from mixer.values.mix import POLES, Pole

REPORT = "training.json"
TEST_PAIRS = 24  # held-out pairs that a report's figures are of
LOG_STEPS = 20  # between two lines of a log
Forms = tuple[TrainingText, ...]  # one text of a pair: going on, and replying
# Tokens of unpaired text for each token of pairs. Sentiment lies in single words, of which the pairs have too few: with
# 0.25, the anchors learn the scenes of the pairs by heart. Humor learns from pairs alone: the unpaired jokes are in
# another register than the pairs, many are in poor taste, and their plain counterpart is news headlines.
UNPAIRED = {"sentiment": 1.0, "formality": 0.25, "politeness": 0.25, "simplicity": 0.25, "humor": 0.0, "poetry": 0.5}

# Factor on an anchor once it is trained. Where a slider turns the text long before its end, the rest of its way only
# makes texts less likely under the base: measured on SmolLM2-135M, see its card.
STRENGTHS = {"formality": 0.6, "poetry": 0.5, "simplicity": 0.55, "excitement": 0.65, "sentiment": 0.75}


@dataclass(frozen=True)
class AnchorConfig:
    """Shape of the adapter and length of its training.

    Attributes:
        lora_alpha: of PEFT: the adapter is scaled by `lora_alpha / rank`; None for twice the rank.
        examples: pairs that an anchor learns from; few pairs are learned several times, in passes of equal length.
        steps: if given, training stops before the last pass ends, or goes through all passes again.
        batch_tokens: of one optimizer step, with padding.
        contrast, beta: weight and sharpness of the loss that tells the two texts of a pair apart.
        unpaired: tokens of unpaired text for each token of pairs, by attribute; only with a data folder.
        strengths: factor on the finished adapter, by attribute; 1 for others.
        longest: tokens of a text.
    """

    rank: int = 2
    lora_alpha: float | None = None
    examples: int = 240
    steps: int | None = None
    lr: float = 1.5e-3
    batch_tokens: int = 1024
    warmup: float = 0.05
    contrast: float = 0.5
    beta: float = 8.0
    unpaired: dict[str, float] = field(default_factory=lambda: dict(UNPAIRED))
    strengths: dict[str, float] = field(default_factory=lambda: dict(STRENGTHS))
    longest: int = 112
    seed: int = 0

    def __post_init__(self) -> None:
        steps = 1 if self.steps is None else self.steps
        if min(self.rank, self.examples, steps, self.batch_tokens, self.longest - 1) < 1:
            raise InvalidValue(
                "rank, examples, steps, batch_tokens and longest must be positive.", "Raise the one that is not."
            )
        if not all(strength > 0 for strength in self.strengths.values()):
            raise InvalidValue("A strength is not above zero.", "Leave out the attributes that are not to be scaled.")
        if not (self.lr > 0 and self.alpha > 0 and self.contrast >= 0 and self.beta > 0):
            raise InvalidValue("lr, lora_alpha and beta must be above zero.", "Raise the one that is not.")

    @property
    def alpha(self) -> float:
        """`lora_alpha`, or what stands for it."""
        return 2.0 * self.rank if self.lora_alpha is None else self.lora_alpha


def batch_loss(model: torch.nn.Module, batch: Sequence[Example], config: AnchorConfig) -> Tensor:
    """Mean loss of a token of the own texts, plus `contrast` times DPO's mean loss of a pair."""
    paired = [example for example in batch if example.other is not None]
    texts = [example.own for example in paired] + [example.other for example in paired if example.other]
    texts += [example.own for example in batch if example.other is None]
    means, counts = mean_loglikelihoods(model, texts)
    n = len(paired)
    own = torch.cat([torch.arange(n), torch.arange(2 * n, len(texts))]).to(means.device)
    loss = -(means[own] * counts[own]).sum() / counts[own].sum()
    if n and config.contrast > 0:
        references = torch.tensor([text.reference for text in texts[: 2 * n]], device=means.device)
        gains = means[: 2 * n] - references
        margins = config.beta * (gains[:n] - gains[n:])
        loss = loss + config.contrast * torch.nn.functional.softplus(-margins).mean()
    return loss


def learn(model: PeftModel, epochs: Sequence[Sequence[Example]], config: AnchorConfig, title: str) -> dict[str, float]:
    """Train the active adapter in place on each epoch's examples; returns tokens, seconds and a running mean loss."""
    rng = np.random.default_rng(config.seed)
    once = (batch for examples in epochs for batch in batches(examples, config.batch_tokens, rng))
    plan = list(once) if config.steps is None else list(islice(cycle(once), config.steps))
    optimizer = MasterAdamW([p for p in model.parameters() if p.requires_grad], config.lr)
    warmup = max(1, round(config.warmup * len(plan)))
    mean, tokens, begin = 0.0, 0, time.perf_counter()
    model.train()
    shown = sys.stderr.isatty()
    with tqdm(plan, desc=title, unit="step", file=sys.stderr, leave=False, disable=not shown) as bar:
        for step, batch in enumerate(bar):
            loss = batch_loss(model, batch, config)
            loss.backward()
            optimizer.step(min((step + 1) / warmup, (len(plan) - step) / (len(plan) - warmup + 1)))
            tokens += sum(len(one.own.ids) + (len(one.other.ids) if one.other else 0) for one in batch)
            if step % 10 == 0:
                mean = loss.item() if step == 0 else 0.8 * mean + 0.2 * loss.item()
                speed = tokens / (time.perf_counter() - begin)
                bar.set_postfix_str(f"loss {mean:.3f} · {speed:,.0f} tokens/s")
                if not shown and step and step % LOG_STEPS == 0:  # a log has no bar
                    left = (time.perf_counter() - begin) * (len(plan) - step - 1) / (step + 1)
                    done = f"step {step}/{len(plan)} · loss {mean:.3f} · {speed:,.0f} tokens/s · {left:.0f} s left"
                    print(f"{title}: {done}", file=sys.stderr, flush=True)
    model.eval()
    return {"tokens": tokens, "seconds": round(time.perf_counter() - begin, 1), "train_loss": round(mean, 4)}


def scale(model: PeftModel, strength: float) -> None:
    """Multiply what the active adapter adds by a factor, through its `lora_alpha`."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.set_scale("default", strength)
    config: Any = model.peft_config["default"]
    config.lora_alpha *= strength


class AnchorTrainer:
    """The base model and what all anchors of one run share. The base is loaded once, and is left as it was.

    Args:
        name: what the anchors' files call the base; see `portable_name` if None.
    """

    def __init__(
        self,
        base: Path | str | None,
        data: Path | None,
        config: AnchorConfig,
        device: str = "auto",
        name: str | None = None,
    ) -> None:
        self.model, self.tokenizer = load_base(base, device)
        self.name, self.fingerprint = name or portable_name(base), base_fingerprint(self.model)
        self.data, self.config = data, config
        self._cached: tuple[str, dict[str, dict[str, list[Forms]]]] = ("", {})
        self._references: dict[tuple[int, ...], float] = {}

    def finished(self, folder: Path, attribute: str) -> dict | None:
        """The report of an anchor that an earlier run finished with the same base, settings and pairs; else None."""
        try:
            report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
            same = report["made_from"] == self._made_from(attribute)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return report if same and (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file() else None

    def train(self, attribute: str, pole: str, out: Path) -> dict:
        """Train one anchor and write it to `out/ATTRIBUTE/POLE`; returns its report, also in `training.json`."""
        config, folder = self.config, out / attribute / pole
        texts = self._pair_texts(attribute)["anchor"]
        own, other = texts[pole], texts[_opposite(pole)]
        if not own:
            raise BadArtifact(f"None of the pairs of {attribute} is in the anchors' split.", "Write more pairs.")
        passes = -(-config.examples // len(own))
        share = config.unpaired.get(attribute, 0.0)
        total = int(share * sum(len(forms[0].ids) for forms in own))
        unpaired = unpaired_texts(
            self.data, attribute, pole, self.tokenizer, total * passes, config.longest, config.seed
        )
        # Each pass sees its pairs in the other form than the pass before, and other unpaired texts.
        size = -(-config.examples // passes)
        epochs = []
        for turn in range(passes):
            at = [(turn * size + i) % len(own) for i in range(size)]
            forms = [(i + turn) % len(own[i]) for i in at]
            learned = [own[i][form] for i, form in zip(at, forms, strict=True)]
            paired = [Example(text) for text in learned]
            if config.contrast > 0:
                others = [other[i][form] for i, form in zip(at, forms, strict=True)]
                paired = list(map(Example, self._with_references(learned), self._with_references(others)))
            epochs.append([*paired, *map(Example, unpaired[turn::passes])])
        torch.manual_seed(zlib.crc32(f"{config.seed}/{attribute}/{pole}".encode()))
        alpha: Any = config.alpha
        lora = LoraConfig(r=config.rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft uses an old name of transformers
            model = get_peft_model(self.model, lora, autocast_adapter_dtype=False)
        try:
            run = learn(model, epochs, config, f"{attribute}.{pole}")
            scale(model, config.strengths.get(attribute, 1.0))
            counts = {"pairs": len(own), "unpaired": len(unpaired)}
            report: dict[str, Any] = run | counts | self._measure(model, attribute, pole)
            self._save(model, folder)
        finally:
            model.unload()
        report["made_from"] = self._made_from(attribute)
        (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n")
        return report

    def _measure(self, model: PeftModel, attribute: str, pole: str) -> dict[str, float | int]:
        """Losses a token on the continuations of the test pairs, and how often the anchor prefers its own pole."""
        test = self._pair_texts(attribute)["test"]
        sides = [
            [forms[i % len(forms)] for i, forms in enumerate(test[side][:TEST_PAIRS])]
            for side in (pole, _opposite(pole))
        ]
        if not sides[0]:
            return {"test_pairs": 0}
        with model.disable_adapter():
            own, other = map(self._with_references, sides)
        gain_own = score_texts(model, own) - [text.reference for text in own]
        gain_other = score_texts(model, other) - [text.reference for text in other]
        base_own, base_other = (float(np.mean([text.reference for text in texts])) for texts in (own, other))
        return {
            "test_pairs": len(own),
            "own_loss_base": round(-base_own, 4),
            "own_loss_anchor": round(-base_own - float(gain_own.mean()), 4),
            "other_loss_base": round(-base_other, 4),
            "other_loss_anchor": round(-base_other - float(gain_other.mean()), 4),
            "pair_accuracy": round(float((gain_own > gain_other).mean()), 4),
        }

    def _pair_texts(self, attribute: str) -> dict[str, dict[str, list[Forms]]]:
        """Texts by split and pole; cached for the attribute's other pole."""
        if self._cached[0] != attribute:
            pairs = find_pairs(self.data, attribute)
            texts = {
                split: {pole: self._texts(split_pairs(pairs, split), pole) for pole in POLES}
                for split in ("anchor", "test")
            }
            self._cached, self._references = (attribute, texts), {}
        return self._cached[1]

    def _texts(self, pairs: list[Pair], pole: str) -> list[Forms]:
        """Each text in every form that the base takes: going on, and replying where it has a chat template."""
        makers = (training_text, reply_text) if self.tokenizer.chat_template else (training_text,)
        longest = self.config.longest
        return [
            tuple(maker(getattr(pair, pole), self.tokenizer, pair.opening, longest) for maker in makers)
            for pair in pairs
        ]

    def _with_references(self, texts: Sequence[TrainingText]) -> list[TrainingText]:
        """The same texts with the base's log-likelihoods, which are kept for the attribute's other pole."""
        new = [text for text in texts if text.ids not in self._references]
        if new:
            self._references |= dict(zip((text.ids for text in new), score_texts(self.model, new), strict=True))
        return [replace(text, reference=float(self._references[text.ids])) for text in texts]

    def _made_from(self, attribute: str) -> dict:
        """What must be equal for a finished anchor not to be trained again."""
        texts = "\n".join(f"{p.opening}|{p.positive}|{p.negative}" for p in find_pairs(self.data, attribute))
        return {
            "base": self.name,
            "base_fingerprint": self.fingerprint,
            "pairs": f"{zlib.crc32(texts.encode()):08x}",
            "unpaired": self.data is not None and (self.data / "attributes" / attribute).is_dir(),
            "config": asdict(self.config),
        }

    def _save(self, model: PeftModel, folder: Path) -> None:
        model.peft_config["default"].base_model_name_or_path = self.name
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        tensors = load_file(folder / WEIGHTS)
        save_file(tensors, folder / WEIGHTS, {"format": "pt", "base_fingerprint": self.fingerprint})


def _opposite(pole: str) -> Pole:
    return "negative" if pole == "positive" else "positive"


def train_anchor(
    base: Path | str | None,
    attribute: str,
    pole: str,
    data: Path | None = None,
    out: Path | None = None,
    config: AnchorConfig | None = None,
    overwrite: bool = False,
) -> dict:
    """Train one anchor; returns its report, or that of an earlier run with the same base, settings and pairs."""
    return train_anchors(base, data, out, config, overwrite, ((attribute, pole),))[f"{attribute}.{pole}"]


def train_anchors(
    base: Path | str | None,
    data: Path | None = None,
    out: Path | None = None,
    config: AnchorConfig | None = None,
    overwrite: bool = False,
    anchors: Sequence[tuple[str, str]] | None = None,
) -> dict[str, dict]:
    """Train all anchors, or those named, one after another; returns their reports by name.

    Finished ones are not trained again, unless `overwrite`.

    Args:
        base: of any causal language model with linear layers; see `mixer.model.shipped_base.find_base`.
        data: a `--data` folder; without it, the training text is the pairs that ship.
        out: the folder of the base's shipped anchors if None.
        anchors: (attribute, pole) each; all of them if None.

    Raises:
        InvalidValue: no anchors are shipped for the base, and `out` is not given.
        UnknownName: there is no such pole, or there are no pairs of the attribute.
        BadArtifact: the base cannot be loaded, or none of the pairs is in the anchors' split.
    """
    anchors = anchors if anchors is not None else [(attribute, pole) for attribute in ATTRIBUTES for pole in POLES]
    for attribute, pole in anchors:
        if pole not in POLES:
            raise UnknownName("pole", pole, POLES)
        if attribute not in attributes_with_pairs(data):
            raise UnknownName("attribute with pairs", attribute, attributes_with_pairs(data))
    out = out or own_folder(base)
    trainer = AnchorTrainer(base, data, config or AnchorConfig())
    reports = {}
    for number, (attribute, pole) in enumerate(anchors, start=1):
        name, folder = f"{attribute}.{pole}", out / attribute / pole
        kept = None if overwrite else trainer.finished(folder, attribute)
        reports[name] = kept or trainer.train(attribute, pole, out)
        report = reports[name]
        done = "kept" if kept else f"{report['seconds']:.0f} s"
        losses = f"own loss {report.get('own_loss_base')} -> {report.get('own_loss_anchor')}"
        print(f"[{number}/{len(anchors)}] {name}: {done}, {losses}", file=sys.stderr)
    return reports
