"""What a model card needs and no report has: the base's hub id, its license, and what the license demands."""

from __future__ import annotations

from pathlib import Path

from mixer.measure.card_parts import CardFacts
from mixer.recipe.file import read_recipe, shipped_recipes
from mixer.recipe.progress import read_record


def card_facts(anchors: Path, base: str, license: str | None = None) -> CardFacts:
    """From the record of the recipe that made a folder of anchors, or else from the shipped recipe of the base.

    Args:
        base: what files call the base: a hub id, where it has one.
        license: in place of what these say.

    Raises:
        BadArtifact: the record or a recipe is damaged.
    """
    record = read_record(anchors)
    if record:
        return CardFacts(record["base"], license or record["license"], record.get("notice", ""), record["recipe"])
    for path in shipped_recipes().values():
        recipe = read_recipe(path)
        if recipe.base == base:
            return CardFacts(base, license or recipe.license, recipe.notice, recipe.name)
    return CardFacts(base, license or "")
