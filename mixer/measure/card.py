"""The model card of a base's anchors: from what they were made, what was measured, thirty unselected texts, and limits.

`python -m mixer evaluate card` fills the template `card.md` with figures from the reports that training and measuring
left in the folder of the anchors; what was not measured is said to be so, with the command that measures it. Of a base
that was trained here, whose folder has a report too, the card also says how (`card_own_base.md`). This module knows
nothing of training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from mixer.adapters.calibration_file import FILE as COUPLING
from mixer.adapters.peft import WEIGHTS
from mixer.errors import BadArtifact
from mixer.measure.card_samples import SAMPLE_TOKENS, Sample, kept_samples, labels_of
from mixer.measure.card_tables import (
    anchor_reports,
    anchor_table,
    as_time,
    cost_of_poles,
    head_table,
    judge_table,
    leak_table,
    read_report,
)
from mixer.measure.control import ControlReport
from mixer.rewards.files import CONFIG as HEAD
from mixer.rewards.files import find_rewards
from mixer.training.data import OWN_PAIRS

if TYPE_CHECKING:
    from mixer.desk import Desk

CONTROL, REPLIES, SAMPLES, CARD = "control.json", "control-replies.json", "samples.json", "MODEL_CARD.md"
FORMS = {CONTROL: ("Continuing", "held-out openings", ""), REPLIES: ("Replying to", "requests", "--chat ")}
SMALL = 1e9  # parameters below which a model is called small


@dataclass(frozen=True)
class CardFacts:
    """What no report says of a base.

    Attributes:
        base: its hub id, or what else people find it by.
        license: empty where it is not known.
        notice: a sentence or two that are to stand in the card, such as those that a license demands.
        recipe: the name of the recipe that makes these anchors; empty where there is none.
    """

    base: str
    license: str = ""
    notice: str = ""
    recipe: str = ""


@dataclass(frozen=True)
class BaseShape:
    """What a loaded desk says of its base."""

    parameters: int
    family: str
    layers: int
    width: int
    vocabulary: int
    context: int
    replies: bool
    calibrated: bool = False
    labels: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, desk: Desk) -> BaseShape:
        """The shape of a desk's base."""
        config = desk.base_model.config
        text = config.get_text_config()
        return cls(
            sum(weight.numel() for weight in desk.base_model.parameters()),
            str(config.model_type),
            int(text.num_hidden_layers),
            int(text.hidden_size),
            int(text.vocab_size),
            desk.context,
            bool(desk.tokenizer.chat_template),
            desk.anchor_set.calibration is not None,
            labels_of(dict(desk.attributes)),
        )


def make_card(
    desk: Desk, facts: CardFacts, anchors: Path, judges: Path, own_base: Path | None = None, out: Path | None = None
) -> Path:
    """Write the samples, if there are none of these anchors, and the card; returns its path.

    Args:
        anchors: the folder that the desk's anchors came from.
        judges: the folder of the judges.
        own_base: the folder of a base that was trained here.
        out: where reports of measures lie and the card goes; `anchors` if None.

    Raises:
        BadArtifact: `anchors` holds no anchor with a report, or a report is damaged.
    """
    out = out or anchors
    samples = kept_samples(desk, out / SAMPLES)
    text = card(facts, BaseShape.of(desk), anchors, judges, samples, own_base, out)
    (out / CARD).write_text(text, encoding="utf-8")
    return out / CARD


