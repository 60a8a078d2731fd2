"""Mix files: a mix as a small YAML file that a person can edit. A saved mix loads again bit for bit. The file may also
hold a steering and sampling parameters.

    rule: offset
    settings:
      formality: 0.8                           # the slider's position, its lambda 1
      humor: {position: -0.4, lambda: 2.0}
      poetry: {alpha: 0.1234567890123456}      # if no position gives this alpha exactly
    raw:
      sentiment.positive: 1.3                  # an anchor's coefficient, added to what the sliders give
    rewards: {sentiment: 0.8}                  # positions of reward sliders; this key and the following are optional
    levels: {toxicity: 0}                      # levels to aim for in place of positions
    budget: 0.5                                # null for no limit; 1 if left out
    whole: true                                # the budget counts from the base model, so it limits the mix too
    sampling: {temperature: 0.7, logit_bias: {colour: 5}}  # arguments of `SamplingParams`; what is left out, by default

This module does not know which attributes, anchors and rewards exist. The desk that uses the mix checks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mixer.errors import BadArtifact, InvalidValue, UnknownName
from mixer.values.bounds import bounded
from mixer.values.mix import COEFFICIENT_LIMIT, POSITION_LIMIT, RULES, Mix, Setting
from mixer.values.request import FIELDS, SAMPLING, read_sampling
from mixer.values.sampling import SamplingParams
from mixer.values.steering import REST, Steering

MOST_BYTES = 65_536
DEEPEST = 4  # levels of nesting: the file, its settings, one setting, and one more
KEYS = ("rule", FIELDS["positions"].argument, "raw", *REST.record(), "sampling")
SAMPLING_KEYS = tuple(FIELDS[name].argument for name in SAMPLING)
SETTING_KEYS = ("position", "alpha", "lambda")
HINT = "A mix file is YAML with `rule:`, `settings:` and `raw:`, as `python -m mixer export mix` writes it."


def save_mix(mix: Mix, path: Path | str, steering: Steering = REST, params: SamplingParams | None = None) -> Path:
    """Write a mix, a steering and sampling parameters as YAML, and return the path. An existing file is replaced.

    `load_mix` returns the same settings, rule and raw coefficients, `load_steering` the same steering, and
    `load_sampling` the same parameters.

    Raises:
        InvalidValue: the file would be larger than 64 KiB, or the steering has `cut`, `fused` or another `reach`.
        BadArtifact: the path cannot be written.
    """
    path = Path(path)
    if steering != Steering(steering.positions, steering.levels, steering.budget, steering.whole):
        raise InvalidValue("A mix file has no words for reach, cut and fused.", "Leave them at their defaults.")
    record = {
        "rule": mix.rule,
        "settings": {name: _written(setting) for name, setting in mix.settings.items()},
        "raw": {name: float(coefficient) for name, coefficient in mix.raw.items()},
    }
    if steering != REST:
        record |= steering.record()
    if sampling := params.record() if params else {}:
        record["sampling"] = sampling
    words = "".join(letter if letter.isprintable() else " " for letter in f"{mix} ({mix.rule})")
    header = (
        f"# A mix for the mixing desk: {words}\n# Key {mix.key}. Positions: -1 and 1 are the poles, 0 is at rest.\n"
    )
    # PyYAML reads some characters, such as U+0085, back changed unless it writes them as escapes.
    plain = all(name.isprintable() for name in (*mix.settings, *mix.raw, *steering.heads, *_texts(sampling)))
    body = yaml.safe_dump(record, sort_keys=False, allow_unicode=plain, default_flow_style=False, width=10**9)
    data = (header + body).encode()
    if len(data) > MOST_BYTES:
        raise InvalidValue(
            f"The mix takes {len(data):,} bytes as a file, and {MOST_BYTES:,} is the most.", "Leave out some settings."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path} cannot be written: {error}.", "Give another path.") from error
    return path


def load_mix(path: Path | str) -> Mix:
    """The mix in a YAML file. The whole file is checked; an error names the file and the key.

    Raises:
        BadArtifact: the file is missing, larger than 64 KiB, or no YAML of this form.
        UnknownName: a key or the rule is unknown.
        InvalidValue: a value is no number, or out of range.
    """
    return _loaded(Path(path))[0]


def load_steering(path: Path | str) -> Steering:
    """The steering in a mix file; at rest if the file has none. Raises the errors of `load_mix`."""
    return _loaded(Path(path))[1]


def load_sampling(path: Path | str) -> SamplingParams:
    """The sampling parameters in a mix file; the defaults if the file has none. Raises the errors of `load_mix`."""
    return _loaded(Path(path))[2]


def _loaded(path: Path) -> tuple[Mix, Steering, SamplingParams]:
    record = _parsed(path)
    _check_keys(path, "", record, KEYS)
    rule = record.get("rule", "offset")
    if rule not in RULES:
        raise UnknownName(f"mix rule (in {path}: rule)", str(rule), RULES)
    settings = {
        name: _setting(path, f"settings.{_shown(name)}", value)
        for name, value in _mapping(path, "settings", record.get("settings", {})).items()
    }
    raw = _numbers(path, "raw", record, (-COEFFICIENT_LIMIT, COEFFICIENT_LIMIT))
    return Mix(settings, rule, raw), _steering(path, record), _sampling(path, record)


def _steering(path: Path, record: Mapping[str, Any]) -> Steering:
    positions, levels = (_numbers(path, key, record, FIELDS[key].bounds()) for key in ("rewards", "levels"))
    for name in levels:
        if positions.get(name):
            raise BadArtifact(f"{path}: {_shown(name)} is in rewards and in levels.", "Leave out one of them.")
    whole = record.get("whole", FIELDS["whole"].default)
    if not isinstance(whole, bool):
        raise BadArtifact(f"{path}: whole must be true or false, not {str(whole)[:40]!r}.", HINT)
    budget = record.get("budget", FIELDS["budget"].default if positions or levels or whole else None)
    if budget is not None:
        budget = FIELDS["budget"].check(budget, noun=f"{path}: budget")
    return Steering(positions, levels, budget, whole)


def _sampling(path: Path, record: Mapping[str, Any]) -> SamplingParams:
    given = record.get("sampling", {})
    _check_keys(path, "sampling", given, SAMPLING_KEYS)
    try:
        return read_sampling(given)
    except InvalidValue as error:
        raise InvalidValue(f"{path}: sampling: {error.message}", error.hint) from None


def _texts(sampling: Mapping[str, Any]) -> list[str]:
    """All texts in a record of sampling parameters: stop texts, breakers and words."""
    return [text for value in sampling.values() if isinstance(value, list | dict) for text in value]


def _numbers(path: Path, key: str, record: Mapping[str, Any], bounds: tuple[float, float]) -> dict[str, float]:
    """The numbers by name under a key, each within the bounds."""
    values = _mapping(path, key, record.get(key, {}))
    return {name: bounded(f"{path}: {key}.{_shown(name)}", value, *bounds) for name, value in values.items()}


def _written(setting: Setting) -> float | dict[str, float]:
    """A setting in the shortest form from which it can be read back exactly."""
    alpha, lambda_, position = float(setting.alpha), float(setting.lambda_), float(setting.position)
    by_position = abs(position) <= POSITION_LIMIT and Setting.at(position).alpha == alpha
    if by_position and lambda_ == 1.0:
        return position
    return ({"position": position} if by_position else {"alpha": alpha}) | {"lambda": lambda_}


def _setting(path: Path, key: str, value: object) -> Setting:
    if not isinstance(value, Mapping):
        return Setting.at(bounded(f"{path}: {key}", value, -POSITION_LIMIT, POSITION_LIMIT))
    _check_keys(path, key, value, SETTING_KEYS)
    if ("position" in value) == ("alpha" in value):
        raise BadArtifact(f"{path}: {key} must have either a position or an alpha.", "Give one of them.")
    lambda_ = bounded(f"{path}: {key}.lambda", value.get("lambda", 1.0), -COEFFICIENT_LIMIT, COEFFICIENT_LIMIT)
    if "position" in value:
        return Setting.at(
            bounded(f"{path}: {key}.position", value["position"], -POSITION_LIMIT, POSITION_LIMIT), lambda_
        )
    low, high = (1 - POSITION_LIMIT) / 2, (1 + POSITION_LIMIT) / 2
    return Setting(bounded(f"{path}: {key}.alpha", value["alpha"], low, high), lambda_)


def _parsed(path: Path) -> Mapping[str, Any]:
    """The file as YAML. Refuses large files, aliases (which can expand a short file without limit) and double keys."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadArtifact(f"The mix file {path} cannot be read: {reason}.", "Check the path.") from error
    if len(data) > MOST_BYTES:
        raise BadArtifact(f"{path} is larger than {MOST_BYTES:,} bytes, so it is no mix file.", "Check the path.")
    try:
        text = data.decode("utf-8")
        _refuse_nesting(path, text)
        _refuse_double_keys(path, yaml.compose(text, Loader=yaml.SafeLoader))
        record = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bad bytes, bad dates, whole numbers of too many digits
        raise BadArtifact(f"{path} is no mix file: {' '.join(str(error).split())[:300]}.", HINT) from error
    return _mapping(path, "", record)


