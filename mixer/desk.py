"""The desk: one resident model, its anchors and judges, and every way of writing text with them.

The one class that programs and doors need. Knows nothing of pages, command lines or training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixer.adapters.anchor_set import AnchorSet
from mixer.catalog import Catalog
from mixer.decoding.lockstep import in_batches
from mixer.decoding.reference import first_logprobs
from mixer.decoding.replay import Replay
from mixer.decoding.scheduler import Scheduler
from mixer.decoding.session import Session
from mixer.decoding.speculation import Speculation
from mixer.decoding.steps import OnMixChange, Segment, Stats, Step
from mixer.errors import InvalidValue, UnknownName, Unsupported
from mixer.formula.bind import BASE as BASE_ROW
from mixer.formula.bind import BoundFormula, Vocabulary, bind
from mixer.formula.compile import CompiledFormula, compile_formula
from mixer.formula.tree import Formula, Part, Term
from mixer.judges.linear import Judges
from mixer.loader import load_extras, load_resident
from mixer.model.auto_fold import AutoFold
from mixer.model.base import DeviceMap, is_quantized
from mixer.model.model import SCRATCH, Model
from mixer.rewards.controller import RewardController
from mixer.rewards.heads import Reward
from mixer.values.bounds import bounded
from mixer.values.chat import Conversation, Messages, Prompt
from mixer.values.mix import Attribute, Mix, MixRule, Setting
from mixer.values.request import Request
from mixer.values.sampling import SamplingParams
from mixer.values.steering import REST, Steering

BATCH_ROWS = 32
SLIDERS, BASE_ALONE = (bind(Formula(Term((Part(1.0, name),))), Vocabulary()) for name in ("sliders", "base"))
Draft = Literal["auto", "off", "ngram", "base"]


@dataclass(frozen=True)
class Output:
    """A finished text, without its prompt."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None
    seed: int
    stats: Stats


