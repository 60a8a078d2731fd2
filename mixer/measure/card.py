"""The model card: which weights ship, how they were trained, what was measured, and twenty unselected texts.

`python -m mixer evaluate card` measures control, generates the sample texts, and fills the card with figures from the
reports that training wrote beside the weights. Every figure in the card comes from such a report. This module knows
nothing of training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from mixer.errors import BadArtifact
from mixer.measure.control import ControlReport, base_loglikelihoods, control, held_out_prompts
from mixer.values.mix import POLES
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.desk import Desk

CONTROL, SAMPLES, CARD = "control.json", "samples.json", "MODEL_CARD.md"
SAMPLE_TOKENS = 80
# Both poles of every slider, the base alone, and several sliders together.
SAMPLE_MIXES: tuple[dict[str, float], ...] = (
    *({attribute: position} for attribute in ("sentiment", "formality", "politeness") for position in (-1.0, 1.0)),
    *({attribute: position} for attribute in ("simplicity", "humor", "poetry") for position in (-1.0, 1.0)),
    {},
    {},
    {"sentiment": 1.0, "poetry": 1.0},
    {"sentiment": -1.0, "poetry": 1.0},
    {"formality": 1.0, "politeness": 1.0},
    {"formality": -1.0, "politeness": -1.0},
    {"simplicity": 1.0, "humor": 0.5},
    {"formality": 0.5, "simplicity": -0.5},
)


@dataclass(frozen=True)
class Sample:
    """One generated text. Its seed is its number in the list, so no text was selected."""

    prompt: str
    mix: dict[str, float]
    seed: int
    text: str


def write_samples(
    desk: Desk,
    prompts: Sequence[str] | None = None,
    mixes: Sequence[dict[str, float]] = SAMPLE_MIXES,
    tokens: int = SAMPLE_TOKENS,
) -> tuple[Sample, ...]:
    """Generate one text for each mix; the prompts are held-out ones if None."""
    from mixer.values.request import Request

    prompts = held_out_prompts(count=len(mixes)) if prompts is None else prompts
    requests = [
        Request(prompt, desk.mix(mix), SamplingParams(max_new_tokens=tokens, seed=seed))
        for seed, (prompt, mix) in enumerate(zip(prompts, mixes, strict=True))
    ]
    outputs = desk.generate_batch(requests)
    return tuple(
        Sample(prompt, mix, seed, output.text)
        for seed, (prompt, mix, output) in enumerate(zip(prompts, mixes, outputs, strict=True))
    )


def card(
    base: Mapping[str, Any],
    anchors: Mapping[str, Mapping[str, Any]],
    judges: Mapping[str, Mapping[str, Any]],
    control_report: ControlReport,
    samples: Sequence[Sample],
) -> str:
    """The card as markdown: the text of `card.md` with figures from the reports.

    Args:
        base: the report of the base's training, as its JSON has it.
        anchors: the reports of the anchors' training, by `ATTRIBUTE.POLE`.
        judges: the reports of the judges' training, by judge.
    """
    shape, recipe = base["config"], next(iter(anchors.values()))["made_from"]["config"]
    alpha, toxic = recipe["lora_alpha"], judges.get("toxicity", {}).get("pairs", {"n": 0, "share_called_toxic": 0.0})
    return Template((Path(__file__).parent / "card.md").read_text(encoding="utf-8")).substitute(
        parameters=f"{base['parameters']:,}",
        layers=shape["layers"],
        width=shape["hidden_size"],
        vocabulary=f"{shape['vocab_size']:,}",
        context=shape["context"],
        tokens=f"{base['tokens']:,}",
        minutes=f"{base['minutes']:.0f}",
        bits=", ".join(f"{name} {value:.2f}" for name, value in base["held_out_bits_per_byte"].items()),
        rank=recipe["rank"],
        lora_alpha=f"{2 * recipe['rank'] if alpha is None else alpha:g}",
        length=_length(recipe),
        anchors=_anchor_table(anchors),
        toxic_n=toxic["n"],
        toxic_share=f"{100 * toxic['share_called_toxic']:.1f} %",
        judges=_judge_table(judges),
        prompts=control_report.prompts,
        control_tokens=control_report.tokens,
        temperature=f"{control_report.temperature:g}",
        top_p=f"{control_report.top_p:g}",
        control=control_report.table(),
        sample_tokens=SAMPLE_TOKENS,
        samples="\n\n".join(_sample_markdown(sample) for sample in samples),
    )


def _length(recipe: Mapping[str, Any]) -> str:
    """How long an anchor was trained; reports of old count passes."""
    if recipe["steps"] is not None:
        return f"{recipe['steps']} steps"
    return f"{recipe['examples']} pairs" if "examples" in recipe else f"{recipe['epochs']} passes over the pairs"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [" | ".join(head), "|".join(["---"] * len(head)), *(" | ".join(map(str, row)) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _anchor_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    head = ("anchor", "pairs", "other texts", "seconds", "loss, own pole", "loss, other pole", "prefers its pole")
    rows = [
        (
            name,
            report["pairs"],
            report["unpaired"],
            round(report["seconds"]),
            f"{report['own_loss_base']:.2f} → {report['own_loss_anchor']:.2f}",
            f"{report['other_loss_base']:.2f} → {report['other_loss_anchor']:.2f}",
            f"{100 * report['pair_accuracy']:.0f} % of {report['test_pairs']}",
        )
        for name, report in reports.items()
    ]
    return _table(head, rows)


def _judge_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    columns = {
        "pairs: accuracy": ("pairs", "accuracy"),
        "AUC": ("pairs", "auc"),
        "calibration error": ("pairs", "calibration_error"),
        "texts": ("pairs", "n"),
        "windows: accuracy": ("pairs_in_windows", "accuracy"),
        "unpaired: accuracy": ("unpaired", "accuracy"),
        "unpaired: AUC": ("unpaired", "auc"),
        "unpaired: texts": ("unpaired", "n"),
    }
    rows = []
    for name, report in reports.items():
        figures = []
        for part, key in columns.values():
            measured = "accuracy" in report.get(part, {})
            value = report[part][key] if measured else "–"
            figures.append(f"{value:.3f}" if isinstance(value, float) else value)
        rows.append((name, *figures))
    return _table(("judge", *columns), rows)


def _sample_markdown(sample: Sample) -> str:
    mix = ", ".join(f"{name} {position:+g}" for name, position in sample.mix.items()) or "base"
    text = (sample.prompt + sample.text).strip().replace("\n", "  \n> ")
    return f"**{sample.seed}. {mix}**; prompt: {sample.prompt}\n> {text}"


def read_report(path: Path) -> Any:
    """Read a JSON report.

    Raises:
        BadArtifact: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtifact(f"The report {path} cannot be read: {error}.", "Train that part again.") from error