def _refuse_nesting(path: Path, text: str) -> None:
    """Raise BadArtifact if the text is nested too deeply or has an alias or an anchor."""
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        name = type(token).__name__
        depth += name.endswith(("MappingStartToken", "SequenceStartToken"))
        depth -= name in ("BlockEndToken", "FlowMappingEndToken", "FlowSequenceEndToken")
        if depth > DEEPEST or isinstance(token, yaml.AliasToken | yaml.AnchorToken):
            line = token.start_mark.line + 1
            what = "is nested too deeply" if depth > DEEPEST else "has an alias or anchor"
            raise BadArtifact(f"{path} {what} (line {line}), which no mix needs.", HINT)


def _refuse_double_keys(path: Path, node: yaml.Node | None) -> None:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):  # safe_load refuses other keys
                if key.value in seen:
                    raise BadArtifact(f"{path}: {_shown(key.value)} stands there twice.", "Leave out one of them.")
                seen.add(key.value)
            _refuse_double_keys(path, value)


def _mapping(path: Path, key: str, value: object) -> Mapping[str, Any]:
    """The value under a key, or the whole file if the key is empty; it must be a mapping whose keys are strings."""
    where = f"{path}: {key}" if key else str(path)
    if not isinstance(value, Mapping):
        raise BadArtifact(f"{where} must hold names with values, not {str(value)[:40]!r}.", HINT)
    for name in value:
        if not isinstance(name, str):
            raise BadArtifact(f"{where} has the key {str(name)[:40]!r}, which is no name.", "Put it in quotes.")
    return value


def _check_keys(path: Path, key: str, record: Mapping[str, Any], known: tuple[str, ...]) -> None:
    _mapping(path, key, record)
    for name in record:
        if name not in known:
            raise UnknownName(f"key (in {path}{': ' + key if key else ''})", name, known)


def _shown(name: str) -> str:
    """A name from the file, on one line and at most 60 characters long."""
    return " ".join(name.split())[:60]
