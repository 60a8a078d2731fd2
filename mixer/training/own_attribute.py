"""An attribute of one's own: from one file of pairs to both anchors and a judge, in the attribute's folder.

    OUT/NAME/{negative,positive}/    the anchors
    OUT/NAME/judge.safetensors       the judge: a desk that loads these anchors loads it too
    OUT/NAME/attribute.yaml          labels of the poles and a description
    OUT/NAME/pairs.jsonl             the pairs; with OUT as a data folder, other training commands find them

Knows nothing of the command line.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mixer.adapters.anchor_set import LABELS, plain_labels, read_labels_file
from mixer.errors import InvalidValue
from mixer.formula.tree import is_name
from mixer.judges.linear import add_own_judges, load_judges, load_words, save_own_judge
from mixer.resources import JUDGES
from mixer.training.anchor import AnchorConfig, train_anchors
from mixer.training.data import OWN_PAIRS, TOXICITY, Pair, split_pairs
from mixer.training.frozen_base import own_folder
from mixer.training.judge import JudgeConfig, examples, measures, train_on
from mixer.training.pair_file import PairFile, check_pairs
from mixer.values.mix import POLES


@dataclass(frozen=True)
class OwnAttribute:
    """An attribute as its writer gives it.

    Attributes:
        labels: of the (negative, positive) pole.
    """

    name: str
    file: PairFile
    labels: tuple[str, str]
    description: str = ""


def read_own_attribute(path: Path, name: str | None = None, labels: tuple[str, str] | None = None) -> OwnAttribute:
    """Read and check a file of pairs, and the labels beside it: of `pairs.jsonl`, those in `pairs.yaml`.

    Args:
        name: that of the file if None.
        labels: of the (negative, positive) pole, before those in the file of labels; `less NAME` and `more NAME` if
            there are none.

    Raises:
        BadArtifact: see `mixer.training.pair_file.check_pairs`; or the file of labels is damaged.
        InvalidValue: the name or a label cannot be used.
    """
    name = path.name.removesuffix(".xz").removesuffix(".jsonl") if name is None else name
    if not is_name(name) or name == TOXICITY:
        raise InvalidValue(
            f"An attribute cannot be called {name!r}.", "Give --name a word of letters, digits and underscores."
        )
    file = check_pairs(path)
    beside, description = path.with_name(path.name.removesuffix(".xz").removesuffix(".jsonl") + ".yaml"), ""
    own = plain_labels(name)
    if beside.is_file():
        own, description = read_labels_file(beside)
    chosen = labels or own
    if not all(label.strip() for label in chosen) or chosen[0].lower() == chosen[1].lower():
        raise InvalidValue(f"The labels {chosen[0]!r} and {chosen[1]!r} cannot be used.", "Give two different words.")
    return OwnAttribute(name, file, chosen, description)


def train_attribute(
    attribute: OwnAttribute,
    base: Path | str | None = None,
    out: Path | None = None,
    config: AnchorConfig | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train both anchors and the judge; returns their reports, as `anchors` and `judge`, and the folder, as `out`.

    Anchors that an earlier run finished with the same base, settings and pairs are kept.

    Args:
        out: the folder of the base's shipped anchors if None.

    Raises:
        InvalidValue: no anchors are shipped for the base, and `out` is not given.
        BadArtifact: the base cannot be loaded, or there are too few pairs for a judge.
    """
    out = out or own_folder(base)
    home = out / attribute.name
    home.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(pair), ensure_ascii=False) for pair in attribute.file.pairs)
    (home / OWN_PAIRS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    record = {"labels": dict(zip(POLES, attribute.labels, strict=True)), "description": attribute.description}
    (home / LABELS).write_text(yaml.safe_dump(record, allow_unicode=True, sort_keys=False), encoding="utf-8")
    # The judge comes first: it takes seconds, and shows whether the pairs can be told apart at all.
    judge = train_own_judge(attribute.name, attribute.file.pairs, out)
    poles = [(attribute.name, pole) for pole in POLES]
    anchors = train_anchors(base, out, out, config, overwrite, poles)
    return {"out": str(out), "judge": judge, "anchors": anchors}


def train_own_judge(
    name: str, pairs: tuple[Pair, ...], out: Path, config: JudgeConfig | None = None
) -> dict[str, float | int]:
    """Train a judge on the pairs of the judges' split into `out/NAME/judge.safetensors`, with the shipped word vectors.

    Returns:
        its measures on all other pairs: the anchors learn from them, but the judge does not.

    Raises:
        BadArtifact: the shipped word vectors are missing. InvalidValue: there are too few pairs.
    """
    vocabulary = load_words(JUDGES)
    own = split_pairs(list(pairs), "judge")
    config = config or JudgeConfig()
    save_own_judge(train_on(examples(name, own, {}, config), vocabulary, config), out / name, vocabulary)
    judges, _ = add_own_judges(load_judges(JUDGES), out)
    unseen = [pair for pair in pairs if pair not in own]
    positive, negative = (np.array(judges.score(name, [getattr(p, pole) for p in unseen])) for pole in POLES[::-1])
    return measures(positive, negative) | {"pairs": len(own)}
