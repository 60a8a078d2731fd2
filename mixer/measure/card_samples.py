"""The texts of a model card: thirty, in both forms, at several positions; sample n has seed n, so none was chosen."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixer.adapters.anchor_set import anchors_fingerprint
from mixer.adapters.fingerprint import base_fingerprint
from mixer.measure.control import held_out_prompts, requests
from mixer.values.chat import Conversation, Prompt
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.desk import Desk

SAMPLES, SAMPLE_TOKENS = 30, 60
# Of one attribute after another: both poles, half way and at the end; the next attribute has it the other way round.
POSITIONS = ((-1.0, 1.0), (-0.5, 0.5), (-1.0, 0.5), (-0.5, 1.0))
MARKS = re.compile(r"[\\`*_<\[]")  # what markdown would take for its own


@dataclass(frozen=True)
class Sample:
    """One generated text.

    Attributes:
        prompt: an opening that is continued, or a request that is replied to.
        reply: which of the two.
        mix: attribute -> position; empty where all sliders rest.
        seed: the sample's number in the list.
    """

    prompt: str
    reply: bool
    mix: dict[str, float]
    seed: int
    text: str

    def markdown(self, attributes: dict[str, tuple[str, str]]) -> str:
        """The sample as a list item: mix, form, prompt and text.

        Args:
            attributes: labels of the (negative, positive) pole.
        """
        named = [
            f"{attributes[name][position > 0]} (`{name}={position:+g}`)"
            if name in attributes
            else f"`{name}={position:+g}`"
            for name, position in self.mix.items()
        ]
        text = MARKS.sub(r"\\\g<0>", " / ".join(self.text.strip().splitlines()))
        form = "reply to " if self.reply else ""
        # A text may go on in the middle of a word, or with a comma.
        goes_on = not self.reply and self.prompt[-1:].isalnum() and not self.text[:1].isspace()
        gap = "" if goes_on else " "
        return f"- {self.seed}. **{', '.join(named) or 'at rest'}**, {form}*{self.prompt}*{gap}{text}"


def sample_mixes(attributes: Sequence[str], count: int) -> list[dict[str, float]]:
    """`count` mixes of one attribute each, the first at rest: every attribute's two poles, then other positions."""
    turns = []
    for turn in range(len(POSITIONS)):
        for number, name in enumerate(attributes):
            turns += [{name: position} for position in POSITIONS[(turn + number % 2) % len(POSITIONS)]]
    return [{}, *islice(cycle(turns), count - 1)] if turns else [{}] * count


def write_samples(desk: Desk, count: int = SAMPLES, tokens: int = SAMPLE_TOKENS) -> tuple[Sample, ...]:
    """Generate the samples: they go on from held-out openings; where the base has a chat template, half are replies."""
    from mixer.values.request import Request

    replies = count // 2 if desk.tokenizer.chat_template else 0
    openings: list[Prompt] = [*islice(cycle(held_out_prompts(count=count)), count - replies)]
    asked: list[Prompt] = [*islice(cycle(requests(count)), replies)]
    mixes = sample_mixes(tuple(desk.attributes), count - replies)
    if replies:
        # The replies begin at other positions than the texts that go on.
        mixes += [{}, *sample_mixes(tuple(desk.attributes), count)[count - replies :][: replies - 1]]
    prompts = [*openings, *asked]
    rows = [
        Request(prompt, desk.mix(mix), SamplingParams(max_new_tokens=tokens, seed=seed))
        for seed, (prompt, mix) in enumerate(zip(prompts, mixes, strict=True))
    ]
    outputs = desk.generate_batch(rows)
    return tuple(
        Sample(str(prompt), isinstance(prompt, Conversation), mix, seed, output.text)
        for seed, (prompt, mix, output) in enumerate(zip(prompts, mixes, outputs, strict=True))
    )


def kept_samples(desk: Desk, path: Path) -> tuple[Sample, ...]:
    """The samples in a file, if they are of this desk's anchors; else new ones, which are written there."""
    made_with = anchors_fingerprint(base_fingerprint(desk.base_model), desk.anchor_set.adapters)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["anchors_fingerprint"] == made_with and record["tokens"] == SAMPLE_TOKENS:
            return tuple(Sample(**one) for one in record["samples"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there are none, or they are of another form
    samples = write_samples(desk)
    found: dict[str, Any] = {"anchors_fingerprint": made_with, "tokens": SAMPLE_TOKENS}
    found["samples"] = [asdict(sample) for sample in samples]
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return samples
