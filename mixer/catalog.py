"""What formulas on a desk can name: anchors and attributes, judges, and further base models. Knows no sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixer.adapters.anchor_set import AnchorSet
from mixer.decoding.opinions import OpinionSource
from mixer.decoding.prompted import BranchPrompt, PromptedFormula
from mixer.decoding.text import encode_branch, encode_prompt
from mixer.errors import InvalidValue, Unsupported
from mixer.formula.bind import BoundFormula, Branch, JudgeGoal, Vocabulary
from mixer.formula.tree import is_name
from mixer.judges.classifier import load_classifier
from mixer.judges.features import Words
from mixer.judges.linear import Judges
from mixer.model.base import load_base
from mixer.model.model import Model
from mixer.model.shipped_base import find_base
from mixer.rewards.controller import RewardController
from mixer.rewards.rad import load_rad
from mixer.values.chat import Prompt
from mixer.values.mix import Attribute

PROBE = "The 3 Müllers'\\n\\n  don't—say: “hello”…"


class Catalog:
    """The names of one desk.

    Args:
        model: the resident base with its anchors.
        judges: None where none are loaded.
        controller: the reward heads.
    """

    def __init__(
        self,
        model: Model,
        attributes: Mapping[str, Attribute],
        judges: Judges | None,
        controller: RewardController,
    ) -> None:
        self._model, self._attributes, self.controller = model, attributes, controller
        self._judges = judges or Judges({}, Words({}, np.zeros((0, 0), np.float32)))
        self._models: dict[str, Model] = {}

    @property
    def vocabulary(self) -> Vocabulary:
        """All names."""
        judges = self._judges
        labels = {label: JudgeGoal(*opinion) for label, opinion in judges.labels.items()}
        return Vocabulary(self._attributes, judges.names, self.controller.names, tuple(self._models), labels)

    def add_model(self, name: str, source: str | Path) -> None:
        """Load another base model, on the device of the first.

        Args:
            source: folder or hub id of a causal LM with the same tokenizer.

        Raises:
            InvalidValue: the name is taken, or cannot be written in a formula. BadArtifact: it cannot be loaded.
            Unsupported: it has another tokenizer.
        """
        _new(name, self._models)
        own = self._model
        lm, tokenizer = load_base(find_base(source).source, own.device, own.dtype)
        differs = _difference(own, lm, tokenizer)
        if differs:
            raise Unsupported(
                f"{source} does not share the resident base's tokenizer: {differs}.",
                "A formula adds up probabilities token by token: use models of one family.",
            )
        self._models[name] = Model(lm, tokenizer, AnchorSet({}, (), ()), native=own.wants_native)

    def add_judge(self, name: str, source: str | Path, label: str | int | None = None) -> None:
        """Load a `transformers` sequence classifier.

        Args:
            source: folder or hub id.
            label: which of its labels is the one to score; may be left out where there is one, or two (the second).

        Raises:
            InvalidValue: the name is taken, or cannot be written in a formula. BadArtifact: it cannot be loaded.
            UnknownName: it has no such label.
        """
        _new(name, self.vocabulary.judge_labels)
        self._judges.add(name, load_classifier(source, label, str(self._model.device)))

    def add_reward(self, name: str, folder: str | Path) -> None:
        """Load a trained reward model, which steers as a head does, and takes a pass of its own for every token.

        Args:
            folder: as `train reward --kind rad` made it for this base.

        Raises:
            InvalidValue: the name is taken, or cannot be written in a formula. BadArtifact: it cannot be loaded.
        """
        _new(name, self.controller.names)
        model = self._model
        self.controller.models[name] = load_rad(model.lm, Path(folder), native=model.wants_native)

    def prompted(self, bound: BoundFormula, more: Iterable[Branch], prompt: Prompt) -> PromptedFormula:
        """A formula on a prompt, with what each of its branches reads before the text.

        Args:
            more: branches to compute besides the formula's own: a draft's, or the base that a budget counts from.

        Raises:
            InvalidValue: the prompt is empty or does not fit. Unsupported: see `mixer.decoding.text.encode_prompt`.
        """
        own = self._model
        models = {row: self._models[row.model] if row.model else own for row in (*bound.branches, *more)}
        branch_prompts = tuple(
            BranchPrompt(row, model, tuple(encode_branch(model, row, prompt))) for row, model in models.items()
        )
        ids = tuple(encode_prompt(own, prompt))
        # Judges read what a text goes on from, but not what a reply replies to.
        before = prompt if isinstance(prompt, str) else ""
        opinions = OpinionSource(self._judges, self.controller, own.backend_tokenizer, before, ids)
        return PromptedFormula(own, prompt, ids, bound, branch_prompts, self.controller, opinions)


def _new(name: str, taken: Iterable[str]) -> None:
    if name in taken or not is_name(name):
        raise InvalidValue(f"{name!r} is taken, or no name.", "Give a new one of letters, digits and underscores.")


def _difference(own: Model, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """How another model's tokenizer differs; empty where it is the same."""
    ours, theirs = own.tokenizer.get_vocab(), tokenizer.get_vocab()
    if ours != theirs:
        odd = next((token for token in ours if theirs.get(token) != ours[token]), None)
        return f"it has {len(theirs):,} tokens, not {len(ours):,}" if odd is None else f"{odd!r} is another token there"
    outputs = int(lm.get_output_embeddings().weight.shape[0])  # type: ignore[union-attr]
    if outputs < own.vocab:
        return f"it has {outputs:,} outputs, not {own.vocab:,}"
    return "" if tokenizer(PROBE).input_ids == own.tokenizer(PROBE).input_ids else "it cuts text in other places"
