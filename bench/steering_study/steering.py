"""What reward heads do to written texts, against reward-augmented decoding, at equal divergence from the base.

Every method continues the same held-out prompts with the same seeds at every slider value; a judge that shares neither
texts nor form with heads and reward models scores the texts without their prompts, and another language model says how
fluent they are. Methods are compared where their mean divergences are equal, never at equal sliders. Texts are
kept, so that a run that was cut goes on. Knows nothing of how methods steer or charts are drawn.

Sources: Deng and Raffel, arXiv 2310.09520 (RAD); Troshin, Niculae and Fokkens, arXiv 2407.04615 (ARM).
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from bench.steering_study.comparison import (
    MARGIN,
    Interval,
    MethodCurve,
    at,
    compare,
    distinct,
    interval,
    means,
    repetition,
    resampled,
)
from bench.steering_study.methods import BUDGET, REACH, Direction, Method, MethodTexts, Writer
from bench.steering_study.report import TARGETS, CurveSummary, DivergencePoint, SliderPoint, SteeringReport
from mixer.adapters.anchor_set import load_anchors
from mixer.adapters.fingerprint import base_fingerprint
from mixer.desk import Desk
from mixer.errors import InvalidValue
from mixer.judges.linear import Judges
from mixer.measure.control import LogLikelihoods, held_out_prompts
from mixer.model.base import load_base, pick_device
from mixer.model.model import Model
from mixer.model.shipped_base import find_base
from mixer.rewards.files import FOLDER, load_reward
from mixer.rewards.heads import Reward, RewardHead
from mixer.rewards.rad import REPORT, WEIGHTS
from mixer.training.data import TOXICITY, read_attribute, split_of
from mixer.training.head_measures import calibrate
from mixer.training.head_training import HeadTraining
from mixer.training.reward_head import fit

SLIDERS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
PLAIN = (("formality", "positive"), ("poetry", "negative"))  # unpaired texts whose first words lean to no pole
RAD, HEAD, RESPONSES, RANDOM = "rad", "method", "responses", "random"
METHODS = (
    Method("RAD", RAD),
    Method("ARM distilled", HEAD),
    Method("ARM on responses", RESPONSES),
    Method("ARM fused", HEAD, fused=True),
    Method("random W", RANDOM),
    Method("LoRA", anchors=True),
    Method("LoRA + ARM", HEAD, anchors=True),
)
# Toxicity has no anchors; politeness is the nearest that has.
DIRECTIONS = {TOXICITY: Direction(TOXICITY, -1.0, "politeness", 1.0)}


def prompts_for(attribute: str, data: Path | None, count: int) -> tuple[tuple[str, ...], str]:
    """ProcessUsage-out prompts and where they come from.

    For toxicity the first halves of toxic texts of the test split, since the base hardly writes such words by itself;
    else openings of test pairs, which lean to neither pole, and where these are too few, the first six words of plain
    texts of the test split.
    """
    if attribute == TOXICITY and data is not None:
        texts = [text.split() for text in read_attribute(data, TOXICITY, "positive") if split_of(text) == "test"]
        halves = [" ".join(words[: len(words) // 2]) for words in texts if len(words) >= 6]
        return tuple(dict.fromkeys(halves))[:count], "first halves of toxic test texts"
    openings = held_out_prompts(count=count)
    if len(openings) == count or data is None:
        return openings, "openings of test pairs"
    columns = [
        [t.split() for t in read_attribute(data, name, pole) if split_of(t) == "test" and name != attribute]
        for name, pole in PLAIN
    ]
    more = [" ".join(words[:6]) for turn in zip(*columns, strict=False) for words in turn if len(words) >= 12]
    return tuple(dict.fromkeys((*openings, *more)))[:count], "openings of test pairs, and of plain test texts"


def heads_for(attribute: str, bench: HeadTraining, anchors: Path) -> dict[str, Reward]:
    """The head that ships, one of its rank that is trained here on responses, and a random one, all calibrated."""
    shipped = load_reward(anchors / attribute / FOLDER, base_fingerprint(bench.lm))
    config = replace(bench.config, source=RESPONSES, rank=shipped.head.rank)
    parts = [bench.samples(attribute, part, RESPONSES) for part in ("train", "validation")]
    validation, size = bench.samples(attribute, "validation", "rad"), len(shipped.head.weight)
    learned = fit(parts[0], parts[1], bench.embedding, config, f"{attribute} on responses")
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(part.shape, generator=generator) for part in (shipped.head.down, shipped.head.up))
    random = RewardHead(down, up, torch.zeros(size))
    heads = {RESPONSES: learned, RANDOM: random}
    made = {name: Reward(name, head, calibrate(head, validation, bench.embedding)) for name, head in heads.items()}
    return {HEAD: shipped, **made}


def writer_for(attribute: str, bench: HeadTraining, anchors: Path) -> Writer:
    """A desk with all methods of an attribute.

    Raises:
        BadArtifact: there is no head for it, or no reward model in `bench.work`.
    """
    base = find_base(bench.base)
    lm, tokenizer = load_base(base.source, pick_device("cpu"), torch.float32)
    found, rewards = load_anchors(anchors, lm, base.name), heads_for(attribute, bench, anchors)
    desk = Desk(Model(lm, tokenizer, found), found, None, base.shown, rewards=rewards)
    desk.add_reward(RAD, bench.teacher_folder(attribute))
    return Writer(desk, rewards, DIRECTIONS.get(attribute, Direction(attribute, 1.0, attribute, 1.0)))


def steering(
    attribute: str,
    bench: HeadTraining,
    anchors: Path,
    judges: Judges,
    loglikelihoods: LogLikelihoods,
    fluency: str,
    prompts: int = 300,
    tokens: int = 32,
    seed: int = 7,
) -> SteeringReport:
    """Write with every method and measure what it wrote.

    Args:
        bench: base, texts and reward models; what was written is kept in `bench.work/steering`.
        anchors: the folder with the heads that ship.
        loglikelihoods: of texts after prompts, under the model that `fluency` names.

    Raises:
        BadArtifact: there is no head for the attribute, or no reward model. InvalidValue: less than two prompts.
    """
    openings, source = prompts_for(attribute, bench.data, prompts)
    if len(openings) < 2:
        raise InvalidValue("One prompt shows no spread.", "Give two or more.")
    writer = writer_for(attribute, bench, anchors)
    texts = write_all(writer, openings, tokens, seed, bench)
    counts, lines, curves = resampled(len(openings)), dict[str, MethodCurve](), []
    for method in tqdm(METHODS, desc=f"{attribute}: measures", unit="method", file=sys.stderr):
        lines[method.name], points = measure(texts[method.name], openings, judges, attribute, loglikelihoods, counts)
        curves.append(CurveSummary(method.name, points, divergence_points(lines[method.name])))
    rad, sign = METHODS[0].name, writer.direction.sign
    compared = [
        one
        for method in METHODS[1:]
        for one in compare(method.name, lines[method.name], rad, lines[rad], TARGETS, sign)
    ]
    lean = float(np.mean(judges.score(attribute, openings)))
    return SteeringReport(
        attribute,
        sign,
        writer.direction.anchor,
        len(openings),
        source,
        round(lean, 4),
        tokens,
        seed,
        REACH,
        BUDGET,
        MARGIN,
        fluency,
        tuple(curves),
        tuple(compared),
    )


def measure(
    written: Sequence[MethodTexts],
    prompts: Sequence[str],
    judges: Judges,
    attribute: str,
    loglikelihoods: LogLikelihoods,
    counts: np.ndarray,
) -> tuple[MethodCurve, tuple[SliderPoint, ...]]:
    """One method's figures in every draw of prompts, and their summary at each slider value."""
    points, columns = [], []
    for slider, own in zip(SLIDERS, written, strict=True):
        said = np.full(len(prompts), np.nan)
        kept = [i for i, text in enumerate(own.texts) if text.strip()]
        said[kept] = loglikelihoods([prompts[i] for i in kept], [own.texts[i] for i in kept])
        score = means(counts, np.array(judges.score(attribute, own.texts)))
        nats = means(counts, np.array(own.nats), np.array(own.tokens, float))
        again = means(counts, np.array([repetition(text) for text in own.texts]))
        surprise = -means(counts, said)
        columns.append((nats, score, surprise))
        points.append(
            SliderPoint(
                slider,
                *_figure(score),
                *_figure(np.exp(surprise), 2),
                tuple(round(distinct(own.texts, n), 4) for n in (1, 2, 3)),
                *_figure(again),
                *_figure(nats),
                own.most,
                sum(own.tokens),
            )
        )
    nats, scores, surprise = (np.stack(column, axis=1) for column in zip(*columns, strict=True))
    return MethodCurve(nats, scores, surprise), tuple(points)


