"""A dataclass from what a YAML file says: every key is known, every value is of its kind and allowed.

Errors name the file, the key and what is allowed. Knows nothing of what the settings mean.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Collection
from dataclasses import fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mixer.errors import BadArtifact, InvalidValue

Config = TypeVar("Config")


def read_settings(kind: type[Config], record: object, where: str) -> Config:
    """A `kind` with the settings of a YAML mapping; those that are left out have their defaults.

    Args:
        kind: a dataclass with a default for every field, which raises `InvalidValue` for a value out of range.
        record: what the file has there; None, as YAML reads an empty entry, is a mapping without entries.
        where: file and key, which begin every error.

    Raises:
        BadArtifact: it is no mapping, a key is unknown, or a value is not allowed.
    """
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for key, value in read_mapping(record, known, where).items():
        hint = hints[key]
        if not _fits(value, hint):
            raise BadArtifact(f"{where}: {key} is {_shown(value)}.", f"It must be {_allowed(hint)}.")
        found[key] = tuple(value) if get_origin(hint) is tuple else value
        try:
            kind(**{key: found[key]})  # alone, so that the error is about this key
        except InvalidValue as error:
            raise BadArtifact(f"{where}: {key} is {_shown(value)}.", error.message) from error
    try:
        return kind(**found)
    except InvalidValue as error:
        raise BadArtifact(f"{where}: {error.message}", error.hint) from error


def read_mapping(record: object, known: Collection[str], where: str) -> dict[str, Any]:
    """A YAML mapping with none but known keys.

    Raises:
        BadArtifact: it is no mapping, or has another key.
    """
    if record is None:
        return {}
    if not isinstance(record, dict):
        raise BadArtifact(f"{where} is {_shown(record)}.", f"It must be names with values. Known: {', '.join(known)}.")
    for key in record:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise BadArtifact(
                f"{where} has {_shown(key)}, which means nothing here.", f"{meant}Known: {', '.join(known)}."
            )
    return record


def _shown(value: object) -> str:
    return repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}..."


def _fits(value: object, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        if not isinstance(value, list):
            return False
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(name, inner[0]) and _fits(one, inner[1]) for name, one in value.items()
        )
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if hint is type(None) else isinstance(value, hint)


def _allowed(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_allowed, inner))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is tuple:
        many = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"a list: {many}times {_allowed(inner[0])}" if many else f"a list of which each is {_allowed(inner[0])}"
    if origin is dict:
        return f"names, and for each {_allowed(inner[1])}"
    # YAML reads 1e-3 as a text, so the hint shows a form that it reads as a number.
    names = {float: "a number, such as 0.0015", int: "a whole number", bool: "true or false", str: "a text"}
    return names.get(hint, "null")