def write_card(base: Path, anchors: Path, judges: Path, out: Path | None = None) -> Path:
    """Put `MODEL_CARD.md` together in `out` (`anchors` if None), from the reports in these folders."""
    out = out or anchors
    trained = {}
    for home in sorted(path for path in anchors.iterdir() if path.is_dir()):
        for pole in POLES:
            if (home / pole / "training.json").is_file():
                trained[f"{home.name}.{pole}"] = read_report(home / pole / "training.json")
    if not trained:
        raise BadArtifact(f"{anchors} holds no anchor with a report.", "Run `python -m mixer train anchors` first.")
    text = card(
        read_report(base / "training.json"),
        trained,
        read_report(judges / "report.json"),
        ControlReport.from_json(json.dumps(read_report(out / CONTROL))),
        [Sample(**sample) for sample in read_report(out / SAMPLES)],
    )
    (out / CARD).write_text(text, encoding="utf-8")
    return out / CARD


def measure_card(desk: Desk, base: Path, anchors: Path, judges: Path, out: Path | None = None) -> Path:
    """Measure control, write samples and the card; the results go to `out` (`anchors` if None)."""
    out = out or anchors
    reach = control(desk, loglikelihoods=base_loglikelihoods(base))
    (out / CONTROL).write_text(reach.to_json() + "\n", encoding="utf-8")
    samples = [asdict(sample) for sample in write_samples(desk)]
    (out / SAMPLES).write_text(json.dumps(samples, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return write_card(base, anchors, judges, out)