def card(
    facts: CardFacts,
    shape: BaseShape,
    anchors: Path,
    judges: Path,
    samples: tuple[Sample, ...],
    own_base: Path | None = None,
    out: Path | None = None,
) -> str:
    """The card as markdown; see `make_card`.

    Raises:
        BadArtifact: `anchors` holds no anchor with a report, or a report is damaged.
    """
    out = out or anchors
    trained = anchor_reports(anchors)
    if not trained:
        raise BadArtifact(f"{anchors} holds no anchor with a report.", "Run `python -m mixer train anchors` first.")
    config = next(iter(trained.values()))["made_from"]["config"]
    attributes = sorted({name.split(".")[0] for name in trained})
    sizes = [path.stat().st_size / 1e6 for path in anchors.glob(f"*/*/{WEIGHTS}")]
    heads = {name: read_report(folder / HEAD) for name, folder in find_rewards(anchors).items()}
    measured = {name: _control(out / name) for name in FORMS}
    alpha = config["lora_alpha"]
    return _fill(
        "card.md",
        name="the embedded base" if own_base else facts.base.split("/")[-1],
        base=_base(facts, shape, own_base),
        own_base=_own_base(own_base, shape, judges) if own_base else "",
        own_limits=_OWN_LIMITS if own_base else "",
        count=len(attributes),
        attributes=", ".join(attributes),
        rank=config["rank"],
        lora_alpha=f"{2 * config['rank'] if alpha is None else alpha:g}",
        size=f"{sum(sizes) / len(sizes):.1f}" if sizes else "–",
        unpaired=_other_texts(trained, anchors),
        length=_length(config),
        contrast=f"{config.get('contrast', 0):g}",
        lr=f"{config.get('lr', 0):g}",
        batch_tokens=f"{config.get('batch_tokens', 0):,}",
        time=as_time(sum(report["seconds"] for report in trained.values())),
        anchors=anchor_table(trained),
        heads=head_table(heads) if heads else "There are none for these anchors.",
        judges=judge_table(read_report(judges / "report.json")),
        control="\n\n".join(_control_part(name, report, shape.replies) for name, report in measured.items()).strip(),
        decoupling=_decoupling(out, shape.calibrated),
        samples_count=len(samples),
        sample_tokens=SAMPLE_TOKENS,
        samples="\n".join(sample.markdown(dict(shape.labels)) for sample in samples),
        capability=_capability(shape),
        cost=cost_of_poles([report for report in measured.values() if report]),
        leaks="" if shape.calibrated else "What a slider does to the other scores has not been measured here.",
        commands=_commands(facts, shape, own_base, measured),
    )


def _fill(template: str, **entries: Any) -> str:
    return Template((Path(__file__).parent / template).read_text(encoding="utf-8")).substitute(entries)


def _base(facts: CardFacts, shape: BaseShape, own_base: Path | None) -> str:
    link = f"[{facts.base}](https://huggingface.co/{facts.base})"
    named = link if facts.base.count("/") == 1 and facts.license else f"`{facts.base}`"
    unknown = "see where it came from; it was not given when this card was written"
    license = facts.license or ("see the texts that it was made from, below" if own_base else unknown)
    kind = "it goes on from a text, or replies" if shape.replies else "it goes on from a text, and has no chat template"
    lines = [
        f"**Base:** {named}, license: {license}. {shape.family}, {shape.parameters:,} parameters, {shape.layers} "
        f"layers, width {shape.width:,}, vocabulary {shape.vocabulary:,}, context {shape.context:,}; {kind}."
    ]
    return "\n\n".join([*lines, facts.notice] if facts.notice else lines)


_OWN_LIMITS = (
    "- Old fiction shapes the base, with the views of its time. The word filter works on the labelled texts, not on "
    "every book.\n- Toxicity was learnt from comments in lower case. That judge is for measuring, not for moderation.\n"
)


def _own_base(folder: Path, shape: BaseShape, judges: Path) -> str:
    report, nothing = read_report(folder / "training.json"), {"n": 0, "share_called_toxic": 0.0}
    toxic = read_report(judges / "report.json").get("toxicity", {}).get("pairs", nothing)
    text = _fill(
        "card_own_base.md",
        family=shape.family.capitalize(),
        parameters=f"{report['parameters']:,}",
        layers=report["config"]["layers"],
        width=report["config"]["hidden_size"],
        vocabulary=f"{report['config']['vocab_size']:,}",
        context=report["config"]["context"],
        tokens=f"{report['tokens']:,}",
        minutes=f"{report['minutes']:.0f}",
        bits=", ".join(f"{name} {value:.2f}" for name, value in report["held_out_bits_per_byte"].items()),
        toxic_n=toxic["n"],
        toxic_share=f"{100 * toxic['share_called_toxic']:.1f} %",
    )
    return f"{text}\n"


