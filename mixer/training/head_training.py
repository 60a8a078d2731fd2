"""Runs that train reward heads: the samples of prefixes that they need, and the files that they write.

Knows folders and caches; the loss is in `reward_head`, the measures in `head_measures`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixer.adapters.anchor_set import AnchorSet, anchors_fingerprint, load_anchors
from mixer.adapters.fingerprint import base_fingerprint
from mixer.desk import Desk
from mixer.rewards.files import FOLDER, calibration_record, save_reward
from mixer.rewards.heads import Reward
from mixer.rewards.rad import REPORT
from mixer.training.data import ATTRIBUTES, find_pairs
from mixer.training.frozen_base import load_base, portable_name
from mixer.training.head_measures import calibrate, calibrate_scores, fidelity
from mixer.training.labels import LabelledText, Part, labelled_texts, of_part
from mixer.training.prefix_samples import LIKELY, MixedBase, PrefixSamples, collect, written
from mixer.training.reward_head import HeadConfig, Source, fit
from mixer.training.reward_model import load_teacher, output_embedding

MOST_RESPONSES = 6000  # texts
SHARES = {"train": 1.0, "validation": 0.1, "test": 0.15}  # of a config's texts


class HeadTraining:
    """What the heads of one base share: the base with its anchors, texts it wrote, and caches of samples in `work`.

    Args:
        name: what the heads' files call the base; see `portable_name` if None.
        final_only: keep the final states of the samples alone, which is all that a head with `reads: final` learns
            from. All layers' states of a base with a billion weights are some gigabytes.
    """

    def __init__(
        self,
        base: Path | str | None,
        anchors: Path | None,
        data: Path | None,
        work: Path,
        config: HeadConfig,
        name: str | None = None,
        final_only: bool = False,
    ) -> None:
        self.base, self.data, self.work, self.config = base, data, work, config
        self.anchors, self.name, self.final_only = anchors, name or portable_name(base), final_only
        self.lm, self.tokenizer = load_base(base, "cpu")
        found = load_anchors(anchors, self.lm, self.name) if anchors else AnchorSet({}, (), ())
        # Samples are of one base with one set of anchors: those of others must not be taken for them.
        self._made_with = anchors_fingerprint(base_fingerprint(self.lm), found.adapters)[:8]
        self.mixed = MixedBase(self.lm, found, config.seed)
        self.embedding: Tensor = output_embedding(self.lm).float()

    def teacher_folder(self, attribute: str) -> Path:
        """The folder of an attribute's reward model."""
        return self.work / attribute

    def samples(self, attribute: str, part: Part, source: Source) -> PrefixSamples:
        """The prefix samples of one part, from the cache if they were collected before.

        Raises:
            BadArtifact: the source is a reward model, and there is none in `teacher_folder`; or the cache is damaged.
        """
        config = self.config
        states = "-final" if self.final_only else ""
        name = f"{part}-{source}-{config.texts}x{config.a_text}-{config.seed}{states}-{self._made_with}.safetensors"
        path = self.work / attribute / name
        if not path.is_file():
            teacher = None
            if source == "rad":
                teacher = load_teacher(self.base, self.teacher_folder(attribute), torch.bfloat16)
            texts = self.texts(attribute, part, source)
            collect(
                self.mixed, texts, config.a_text, teacher, config.seed, title=path.stem, final_only=self.final_only
            ).save(path)
        return PrefixSamples.load(path)

    def texts(self, attribute: str, part: Part, source: Source = "rad") -> list[LabelledText]:
        """The texts of one part to draw prefixes from.

        For distillation, half are the attribute's own, a quarter other attributes' pairs, a quarter written by the
        base. For responses all are the attribute's own, at most `MOST_RESPONSES`: more texts, since no reward model
        scores them.
        """
        rng = np.random.default_rng([self.config.seed, len(part)])

        def some(texts: list[LabelledText], count: int) -> list[LabelledText]:
            return [texts[i] for i in rng.permutation(len(texts))[:count]]

        own = labelled_texts(self.data, attribute, part, self.tokenizer, seed=self.config.seed)
        if source == "responses":
            return some(own, MOST_RESPONSES)
        total = round(self.config.texts * SHARES[part])
        others = [
            LabelledText(text.ids, float("nan"))
            for name in ATTRIBUTES
            if name != attribute
            for text in labelled_texts(None, name, part, self.tokenizer, seed=self.config.seed)
        ]
        return some(own, total // 2) + some(others, total // 4) + self._written(part, total // 4)

    def _written(self, part: Part, count: int) -> list[LabelledText]:
        """Texts that the base wrote under random mixes, cached in `work` for all attributes."""
        path = self.work / f"written-{part}-{count}-{self._made_with}.json"
        if not path.is_file():
            desk = Desk.load(self.base, self.anchors, device="cpu", strict=False)
            openings = [pair.opening for name in ATTRIBUTES for pair in of_part(find_pairs(None, name), part)]
            prompts = [openings[i % len(openings)] for i in range(count)]
            texts = written(desk, prompts, [self.mixed.random_mix() for _ in prompts], self.config.seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps([text.ids for text in texts]))
        return [LabelledText(tuple(ids), float("nan")) for ids in json.loads(path.read_text())]


def calibrate_teacher(attribute: str, run: HeadTraining) -> dict:
    """Calibrate a trained reward model on the validation samples, unless it is calibrated already.

    Returns:
        its report, in which the calibration is written.
    """
    path = run.teacher_folder(attribute) / REPORT
    report = json.loads(path.read_text(encoding="utf-8"))
    if "calibration" not in report:
        samples = run.samples(attribute, "validation", "rad")
        measured = calibrate_scores(samples.rewards[:, :LIKELY], samples.logprobs[:, :LIKELY])
        report["calibration"] = calibration_record(measured)
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def train_head(attribute: str, run: HeadTraining, out: Path) -> dict:
    """Train, calibrate and measure one head, and write it to `out/ATTRIBUTE/reward/`; returns its report.

    Raises:
        BadArtifact: it is to be distilled, and there is no reward model in `run.work/ATTRIBUTE`.
    """
    config = run.config
    train, validation = (run.samples(attribute, part, config.source) for part in ("train", "validation"))
    head = fit(train, validation, run.embedding, config, attribute)
    reward = Reward(attribute, head, calibrate(head, validation, run.embedding))
    facts: dict[str, Any] = {
        "base": run.name,
        "kind": "arm",
        "source": config.source,
        "places": len(train),
        "config": asdict(config),
    }
    if config.source == "rad":
        facts["held_out"] = fidelity(head, run.samples(attribute, "test", "rad"), run.embedding)
    save_reward(reward, out / attribute / FOLDER, base_fingerprint(run.lm), facts)
    return json.loads((out / attribute / FOLDER / "reward.json").read_text(encoding="utf-8"))
