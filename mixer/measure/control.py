"""Control: how much each slider changes the judge's score of the texts, their perplexity, and their variety.

The same prompts are continued, or replied to, with the same seeds at every position of one slider, while all others
rest. The texts are scored without their prompts. Prompts are openings of test pairs, so no anchor and no judge was
trained on them. Both texts of a pair begin with its opening, so an opening favors neither pole. This module knows
nothing of how texts or judges are made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mixer.errors import InvalidValue, UnknownName
from mixer.model.chat_template import chat_ids, plain_ids
from mixer.training.data import ATTRIBUTES, find_pairs, split_pairs
from mixer.values.chat import Conversation, Prompt
from mixer.values.mix import MixRule
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.desk import Desk
    from mixer.measure.outside_judges import OutsideJudges

PASS_DIFFERENCE = 0.3  # least difference between the judge's mean scores at the poles
# Takes prompts and texts. Gives each text's mean log-likelihood per token after its prompt, under the base model, (N,).
LogLikelihoods = Callable[[Sequence[Prompt], Sequence[str]], np.ndarray]
TASKS = ("Describe", "Write a few sentences about", "Tell me a very short story about")
TOPICS = (
    *("the sea", "a rainy morning", "my grandmother's kitchen", "a lost dog", "the night train", "an old bridge"),
    *("the first day of school", "a storm", "a market in summer", "the moon", "a broken clock", "a walk in the woods"),
    *("a letter from a friend", "the last day of the holidays", "a small garden", "a knock at the door"),
)


@dataclass(frozen=True)
class PositionScore:
    """The judge's mean score for one attribute at one slider position.

    Attributes:
        error: standard error of the score over prompts.
        perplexity: of the texts under the base model; None if it was not measured.
        distinct: distinct word pairs divided by all word pairs, averaged over texts.
    """

    attribute: str
    position: float
    score: float
    error: float
    perplexity: float | None
    distinct: float


@dataclass(frozen=True)
class PoleDifference:
    """Mean difference of an attribute's scores at the highest and the lowest position, with its standard error.

    Each difference is between two texts of the same prompt and seed.
    """

    attribute: str
    difference: float
    error: float

    @property
    def passed(self) -> bool:
        """Whether the difference is at least `PASS_DIFFERENCE`."""
        return self.difference >= PASS_DIFFERENCE


@dataclass(frozen=True)
class ControlReport:
    """Scores of all attributes at all positions, and the settings of the measurement.

    Attributes:
        prompts: number of prompts.
        tokens: most tokens of a text.
        dtype: of the desk that wrote the texts.
        outside: accuracy of the outside judges that gave the scores; None where the desk's own judges did.
    """

    prompts: int
    tokens: int
    seed: int
    temperature: float
    top_p: float
    measures: tuple[PositionScore, ...]
    reaches: tuple[PoleDifference, ...]
    rule: MixRule = "offset"
    outside: Mapping[str, float] | None = None
    dtype: str = "float32"

    def table(self) -> str:
        """A markdown table with a row for each attribute: score (perplexity under the base) at each position."""
        positions = sorted({m.position for m in self.measures})
        head = [f"at {position:+g}" if position else "at 0" for position in positions]
        lines = [
            f"| attribute | {' | '.join(head)} | difference | reaches {PASS_DIFFERENCE} |",
            "|---" * (len(head) + 3) + "|",
        ]
        for reach in self.reaches:
            cells = {m.position: m for m in self.measures if m.attribute == reach.attribute}
            shown = [_cell(cells[position]) for position in positions]
            verdict = "yes" if reach.passed else "no"
            change = f"{reach.difference:.2f} ± {reach.error:.2f}"
            lines.append(f"| {reach.attribute} | {' | '.join(shown)} | {change} | {verdict} |")
        return "\n".join(lines)

    def to_json(self) -> str:
        """The report as JSON, with `passed`: whether all attributes passed."""
        return json.dumps(asdict(self) | {"passed": all(r.passed for r in self.reaches)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> ControlReport:
        """The report that `to_json` wrote."""
        record = json.loads(text)
        record.pop("passed", None)
        record["measures"] = tuple(PositionScore(**m) for m in record["measures"])
        record["reaches"] = tuple(PoleDifference(**r) for r in record["reaches"])
        return cls(**record)


def _cell(measured: PositionScore) -> str:
    score = f"{measured.score:.2f} ± {measured.error:.2f}"
    return score if measured.perplexity is None else f"{score} ({measured.perplexity:.0f})"


def held_out_prompts(data: Path | None = None, count: int = 50) -> tuple[str, ...]:
    """At most `count` different openings of test pairs: the first of every attribute, then the second, and so on.

    Args:
        data: folder of the pairs; the shipped ones if None.
    """
    openings = [[p.opening for p in split_pairs(find_pairs(data, a), "test")] for a in ATTRIBUTES]
    in_turn = [o for turn in range(max(map(len, openings))) for column in openings for o in column[turn : turn + 1]]
    return tuple(dict.fromkeys(in_turn))[:count]


def requests(count: int = 48) -> tuple[Conversation, ...]:
    """At most `count` requests to reply to: none names a style, and none has the form of a request of the training."""
    asked = (f"{task} {topic}." for topic in TOPICS for task in TASKS)
    return tuple(Conversation.of(text) for text in asked)[:count]


def base_loglikelihoods(base: Path | str | None) -> LogLikelihoods:
    """A function for the mean log-likelihood per token of texts after their prompts, under a base without anchors."""
    from mixer.training.frozen_base import load_base
    from mixer.training.training_text import TrainingText, score_texts, training_text

    model, tokenizer = load_base(base)
    longest = min(1024, getattr(model.config, "max_position_embeddings", 1024))

    def joined(prompt: Prompt, text: str) -> TrainingText:
        if isinstance(prompt, str):
            return training_text(prompt + text, tokenizer, prompt, longest)
        before = chat_ids(tokenizer, prompt)
        return TrainingText((*before, *plain_ids(tokenizer, text))[:longest], len(before))

    def measure(prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        return score_texts(model, [joined(*one) for one in zip(prompts, texts, strict=True)])

    return measure


def control(
    desk: Desk,
    prompts: Sequence[Prompt] | None = None,
    attributes: Sequence[str] | None = None,
    positions: Sequence[float] = (-1.0, 0.0, 1.0),
    tokens: int = 60,
    seed: int = 7,
    temperature: float = 0.8,
    top_p: float = 0.95,
    rule: MixRule = "offset",
    loglikelihoods: LogLikelihoods | None = None,
    outside: OutsideJudges | None = None,
) -> ControlReport:
    """Measure every attribute's scores at every position.

    Args:
        prompts: `held_out_prompts()` if None; conversations, such as `requests()`, are replied to.
        attributes: all attributes of the desk that have a judge, if None.
        seed: prompt i is continued with seed `seed + i` at every position.
        loglikelihoods: `base_loglikelihoods(base)` for perplexities, which need a second pass over the texts.
        outside: judges to score by in place of the desk's.

    Raises:
        UnknownName: the desk has no such attribute, or no judge for it.
        InvalidValue: there are no prompts, no attributes, or fewer than two positions.
    """
    from mixer.values.request import Request

    prompts = tuple(held_out_prompts() if prompts is None else prompts)
    judge = outside or desk.scores
    judged = set(judge("A text."))
    attributes = tuple(a for a in desk.attributes if a in judged) if attributes is None else tuple(attributes)
    for attribute in attributes:
        if attribute not in desk.attributes or attribute not in judged:
            raise UnknownName("attribute with anchors and a judge", attribute, judged & desk.attributes.keys())
    if not prompts or not attributes or len(set(positions)) < 2:
        raise InvalidValue("There is nothing to measure.", "Give prompts, an attribute with a judge and two positions.")

    measures, reaches, at_rest = [], [], None
    with tqdm(total=len(attributes) * len(positions), unit="position", file=sys.stderr) as bar:
        for attribute in attributes:
            scores = {}
            for position in sorted(set(positions)):
                bar.set_description(f"{attribute} {position:+g}")
                if position or at_rest is None or rule == "interpolate":
                    params = [
                        SamplingParams(max_new_tokens=tokens, temperature=temperature, top_p=top_p, seed=seed + i)
                        for i in range(len(prompts))
                    ]
                    mix = desk.mix({attribute: position}, rule=rule)
                    requests = [Request(prompt, mix, p) for prompt, p in zip(prompts, params, strict=True)]
                    texts = [output.text for output in desk.generate_batch(requests)]
                    at_rest = at_rest if position else texts
                else:
                    texts = at_rest  # under the offset rule all sliders at rest give the same model
                scores[position] = np.array([judge(text)[attribute] for text in texts])
                perplexity = None
                if loglikelihoods is not None:
                    written = [(p, t) for p, t in zip(prompts, texts, strict=True) if t.strip()]
                    means = loglikelihoods([p for p, _ in written], [t for _, t in written])
                    perplexity = round(float(np.exp(-np.mean(means))), 2)
                error = scores[position].std(ddof=1) / len(prompts) ** 0.5 if len(prompts) > 1 else 0.0
                measures.append(
                    PositionScore(
                        attribute,
                        float(position),
                        round(float(scores[position].mean()), 4),
                        round(float(error), 4),
                        perplexity,
                        round(float(np.mean([_distinct(text) for text in texts])), 4),
                    )
                )
                bar.update()
            change = scores[max(scores)] - scores[min(scores)]
            error = change.std(ddof=1) / len(change) ** 0.5 if len(change) > 1 else 0.0
            reaches.append(PoleDifference(attribute, round(float(change.mean()), 4), round(float(error), 4)))
    accuracy, dtype = outside.accuracy if outside else None, str(desk.model.dtype).removeprefix("torch.")
    return ControlReport(
        len(prompts), tokens, seed, temperature, top_p, tuple(measures), tuple(reaches), rule, accuracy, dtype
    )


def _distinct(text: str) -> float:
    """Distinct word pairs divided by all word pairs."""
    words = text.lower().split()
    pairs = list(pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else 1.0
