"""The sentences of a model card that depend on the base and on what was measured. Knows reports; computes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from mixer.adapters.calibration_file import FILE as COUPLING
from mixer.errors import BadArtifact
from mixer.measure.card_tables import leak_table, read_report
from mixer.measure.control import ControlReport
from mixer.training.data import OWN_PAIRS

if TYPE_CHECKING:
    from mixer.desk import Desk

CONTROL, REPLIES = "control.json", "control-replies.json"
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
            {name: attribute.labels for name, attribute in desk.attributes.items()},
        )


def fill(template: str, **entries: Any) -> str:
    """The text of a template beside this module, with its `$entries`."""
    return Template((Path(__file__).parent / template).read_text(encoding="utf-8")).substitute(entries)


def base_lines(facts: CardFacts, shape: BaseShape, own_base: Path | None) -> str:
    """Which base it is: name, license, shape, and what its recipe has to say of it."""
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


OWN_LIMITS = (
    "- Old fiction shapes the base, with the views of its time. The word filter works on the labelled texts, not on "
    "every book.\n- Toxicity was learnt from comments in lower case. That judge is for measuring, not for moderation.\n"
)


def own_base_part(folder: Path, shape: BaseShape, judges: Path) -> str:
    """How a base that was trained here was trained, from the report in its folder."""
    report, nothing = read_report(folder / "training.json"), {"n": 0, "share_called_toxic": 0.0}
    toxic = read_report(judges / "report.json").get("toxicity", {}).get("pairs", nothing)
    text = fill(
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


def other_texts(trained: Mapping[str, Any], anchors: Path) -> str:
    """Sentences on what anchors learned from besides the shipped pairs."""
    mixed = sorted({name.split(".")[0] for name, report in trained.items() if report["unpaired"]})
    own = sorted(path.parent.name for path in anchors.glob(f"*/{OWN_PAIRS}"))
    found = []
    if mixed:
        found.append(f"Unpaired texts that are not part of the repository were learned from too: {', '.join(mixed)}.")
    if own:
        found.append(f"The pairs of {', '.join(own)} are their writer's own, `ATTRIBUTE/{OWN_PAIRS}`.")
    return " ".join(found) or "Nothing else was learned from."


def length_of_training(config: Mapping[str, Any]) -> str:
    """How long an anchor was trained; reports of old count passes."""
    if config["steps"] is not None:
        return f"An anchor made {config['steps']} optimizer steps"
    if "examples" in config:
        return f"An anchor learned from {config['examples']} pairs; where there are fewer, from some of them again"
    return f"An anchor made {config['epochs']} passes over the pairs"


def strengths_of(config: Mapping[str, Any], attributes: Sequence[str]) -> str:
    """A sentence on the factors that anchors were scaled by; empty where there are none."""
    strengths: Mapping[str, float] = config.get("strengths", {})
    found = [f"{name} by {strengths[name]:g}" for name in attributes if strengths.get(name, 1.0) != 1.0]
    if not found:
        return ""
    return (
        f" Then it was scaled: {', '.join(found)}. At full strength these sliders turned the text long before their "
        "end, and the rest of their way only made it less likely under the base."
    )


def read_control(path: Path) -> ControlReport | None:
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


def control_part(name: str, report: ControlReport | None, replies: bool) -> str:
    """One form of control with its table, or how to measure it; empty for replies of a base that cannot reply."""
    if name == REPLIES and not replies and report is None:
        return ""
    how, what, option = FORMS[name]
    if report is None:
        return f"{how} {what}: not measured. `python -m mixer evaluate control {option}--out {name}` does."
    settings = f"{report.tokens} tokens each, temperature {report.temperature:g}, top_p {report.top_p:g}"
    return f"{how} {report.prompts} {what}, {settings}. {scored_by(report)}\n\n{report.table()}"


def scored_by(report: ControlReport) -> str:
    """A sentence on whose scores these are."""
    if report.outside is None:
        return "The scores are those of the judges above."
    accuracy = ", ".join(f"{name} {value:.2f}" for name, value in report.outside.items())
    return (
        "The scores are by judges that share no data with the anchors: they learned from unpaired texts of other "
        f"origins (accuracy on unseen windows of these: {accuracy}). Others are by signs: the share of texts with a "
        "line break (poetry), an exclamation mark (excitement), two old words (archaic)."
    )


def decoupling_part(out: Path, calibrated: bool) -> str:
    """What decoupling gains, or how to measure it."""
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


def capability(shape: BaseShape) -> str:
    """A sentence on the size of the base."""
    millions = shape.parameters / 1e6
    size = f"{millions:,.0f} million" if shape.parameters < SMALL else f"{millions / 1000:.1f} billion"
    return f"The base has {size} parameters{', which is little' if shape.parameters < SMALL else ''}."


def command_lines(
    facts: CardFacts, shape: BaseShape, own_base: Path | None, measured: Mapping[str, ControlReport | None]
) -> str:
    """The commands that make the figures of the card again, one a line."""
    base, lines = facts.base, []
    if facts.recipe:
        lines.append(f"train recipe {facts.recipe}")
    elif own_base:
        base = "tiny"
        lines += ["train base --data DATA --minutes 120", "train judges --data DATA"]
    if not facts.recipe:
        lines += [f"train anchors --base {base} --out ANCHORS", f"evaluate coupling --base {base} --anchors ANCHORS"]
    for name, (_, _, option) in FORMS.items():
        report = measured[name]
        if (name != CONTROL and not shape.replies) or (facts.recipe and not (report and report.outside)):
            continue
        settings = ""
        if report:
            settings = (
                f"--dtype {report.dtype} --prompts {report.prompts} --tokens {report.tokens} --seed {report.seed} "
            )
        if report and report.outside:
            positions = sorted({measure.position for measure in report.measures})
            settings += f"--positions {' '.join(f'{position:g}' for position in positions)} --outside DATA "
        lines.append(f"evaluate control {option}--base {base} --anchors ANCHORS {settings}--out ANCHORS/{name}")
    if not facts.recipe:
        lines.append(f"evaluate card --base {base} --anchors ANCHORS")
    return "\n".join(f"python -m mixer {line}" for line in lines)
