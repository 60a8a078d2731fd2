"""The model card of a base's anchors: from what they were made, what was measured, thirty unselected texts, and limits.

`python -m mixer evaluate card` fills the template `card.md` with figures from the reports that training and measuring
left in the folder of the anchors; what was not measured is said to be so, with the command that measures it. Of a base
that was trained here, whose folder has a report too, the card also says how (`card_own_base.md`). This module knows
nothing of training.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mixer.adapters.peft import WEIGHTS
from mixer.errors import BadArtifact
from mixer.measure.card_parts import (
    FORMS,
    OWN_LIMITS,
    BaseShape,
    CardFacts,
    base_lines,
    capability,
    command_lines,
    control_part,
    decoupling_part,
    fill,
    length_of_training,
    other_texts,
    own_base_part,
    read_control,
    strengths_of,
)
from mixer.measure.card_samples import SAMPLE_TOKENS, Sample, kept_samples
from mixer.measure.card_tables import (
    anchor_reports,
    anchor_table,
    as_time,
    cost_of_poles,
    head_table,
    judge_table,
    read_report,
)
from mixer.rewards.files import CONFIG as HEAD
from mixer.rewards.files import find_rewards

if TYPE_CHECKING:
    from mixer.desk import Desk

SAMPLES, CARD = "samples.json", "MODEL_CARD.md"


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
    measured = {name: read_control(out / name) for name in FORMS}
    alpha = config["lora_alpha"]
    return fill(
        "card.md",
        name="the embedded base" if own_base else facts.base.split("/")[-1],
        base=base_lines(facts, shape, own_base),
        own_base=own_base_part(own_base, shape, judges) if own_base else "",
        own_limits=OWN_LIMITS if own_base else "",
        count=len(attributes),
        attributes=", ".join(attributes),
        rank=config["rank"],
        lora_alpha=f"{2 * config['rank'] if alpha is None else alpha:g}",
        size=f"{sum(sizes) / len(sizes):.1f}" if sizes else "–",
        unpaired=other_texts(trained, anchors),
        length=length_of_training(config),
        strengths=strengths_of(config, attributes),
        contrast=f"{config.get('contrast', 0):g}",
        lr=f"{config.get('lr', 0):g}",
        batch_tokens=f"{config.get('batch_tokens', 0):,}",
        time=as_time(sum(report["seconds"] for report in trained.values())),
        anchors=anchor_table(trained),
        heads=head_table(heads) if heads else "There are none for these anchors.",
        judges=judge_table(read_report(judges / "report.json")),
        control="\n\n".join(control_part(name, report, shape.replies) for name, report in measured.items()).strip(),
        decoupling=decoupling_part(out, shape.calibrated),
        samples_count=len(samples),
        sample_tokens=SAMPLE_TOKENS,
        samples="\n".join(sample.markdown(dict(shape.labels)) for sample in samples),
        capability=capability(shape),
        cost=cost_of_poles([report for report in measured.values() if report]),
        leaks="" if shape.calibrated else "What a slider does to the other scores has not been measured here.",
        commands=command_lines(facts, shape, own_base, measured),
    )
