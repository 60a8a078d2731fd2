"""A recipe as a file: which base, which attributes, and what differs from the defaults in training and measuring.

Knows the settings of each part. Knows nothing of how a part is run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mixer.errors import BadArtifact, InvalidValue, UnknownName
from mixer.recipe.settings import read_mapping, read_settings
from mixer.resources import RECIPES
from mixer.training.anchor import AnchorConfig
from mixer.training.data import ATTRIBUTES
from mixer.training.reward_head import HeadConfig
from mixer.training.reward_model import TeacherConfig

HINT = "A recipe needs `base:` and `license:`; recipes/smollm2-135m.yaml is one with all that it can have."
KEYS = ("base", "license", "notice", "attributes", "anchors", "heads", "reward_model", "measure")


@dataclass(frozen=True)
class MeasureConfig:
    """How much is measured, and so how sure the figures are.

    Attributes:
        prompts: held-out openings, and requests, on which control is measured.
        tokens: of a text.
        coupling: prompts to fit the calibration on, to predict on, and to check it on; see `mixer.measure.coupling`.
        mixes: random mixes to fit on, and to predict.
        seed: of the first prompt; the next have the next ones.
    """

    prompts: int = 16
    tokens: int = 40
    coupling: tuple[int, int, int] = (24, 24, 48)
    mixes: tuple[int, int] = (64, 32)
    seed: int = 7

    def __post_init__(self) -> None:
        if self.prompts < 2 or min(self.coupling) < 2 or min(self.mixes) < 2:
            raise InvalidValue("Each number of prompts and of mixes must be 2 or more.", "Raise the one that is lower.")
        if self.tokens < 1 or self.seed < 0:
            raise InvalidValue("tokens must be 1 or more, seed 0 or more.", "Raise the one that is lower.")


@dataclass(frozen=True)
class Recipe:
    """What one run makes.

    Attributes:
        name: of the file, without its ending.
        base: hub id of the base model.
        license: of the base, for the model card.
        notice: a sentence or two that the card gives with it; empty for none.
        attributes: that get anchors.
        head_attributes: that get a reward head.
    """

    name: str
    base: str
    license: str
    notice: str = ""
    attributes: tuple[str, ...] = ATTRIBUTES
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    head_attributes: tuple[str, ...] = ()
    heads: HeadConfig = field(default_factory=HeadConfig)
    reward_model: TeacherConfig = field(default_factory=TeacherConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship, by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}


def find_recipe(name: str | Path) -> Recipe:
    """The shipped recipe of this name, or that in a `.yaml` file.

    Raises:
        UnknownName: none of this name ships. BadArtifact: see `read_recipe`.
    """
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml") or path.is_file():
        return read_recipe(path)
    if str(name) not in shipped_recipes():
        raise UnknownName("recipe", str(name), shipped_recipes())
    return read_recipe(shipped_recipes()[str(name)])


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Whether there are pairs of its attributes is known only with the data, when it is run.

    Raises:
        BadArtifact: the file cannot be read, lacks a key or has an unknown one, or a value is not allowed.
    """
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadArtifact(f"The recipe {path} cannot be read: {' '.join(str(error).split())[:300]}.", HINT) from error
    record = read_mapping(record, KEYS, str(path))
    for key in ("base", "license"):
        if key not in record:
            raise BadArtifact(f"{path} has no {key}.", HINT)
    for key in ("base", "license", "notice"):
        if key in record and not (isinstance(record[key], str) and record[key].strip()):
            raise BadArtifact(f"{path}: {key} is {record[key]!r}.", "It must be a text.")
    heads = dict(read_mapping(record.get("heads"), ("attributes", *HeadConfig.__dataclass_fields__), f"{path}, heads"))
    wanted = heads.pop("attributes", None)
    return Recipe(
        path.stem,
        record["base"].strip(),
        record["license"].strip(),
        " ".join(record.get("notice", "").split()),
        ATTRIBUTES if record.get("attributes") is None else _names(record["attributes"], f"{path}: attributes"),
        read_settings(AnchorConfig, record.get("anchors"), f"{path}, anchors"),
        () if wanted is None else _names(wanted, f"{path}, heads: attributes"),
        read_settings(HeadConfig, heads, f"{path}, heads"),
        read_settings(TeacherConfig, record.get("reward_model"), f"{path}, reward_model"),
        read_settings(MeasureConfig, record.get("measure"), f"{path}, measure"),
    )


def _names(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise BadArtifact(f"{where} is {value!r}.", "It must be a list of names, such as [formality, politeness].")
    for name in value:
        if value.count(name) > 1:
            raise BadArtifact(f"{where} has {name!r} twice.", "Name each attribute once.")
    return tuple(value)