def _other_texts(trained: Mapping[str, Any], anchors: Path) -> str:
    """Sentences on what anchors learned from besides the shipped pairs."""
    mixed = sorted({name.split(".")[0] for name, report in trained.items() if report["unpaired"]})
    own = sorted(path.parent.name for path in anchors.glob(f"*/{OWN_PAIRS}"))
    found = []
    if mixed:
        found.append(f"Unpaired texts that are not part of the repository were learned from too: {', '.join(mixed)}.")
    if own:
        found.append(f"The pairs of {', '.join(own)} are their writer's own, `ATTRIBUTE/{OWN_PAIRS}`.")
    return " ".join(found) or "Nothing else was learned from."


def _length(config: Mapping[str, Any]) -> str:
    """How long an anchor was trained; reports of old count passes."""
    if config["steps"] is not None:
        return f"An anchor made {config['steps']} optimizer steps"
    if "examples" in config:
        return f"An anchor learned from {config['examples']} pairs; where there are fewer, from some of them again"
    return f"An anchor made {config['epochs']} passes over the pairs"


def _control(path: Path) -> ControlReport | None:
    """The report in a file; None if there is none.

    Raises:
        BadArtifact: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        return ControlReport.from_json(json.dumps(read_report(path)))
    except (KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(f"{path} is no report of control: {error!r}.", "Measure it again.") from error


def _control_part(name: str, report: ControlReport | None, replies: bool) -> str:
    if name == REPLIES and not replies and report is None:
        return ""
    how, what, option = FORMS[name]
    if report is None:
        return f"{how} {what}: not measured. `python -m mixer evaluate control {option}--out {name}` does."
    settings = f"{report.tokens} tokens each, temperature {report.temperature:g}, top_p {report.top_p:g}"
    return f"{how} {report.prompts} {what}, {settings}:\n\n{report.table()}"


def _decoupling(out: Path, calibrated: bool) -> str:
    if not calibrated:
        return (
            "What every slider does to every score has not been measured with these anchors, so *Decouple* is off. "
            "`python -m mixer evaluate coupling` measures it."
        )
    about = (
        "With *Decouple* on, a slider asks for a level of its score, and the desk moves the other sliders against what "
        "it does to theirs. Measured over all levels of all attributes, on prompts that it was not fitted to:"
    )
    return f"{about}\n\n{leak_table(read_report(out / COUPLING))}"


def _capability(shape: BaseShape) -> str:
    millions = shape.parameters / 1e6
    size = f"{millions:,.0f} million" if shape.parameters < SMALL else f"{millions / 1000:.1f} billion"
    return f"The base has {size} parameters{', which is little' if shape.parameters < SMALL else ''}."


def _commands(
    facts: CardFacts, shape: BaseShape, own_base: Path | None, measured: Mapping[str, ControlReport | None]
) -> str:
    if facts.recipe:
        return f"python -m mixer train recipe {facts.recipe}"
    base, first = facts.base, []
    if own_base:
        base = "tiny"
        first = ["python -m mixer train base --data DATA --minutes 120", "python -m mixer train judges --data DATA"]
    lines = [f"train anchors --base {base} --out ANCHORS", f"evaluate coupling --base {base} --anchors ANCHORS"]
    for name, (_, _, option) in FORMS.items():
        if name == CONTROL or shape.replies:
            report = measured[name]
            settings = f"--prompts {report.prompts} --tokens {report.tokens} --seed {report.seed} " if report else ""
            lines.append(f"evaluate control {option}--base {base} --anchors ANCHORS {settings}--out ANCHORS/{name}")
    lines.append(f"evaluate card --base {base} --anchors ANCHORS")
    return "\n".join([*first, *(f"python -m mixer {line}" for line in lines)])
