"""A recipe, run: anchors, reward heads, coupling, control in both forms, and the model card, in this order.

Each part is the one that its own command runs: `train anchors`, `train reward`, `evaluate coupling`, `evaluate control`
and `evaluate card`. This module only joins them, says what each step is made from, and lets go of one part's models
before the next part loads its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixer.adapters.calibration_file import FILE as COUPLING
from mixer.adapters.peft import CONFIG, WEIGHTS
from mixer.errors import BadArtifact, UnknownName
from mixer.judges.linear import OWN_JUDGE
from mixer.measure.card import make_card
from mixer.measure.card_parts import CONTROL, REPLIES, CardFacts
from mixer.measure.control import base_loglikelihoods, control, held_out_prompts, requests
from mixer.measure.coupling import SINGLE_POSITIONS, coupling
from mixer.measure.leak import WAYS
from mixer.model.shipped_base import GET_IT, HUB, SHIPPED, find_base
from mixer.recipe.file import Recipe
from mixer.recipe.progress import KEPT, Held, Progress, Step, digest_files
from mixer.resources import JUDGES, OUTPUTS
from mixer.rewards.files import CONFIG as HEAD
from mixer.rewards.files import FOLDER as REWARD
from mixer.training.anchor import AnchorTrainer
from mixer.training.data import TOXICITY, attributes_with_pairs
from mixer.training.head_training import HeadTraining, calibrate_teacher, train_head
from mixer.training.reward_model import train_teacher
from mixer.values.mix import POLES

if TYPE_CHECKING:
    from mixer.desk import Desk

# Costs in tokens read: a step of training, forward and back, and a generated token, with many texts in a batch.
TRAINED, WRITTEN = 3.0, 3.0
TEXT_TOKENS = 60  # of a text that heads learn from, roughly


def run_recipe(
    recipe: Recipe,
    base: str | Path | None = None,
    out: Path | None = None,
    data: Path | None = None,
    work: Path | None = None,
) -> dict[str, Any]:
    """Run a recipe, or what an earlier run left of it; returns the folder and the record of each step.

    Args:
        base: where the base is loaded from; the recipe's own hub id if None.
        out: the folder of anchors to be; `anchors/NAME` if None.
        data: a `--data` folder; without it the pairs that ship are all that is learned from.
        work: reward models and caches; `runs/recipes/NAME` if None.

    Raises:
        UnknownName: there are no pairs, or for a head no texts, of an attribute.
        MixerError: the base cannot be loaded, or a part of the run cannot be done.
    """
    out = out or OUTPUTS / "anchors" / recipe.name
    begun = time.perf_counter()
    run = _Run(recipe, base, out, data, work or OUTPUTS / "runs" / "recipes" / recipe.name)
    progress = Progress(
        out, {"recipe": recipe.name, "base": recipe.base, "license": recipe.license, "notice": recipe.notice}
    )
    progress.say(f"{recipe.name}: {recipe.base} from {run.source}, into {out}")
    steps = run.steps()
    return {"out": str(out), "steps": progress.run(steps, begun)}


class _Run:
    """The steps of one recipe, with its folders."""

    def __init__(self, recipe: Recipe, base: str | Path | None, out: Path, data: Path | None, work: Path) -> None:
        self.recipe, self.out, self.data, self.work = recipe, out, data, work
        known = attributes_with_pairs(data)
        texts = (*known, TOXICITY) if data is not None and (data / "attributes" / TOXICITY).is_dir() else known
        for names, there in ((recipe.attributes, known), (recipe.head_attributes, texts)):
            for name in names:
                if name not in there:
                    raise UnknownName("attribute with pairs", name, there)
        # The base that ships is in a wheel: its recipe must run without a network.
        self.source = str(base) if base else SHIPPED if recipe.base == HUB else recipe.base
        if not base and find_base(self.source).name != recipe.base:
            raise BadArtifact(f"{recipe.base} is not installed.", f"Get it: `{GET_IT}`, or give --base its folder.")
        self._held = Held()
        trainer = self._trainer()
        self.work = work / trainer.fingerprint[:8]
        self.replies = bool(trainer.tokenizer.chat_template)

    def steps(self) -> list[Step]:
        """All steps, in order."""
        recipe, measure = self.recipe, self.recipe.measure
        anchors = [f"{name}/{pole}" for name in recipe.attributes for pole in POLES]
        found = [
            Step(f"anchor {one.replace('/', '.')}", partial(self._anchor, one), work=self._of_anchor())
            for one in anchors
        ]
        distilled = recipe.heads.source == "rad"
        for name in recipe.head_attributes:
            if distilled:
                minutes = recipe.reward_model.minutes
                found.append(Step(f"reward model {name}", partial(self._teacher, name), seconds=60 * minutes))
            file = self.out / name / REWARD / HEAD
            made_from = partial(self._head_key, name)
            found.append(Step(f"reward head {name}", partial(self._head, name), made_from, (file,), self._of_head()))
        many = len(recipe.attributes)
        each, mixes = measure.coupling, measure.mixes
        texts = (len(SINGLE_POSITIONS) * many + 1 + mixes[0]) * each[0] + mixes[1] * each[1]
        texts += (len(WAYS) * 4 * many + 1) * each[2]
        cost = WRITTEN * measure.tokens
        if many > 1:
            files = (self.out / COUPLING,)
            found.append(Step("coupling", self._coupling, self._key(coupling=each, mixes=mixes), files, texts * cost))
        forms = {"control": (CONTROL, held_out_prompts), "control of replies": (REPLIES, requests)}
        for title, (file, prompts) in forms.items():
            if prompts is held_out_prompts or self.replies:
                path, work = self.out / file, (2 * many + 1) * measure.prompts * cost
                run = partial(self._control, path, prompts)
                found.append(Step(title, run, self._key(prompts=measure.prompts), (path,), work))
        found.append(Step("model card", self._card, work=30 * 60 * WRITTEN))
        return found

    # Each part's models

    def _trainer(self) -> AnchorTrainer:
        make = partial(AnchorTrainer, self.source, self.data, self.recipe.anchors, name=self.recipe.base)
        return self._held.get("anchors", make)

    def _heads(self) -> HeadTraining:
        recipe = self.recipe
        final = recipe.heads.reads == "final"
        return self._held.get(
            "heads",
            lambda: HeadTraining(self.source, self.out, self.data, self.work, recipe.heads, recipe.base, final),
        )

    def _measured(self) -> tuple[Desk, Any]:
        """The desk, and the base's likelihoods for perplexities."""
        from mixer.desk import Desk

        def make() -> tuple[Desk, Any]:
            desk = Desk.load(self.source, self.out, strict=False)
            for problem in desk.problems:
                print(problem, file=sys.stderr)
            return desk, base_loglikelihoods(self.source)

        return self._held.get("desk", make)

    # What a step is made from

    def _key(self, **settings: Any) -> Callable[[], Mapping[str, Any]]:
        """For a measure: its settings, and the anchors and judges that it is of."""
        measure = self.recipe.measure
        return lambda: {
            "anchors": self._anchor_files(),
            "judges": digest_files(sorted((*JUDGES.glob("*.safetensors"), *self.out.glob(f"*/{OWN_JUDGE}")))),
            "tokens": measure.tokens,
            "seed": measure.seed,
            **settings,
        }

    def _head_key(self, name: str) -> Mapping[str, Any]:
        recipe = self.recipe
        teacher = asdict(recipe.reward_model) if recipe.heads.source == "rad" else None
        return {
            "anchors": self._anchor_files(),
            "config": asdict(recipe.heads),
            "reward_model": teacher,
            "data": self.data is not None,
        }

    def _anchor_files(self) -> str:
        return digest_files(sorted(path for name in (CONFIG, WEIGHTS) for path in self.out.glob(f"*/*/{name}")))

    # What each step costs, roughly

    def _of_anchor(self) -> float:
        config = self.recipe.anchors
        return TRAINED * config.examples * config.longest * 0.6 * (2 if config.contrast else 1)

    def _of_head(self) -> float:
        config = self.recipe.heads
        read = TEXT_TOKENS + (26 * config.a_text if config.source == "rad" else 0)
        return 1.25 * config.texts * (read + WRITTEN * TEXT_TOKENS / 4)

    # The steps themselves

    def _anchor(self, name: str) -> str:
        attribute, pole = name.split("/")
        trainer = self._trainer()
        if trainer.finished(self.out / attribute / pole, attribute):
            return KEPT
        report = trainer.train(attribute, pole, self.out)
        return f"loss of its own pole {report.get('own_loss_base')} -> {report.get('own_loss_anchor')}"

    def _teacher(self, name: str) -> str:
        run, config = self._heads(), self.recipe.reward_model
        report = train_teacher(self.source, name, self.data, run.teacher_folder(name), config)
        calibrate_teacher(name, run)
        return f"accuracy on test texts {report['test']['accuracy']}"

    def _head(self, name: str) -> str:
        report = train_head(name, self._heads(), self.out)
        held_out = report.get("held_out")
        return f"{report['places']} places" + (f", centred R² {held_out['centred_r2']}" if held_out else "")

    def _coupling(self) -> str:
        desk, loglikelihoods = self._measured()
        measure = self.recipe.measure
        report = coupling(
            desk,
            each=measure.coupling,
            mixes=measure.mixes,
            tokens=measure.tokens,
            seed=measure.seed,
            loglikelihoods=loglikelihoods,
        )
        report.save(desk, self.out)
        self._held.let_go()  # the card is to be of a desk that has the calibration
        plain, decoupled = report.wholes
        return f"leak {plain.leaks} plain, {decoupled.leaks} decoupled"

    def _control(self, path: Path, prompts: Callable[..., Any]) -> str:
        desk, loglikelihoods = self._measured()
        measure = self.recipe.measure
        report = control(
            desk,
            prompts(count=measure.prompts),
            tokens=measure.tokens,
            seed=measure.seed,
            loglikelihoods=loglikelihoods,
        )
        path.write_text(report.to_json() + "\n", encoding="utf-8")
        passed = sum(one.passed for one in report.reaches)
        return f"{passed} of {len(report.reaches)} attributes reach the difference"

    def _card(self) -> str:
        desk, _ = self._measured()
        facts = CardFacts(self.recipe.base, self.recipe.license, self.recipe.notice, self.recipe.name)
        return str(make_card(desk, facts, self.out, JUDGES, out=self.out).name)