class Desk:
    """A loaded desk; make one with `Desk.load`.

    Attributes:
        attributes: name -> `Attribute`, one slider each.
        anchors: names of all anchors in coefficient order, such as `formality.positive`.
        anchor_set: the anchors with their tensors.
        context: most tokens that prompt and text together can have.
        name: what the base model is called.
        quantized: the scheme of the base's weights, such as `nf4` or `int8`; None if they are plain numbers.
        judges: the judges that score texts; None where none are loaded.
        problems: what could not be loaded and why; empty when loaded strictly.
        notes: what a person should know of what was loaded, one sentence each.
        model: the resident model: base, tokenizer and anchors, with the backend that computes.
        catalog: what formulas can name here.
        auto_fold: folds mixes into the weights where that pays.
        scheduler: runs the sessions. Another one may be put in its place while no session runs.
    """

    def __init__(
        self,
        model: Model,
        anchors: AnchorSet,
        judges: Judges | None,
        name: str,
        problems: Sequence[str] = (),
        auto_fold: bool = True,
        rewards: Mapping[str, Reward] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.model, self.judges = model, judges
        self.auto_fold = AutoFold(model.backend, SCRATCH)
        self.scheduler = Scheduler(model, fold=self.auto_fold if auto_fold and not is_quantized(model.lm) else None)
        self.anchor_set = anchors
        self.attributes: Mapping[str, Attribute] = MappingProxyType(dict(anchors.attributes))
        self.anchors, self.context, self.name = model.anchors, model.context, name
        self.quantized = is_quantized(model.lm)
        self.problems, self.notes = tuple(problems), tuple(notes)
        controller = RewardController(rewards or {}, model.embedding)
        model.backend.put_heads([(reward.head.down, reward.head.up) for reward in controller.heads.values()])
        self.catalog = Catalog(model, self.attributes, judges, controller)

    @classmethod
    def load(
        cls,
        base: str | Path | None = None,
        anchors: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        judges: str | Path | None = None,
        strict: bool = True,
        any_base: bool = False,
        native: bool = True,
        auto_fold: bool = True,
        quantize: str | None = None,
        device_map: DeviceMap | None = None,
    ) -> Desk:
        """Load a base model and its anchors.

        Args:
            base: folder or hub id of a causal LM, a `.gguf` file, or `tiny` for the embedded model. If None, SmolLM2
                where its wheel is installed or the hub can be reached; else the embedded model.
            anchors: folder or hub id; the anchors that are shipped for this base if None.
            device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
            dtype: `auto`, `float32`, `bfloat16`, `float16`; `auto` is float32 on a CPU where nothing is quantized.
            judges: folder of judges; the shipped ones, if they are there, if None.
            strict: raise for an anchor or judge that cannot be used; otherwise leave it out and say so in `problems`.
            any_base: admit adapters whose files name another base, as long as their shapes fit.
            native: use the compiled forward pass where it can run the base: Llama-shaped models on a CPU.
            auto_fold: fold a mix into the weights where all texts share it and it pays. That rounds differently, by
                some 1e-5; without it a text is the same bit for bit in any company.
            quantize: `nf4` or `int8`, through bitsandbytes; None for the base's weights as they are stored.
            device_map: `auto`, `balanced`, `balanced_low_0`, `sequential` or a dict, in place of `device`: accelerate
                spreads the base over several devices.

        Raises:
            MixerError: the base cannot be loaded, or, if strict, anything else cannot.
        """
        found = load_resident(base, device, dtype, quantize, device_map)
        extras = load_extras(found, anchors, judges, any_base)
        if strict and extras.problems:
            raise extras.problems[0]
        return cls(
            Model(found.lm, found.tokenizer, extras.anchors, native),
            extras.anchors,
            extras.judges,
            found.source.shown,
            [str(problem) for problem in extras.problems],
            auto_fold,
            extras.rewards,
            extras.notes,
        )

    @property
    def base_model(self) -> PreTrainedModel:
        """The resident base as `transformers` loaded it; to be read, never written."""
        return self.model.lm

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer."""
        return self.model.tokenizer

    def mix(
        self,
        positions: Mapping[str, float] | None = None,
        *,
        lambdas: Mapping[str, float] | None = None,
        rule: MixRule = "offset",
        **more: float,
    ) -> Mix:
        """A mix by slider positions: -1 the negative pole, 1 the positive one; attributes not named are at rest.

        Raises:
            UnknownName: there is no such attribute or rule. InvalidValue: a position is no finite number in [-3, 3].
        """
        settings = {}
        for attribute, position in {**(positions or {}), **more}.items():
            self._know(attribute)
            settings[attribute] = Setting.at(position, (lambdas or {}).get(attribute, 1.0))
        for attribute in lambdas or {}:
            if attribute not in settings:
                self._know(attribute)
                raise InvalidValue(f"{attribute} has a lambda but no position.", "Give it a position too.")
        return Mix(settings, rule)

    def mix_from_coefficients(self, coefficients: Mapping[str, float]) -> Mix:
        """A mix by raw anchor coefficients, such as `{"formality.positive": 1.3}`.

        Raises:
            UnknownName: there is no such anchor. InvalidValue: a coefficient is no finite number in [-100, 100].
        """
        mix = Mix(raw={name: bounded(name, value, -100, 100) for name, value in coefficients.items()})
        mix.coefficients(self.anchors)
        return mix

    @property
    def vocabulary(self) -> Vocabulary:
        """The names that formulas may use."""
        return self.catalog.vocabulary

    def formula(self, text: str) -> CompiledFormula:
        """Read a formula, such as `base - 0.96*union(base, [rude])`; it says what it will do, and runs nothing.

        Raises:
            FormulaError: it cannot be read, or names what is not loaded; with line and column.
        """
        return compile_formula(text, self.vocabulary)

    def add_model(self, name: str, source: str | Path) -> None:
        """Load another base that formulas may use, as `[base, model=name]`; see `Catalog.add_model`."""
        self.catalog.add_model(name, source)

    def add_judge(self, name: str, source: str | Path, label: str | int | None = None) -> None:
        """Load a `transformers` sequence classifier as a judge for formulas; see `Catalog.add_judge`."""
        self.catalog.add_judge(name, source, label)

    def add_reward(self, name: str, folder: str | Path) -> None:
        """Load a trained reward model for steering and for formulas; see `Catalog.add_reward`."""
        self.catalog.add_reward(name, folder)

    @property
    def rewards(self) -> tuple[str, ...]:
        """The rewards that may steer: heads beside the anchors, and what `add_reward` loaded."""
        return self.catalog.controller.names

    def logprobs(
        self,
        prompt: Prompt,
        mix: Mix | None = None,
        formula: str | CompiledFormula | None = None,
        steering: Steering | None = None,
    ) -> Tensor:
        """The exact next-token log-probabilities, `(V,)` float32 on the CPU: temperature 1, no truncation.

        Raises:
            InvalidValue: the prompt is empty or does not fit. UnknownName: the mix names an unknown anchor.
            FormulaError: see `formula`; or its weights come to nothing here.
        """
        return first_logprobs(self.session(prompt, mix, formula=formula, steering=steering)).cpu()

    def session(
        self,
        prompt: Prompt,
        mix: Mix | None = None,
        params: SamplingParams | None = None,
        on_mix_change: OnMixChange = "keep",
        formula: str | CompiledFormula | None = None,
        draft: Draft = "auto",
        steering: Steering | None = None,
    ) -> Session:
        """A text about to be written, whose mix can be moved while it streams.

        Args:
            prompt: how the text begins, or a conversation to reply to; see `chat_session`.
            on_mix_change: `keep` the cache (no delay, an approximation, steps say `exact=False`), `refill` it (the next
                token is exact), or `restart` the text.
            formula: what to write by, as text or compiled by `formula`; `sliders`, the mix itself, if None.
            draft: who guesses tokens ahead, which changes the speed and no text: `auto` the formula's `supersede`,
                `ngram` what followed the same words before, `base` the base model, `off` nobody.
            steering: how rewards steer; may be moved too while the text streams.

        Raises:
            InvalidValue: the prompt is empty or does not fit, or rewards cannot steer this formula. UnknownName: the
                mix names an unknown anchor, or the steering an unknown reward. FormulaError: see `formula`.
        """
        if draft not in get_args(Draft):
            raise UnknownName("draft", str(draft), get_args(Draft))
        bound = self._bound(formula)
        steering = steering or REST
        guesser = BASE_ALONE if draft == "base" else bound.draft if draft == "auto" else None
        speculation = Speculation(guesser) if guesser or draft == "ngram" else None
        more = (*(guesser.branches if guesser else ()), *((BASE_ROW,) if steering.whole else ()))
        prompted = self.catalog.prompted(bound, more, prompt)
        params = params or SamplingParams()
        return Session(prompted, mix or Mix(), params, on_mix_change, self.scheduler, steering, speculation)

    def replay(
        self,
        prompt: Prompt,
        segments: Sequence[Segment],
        params: SamplingParams | None = None,
        formula: str | CompiledFormula | None = None,
    ) -> Replay:
        """A session that goes through a given text, such as another one's `segments`.

        Raises:
            InvalidValue: see `Replay`. And as for `session`.
        """
        more = (BASE_ROW,) if any(segment.steering.whole for segment in segments) else ()
        prompted = self.catalog.prompted(self._bound(formula), more, prompt)
        return Replay(segments, prompted, params or SamplingParams(), self.scheduler)

    def _bound(self, formula: str | CompiledFormula | None) -> BoundFormula:
        if formula is None:
            return SLIDERS
        return formula.bound if isinstance(formula, CompiledFormula) else self.formula(formula).bound

    def lockstep(self, *sessions: Session) -> Iterator[tuple[Step | None, ...]]:
        """Run sessions together, one step each at a time; see `Scheduler.run`."""
        return self.scheduler.run(*sessions)

    def stream(
        self,
        prompt: Prompt,
        mix: Mix | None = None,
        params: SamplingParams | None = None,
        formula: str | CompiledFormula | None = None,
        steering: Steering | None = None,
    ) -> Iterator[Step]:
        """The steps of one text under one mix."""
        return iter(self.session(prompt, mix, params, formula=formula, steering=steering))

    def generate(
        self,
        prompt: Prompt,
        mix: Mix | None = None,
        params: SamplingParams | None = None,
        formula: str | CompiledFormula | None = None,
        steering: Steering | None = None,
    ) -> Output:
        """Write one text under one mix."""
        return self._finished([self.session(prompt, mix, params, formula=formula, steering=steering)])[0]

    def chat_session(self, messages: Messages, *args: Any, **options: Any) -> Session:
        """A reply about to be written; arguments as in `session`.

        Args:
            messages: `{"role": "system" | "user" | "assistant", "content": ...}` each, or what the user says.

        Raises:
            Unsupported: there is no chat template. InvalidValue: these are no messages. And as for `session`.
        """
        return self.session(Conversation.of(messages), *args, **options)

    def chat(self, messages: Messages, *args: Any, **options: Any) -> Output:
        """Write one reply under one mix; messages as in `chat_session`, other arguments as in `generate`."""
        return self.generate(Conversation.of(messages), *args, **options)

    def generate_batch(self, requests: Sequence[Request]) -> list[Output]:
        """Write many texts, each under its own mix, up to 32 rows a batch; results in the order of the requests."""
        return self._finished(
            [self.session(r.prompt, r.mix, r.params, formula=r.formula, steering=r.steering) for r in requests]
        )

    def _finished(self, sessions: Sequence[Session]) -> list[Output]:
        """Run sessions to their ends."""
        for batch in in_batches(sessions, BATCH_ROWS):
            for _ in self.lockstep(*batch):
                pass
        return [Output(s.text, tuple(s.token_ids), s.finish_reason, s.seed, s.stats) for s in sessions]

    def warm_up(self) -> None:
        """Write two tokens, so that nobody's first text waits for what has to be compiled.

        On a machine's first start that takes up to half a minute; the result is kept on disk.
        """
        steering = Steering(dict.fromkeys(self.rewards[:1], 1.0))
        for _ in self.session(".", params=SamplingParams(max_new_tokens=2), steering=steering):
            pass

    def fold(self, mix: Mix) -> None:
        """Fold a mix into the weights until `unfold`: texts under it run as fast as the base, others on the difference.

        Exact but for rounding; the base's own weights stay as they are. Acts on the next step of what is being written.

        Raises:
            Unsupported: the base is quantized, so that a small delta would be lost in rounding.
        """
        if self.quantized:
            raise Unsupported(
                f"The base is quantized ({self.quantized}): folded into its weights, a mix would be lost in rounding.",
                "Leave it to the gate, which is exact, or load the base without quantization.",
            )
        coefficients = mix.coefficients(self.anchors)
        with self.model.lock:
            self.auto_fold.by_hand = True
            self.model.backend.fold(coefficients)

    def unfold(self) -> None:
        """Go back to the base's own weights."""
        with self.model.lock:
            self.auto_fold.by_hand = False
            self.model.backend.fold((0.0,) * len(self.anchors))

    @property
    def folded(self) -> Mix | None:
        """The mix that is folded into the weights, by hand or because it pays."""
        coefficients = dict(zip(self.anchors, self.model.backend.gate.folded, strict=True))
        return Mix(raw=coefficients) if any(coefficients.values()) else None

    def scores(self, text: str) -> dict[str, float]:
        """What each judge makes of a text, attribute -> score in [0, 1]; empty if no judges are loaded."""
        return self.judges.scores(text) if self.judges else {}

    def _know(self, attribute: str) -> None:
        if attribute not in self.attributes:
            raise UnknownName("attribute", str(attribute), self.attributes)