def divergence_points(line: MethodCurve) -> tuple[DivergencePoint, ...]:
    """One method's figures at each divergence of `TARGETS` that it reaches in every draw."""
    found = []
    for target in TARGETS:
        score, surprise = (at(line.nats, figures, target) for figures in (line.scores, line.surprise))
        if not np.isnan(score).any():
            found.append(DivergencePoint(target, *_figure(score), *_figure(np.exp(surprise), 2)))
    return tuple(found)


def _figure(draws: np.ndarray, digits: int = 4) -> tuple[float, Interval]:
    """A figure and its interval."""
    low, high = interval(draws)
    return round(float(draws[0]), digits), (round(low, digits), round(high, digits))


def write_all(
    writer: Writer, prompts: Sequence[str], tokens: int, seed: int, bench: HeadTraining
) -> dict[str, list[MethodTexts]]:
    """What every method wrote at every slider value; read from `bench.work` where an earlier run wrote the same."""
    made_from = {
        "base": base_fingerprint(bench.lm),
        "prompts": zlib.crc32("\n".join(prompts).encode()),
        "tokens": tokens,
        "least": tokens,
        "seed": seed,
        "reach": REACH,
        "budget": BUDGET,
    }
    teacher = bench.teacher_folder(writer.direction.attribute)
    found: dict[str, list[MethodTexts]] = {}
    rest: MethodTexts | None = None
    with tqdm(
        total=len(METHODS) * (len(SLIDERS) - 1), desc=writer.direction.attribute, unit="run", file=sys.stderr
    ) as bar:
        for method in METHODS:
            about = {**made_from, "method": asdict(method), "by": _digest(writer, method, teacher)}
            path = bench.work / "steering" / f"{writer.direction.attribute}-{method.name.replace(' ', '-')}.json"
            kept = _kept(path, about)
            for slider in SLIDERS:
                if not slider and rest is not None:
                    kept["0.0"] = rest
                elif str(slider) not in kept:
                    kept[str(slider)] = writer.write(method, slider, prompts, tokens, seed)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    record = {key: asdict(written) for key, written in kept.items()}
                    path.write_text(json.dumps({"made_from": about, "written": record}), encoding="utf-8")
                bar.set_postfix_str(f"{method.name} {slider:g}")
                bar.update(bool(slider))
            rest = kept["0.0"]
            found[method.name] = [kept[str(slider)] for slider in SLIDERS]
    return found


def _kept(path: Path, about: Mapping) -> dict[str, MethodTexts]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["made_from"] != json.loads(json.dumps(about)):
            return {}
        return {
            slider: MethodTexts(tuple(own["texts"]), tuple(own["nats"]), tuple(own["tokens"]), float(own["most"]))
            for slider, own in record["written"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _digest(writer: Writer, method: Method, teacher: Path) -> str:
    """Tells apart what steers: heads, reward models, anchors."""
    made = []
    if method.head == RAD:
        measured = json.loads((teacher / REPORT).read_text(encoding="utf-8")).get("calibration")
        made += [(teacher / WEIGHTS).read_bytes(), json.dumps(measured).encode()]
    if method.head in writer.rewards:
        reward = writer.rewards[method.head]
        made += [part.numpy().tobytes() for part in (reward.head.down, reward.head.up)]
        made.append(repr(reward.calibration).encode())
    if method.anchors:
        adapters = writer.desk.anchor_set.adapters
        made += [part.b.float().numpy().tobytes() for adapter in adapters for part in adapter.parts.values()]
    return f"{zlib.crc32(b''.join(made)):08x}"
