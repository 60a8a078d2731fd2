"""Mix files: a saved mix loads again bit for bit, and an error of a wrong file names the file and the key."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer import SamplingParams, Steering, load_mix, save_mix
from mixer.errors import BadArtifact, InvalidValue, MixerError, UnknownName
from mixer.files.mix_file import load_sampling, load_steering
from mixer.values.mix import RULES, Mix, Setting

names = st.one_of(
    st.sampled_from(["formality", "humor", "on", "1", "=", "<<", "null", "ü: #", "a\x85b", ""]), st.text()
)
shares = st.one_of(st.just(1.0), st.floats(-100, 100))
settings = st.one_of(
    st.builds(Setting.at, st.integers(-30, 30).map(lambda tenths: tenths / 10), shares),
    st.builds(Setting, st.floats(-1, 2), shares),
)
mixes = st.builds(
    Mix,
    st.dictionaries(names, settings, max_size=5),
    st.sampled_from(RULES),
    st.dictionaries(names, st.floats(-100, 100), max_size=5),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mixes") / "one.yaml"


@given(mix=mixes)
def test_a_mix_comes_back_from_its_file_exactly(file: Path, mix: Mix):
    loaded = load_mix(save_mix(mix, file))
    assert loaded == mix and loaded.key == mix.key
    assert (dict(loaded.settings), loaded.rule, dict(loaded.raw)) == (dict(mix.settings), mix.rule, dict(mix.raw))
    assert save_mix(loaded, file).read_bytes() == save_mix(mix, file).read_bytes()


@given(data=st.one_of(st.binary(max_size=200), st.text(alphabet="ab:.-[]{}&*!'\"#\n 01", max_size=80).map(str.encode)))
def test_any_bytes_are_a_mix_or_one_clear_line(file: Path, data: bytes):
    file.write_bytes(data)
    try:
        load_mix(file)
    except MixerError as error:
        assert str(file) in str(error) and "\n" not in str(error) and error.hint


def test_the_file_is_one_that_a_person_would_write(tmp_path: Path):
    mix = Mix({"formality": Setting.at(0.8), "humor": Setting.at(-0.4, 2.0)}, "offset", {"poetry.positive": 1.3})
    lines = save_mix(mix, tmp_path / "deep" / "mix.yaml").read_text().splitlines()
    assert lines[0] == "# A mix for the mixing desk: formality +0.80, humor -0.40, +1.30*poetry.positive (offset)"
    assert mix.key in lines[1]
    assert lines[2:] == [
        "rule: offset",
        "settings:",
        "  formality: 0.8",
        "  humor:",
        "    position: -0.4",
        "    lambda: 2.0",
        "raw:",
        "  poetry.positive: 1.3",
    ]


heads = st.dictionaries(names, st.floats(-3, 3), max_size=4)
budgets = st.none() | st.floats(0, 20)


@given(mixes, heads, st.dictionaries(names, st.floats(0, 1), max_size=4), budgets, st.booleans())
def test_how_rewards_steer_comes_back_too_and_leaves_the_mix_alone(
    file: Path, mix: Mix, positions: dict, levels: dict, budget: float | None, whole: bool
):
    levels = {name: level for name, level in levels.items() if name not in positions}
    steering = Steering(positions, levels, budget, whole)
    assert load_steering(save_mix(mix, file, steering)) == steering
    assert load_mix(file).key == mix.key
    assert load_steering(save_mix(mix, file)) == Steering(budget=None)


@given(
    st.builds(
        SamplingParams,
        temperature=st.floats(0, 10),
        stop=st.lists(st.text(min_size=1, max_size=9), max_size=3),
        seed=st.none() | st.integers(-1, 2**60),
        logit_bias=st.dictionaries(
            st.integers(0, 99) | st.text("abc =:\x85", min_size=1), st.floats(-100, 100), max_size=3
        ),
        repetition_penalty=st.floats(0.1, 10),
        frequency_penalty=st.floats(-2, 2),
        dry_sequence_breakers=st.lists(st.text(min_size=1, max_size=3), max_size=3),
    )
)
def test_sampling_parameters_come_back_too(file: Path, params: SamplingParams):
    mix = Mix({"humor": Setting.at(0.5)})
    assert load_sampling(save_mix(mix, file, params=params)) == params
    assert load_mix(file) == mix and load_sampling(save_mix(mix, file)) == SamplingParams()


def test_a_wrong_sampling_parameter_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "mix.yaml"
    for text, message in {
        "sampling: {temprature: 1}": "no key .* called 'temprature'. Did you mean temperature",
        "sampling: {min_p: 2}": "mix.yaml: sampling: min_p is 2, which is out of range",
        "sampling: {stop: ['']}": "mix.yaml: sampling: A text of stop is empty",
        "sampling: {logit_bias: {no: 1}}": "mix.yaml: sampling: logit_bias has 'False', which is no word",
        "sampling: 3": "sampling must hold names with values",
    }.items():
        path.write_text(text)
        with pytest.raises(MixerError, match=message):
            load_sampling(path)


def test_a_budget_that_is_left_out_is_the_default_where_anything_steers(tmp_path: Path):
    path = tmp_path / "mix.yaml"
    for text, expected in {
        "rewards: {humor: 0.5}\nlevels: {toxicity: 0}": Steering({"humor": 0.5}, {"toxicity": 0.0}),
        "rewards: {humor: 0.5}\nbudget: null": Steering({"humor": 0.5}, budget=None),
        "whole: true": Steering(whole=True),
        "settings: {humor: 1}": Steering(budget=None),
    }.items():
        path.write_text(text)
        assert load_steering(path) == expected
    with pytest.raises(InvalidValue, match="reach, cut and fused"):
        save_mix(Mix(), path, Steering(cut=True))


def test_what_is_left_out_is_at_rest(tmp_path: Path):
    (tmp_path / "mix.yaml").write_text("settings: {humor: 1, poetry: {alpha: 0.75, lambda: 2}}\n")
    assert load_mix(tmp_path / "mix.yaml") == Mix({"humor": Setting.at(1), "poetry": Setting(0.75, 2)})


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
BAD = {
    "unknown key": ("setings: {}", UnknownName, r"called 'setings'\. Did you mean settings or sampling\?"),
    "unknown key of a setting": ("settings: {humor: {positon: 1}}", UnknownName, r"settings\.humor.*positon.*position"),
    "unknown rule": ("rule: ofset", UnknownName, r"rule.*'ofset'.*offset"),
    "a rule that is a list": ("rule: [offset]", UnknownName, "rule"),
    "nan": ("settings: {humor: .nan}", InvalidValue, r"settings\.humor is nan"),
    "infinite lambda": (
        "settings: {humor: {position: 1, lambda: .inf}}",
        InvalidValue,
        r"humor\.lambda is far too large",
    ),
    "far": ("settings: {humor: {position: 4}}", InvalidValue, r"settings\.humor\.position is 4"),
    "far alpha": ("settings: {humor: {alpha: -2}}", InvalidValue, r"settings\.humor\.alpha is -2"),
    "a word": ("settings: {humor: warm}", InvalidValue, r"settings\.humor must be a number, not 'warm'"),
    "yes": ("raw: {humor.positive: yes}", InvalidValue, r"raw\.humor\.positive must be a number, not 'True'"),
    "nothing": ("settings: {humor: }", InvalidValue, r"settings\.humor must be a number"),
    "a list": ("settings: {humor: [1]}", InvalidValue, r"settings\.humor must be a number"),
    "settings as a list": ("settings: [humor]", BadArtifact, "settings must hold names"),
    "raw as a number": ("raw: 3", BadArtifact, "raw must hold names"),
    "a number for a name": ("settings: {1: 1}", BadArtifact, "key '1', which is no name"),
    "both": ("settings: {humor: {position: 1, alpha: 1}}", BadArtifact, "either a position or an alpha"),
    "neither": ("settings: {humor: {lambda: 1}}", BadArtifact, "either a position or an alpha"),
    "twice": ("settings: {humor: 1, humor: -1}", BadArtifact, "humor stands there twice"),
    "a far reward": ("rewards: {humor: 4}", InvalidValue, r"rewards\.humor is 4"),
    "a far level": ("levels: {humor: -1}", InvalidValue, r"levels\.humor is -1"),
    "a word as budget": ("budget: much", InvalidValue, "budget must be a number, not 'much'"),
    "a number as whole": ("whole: 1", BadArtifact, "whole must be true or false"),
    "a reward twice": ("rewards: {humor: 1}\nlevels: {humor: 1}", BadArtifact, "humor is in rewards and in levels"),
    "empty": ("", BadArtifact, "must hold names"),
    "no yaml": ("settings: {", BadArtifact, "is no mix file"),
    "an object": ("rule: !!python/object/apply:os.getcwd []", BadArtifact, "is no mix file"),
    "a bad date": ("rule: 2020-99-99", BadArtifact, "is no mix file"),
    "aliases": (BOMB, BadArtifact, "alias or anchor"),
    "deep": ("[" * 60_000, BadArtifact, "nested too deeply"),
    "large": ("# " + "x" * 70_000, BadArtifact, "larger than 65,536 bytes"),
    "a long number": ("raw: {humor.positive: " + "9" * 5000 + "}", BadArtifact, "is no mix file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_mix_is_refused_with_its_name_and_key(tmp_path: Path, name: str):
    text, kind, message = BAD[name]
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    start = time.perf_counter()
    with pytest.raises(kind, match=message) as caught:
        load_mix(path)
    assert str(path) in str(caught.value) and caught.value.hint and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700 and time.perf_counter() - start < 5


def test_what_cannot_be_read_or_written_is_named(tmp_path: Path):
    with pytest.raises(BadArtifact, match=r"nowhere\.yaml cannot be read"):
        load_mix(tmp_path / "nowhere.yaml")
    for bad in (tmp_path, "a\0b"):
        with pytest.raises(BadArtifact, match="cannot be read"):
            load_mix(bad)
        with pytest.raises(BadArtifact, match="cannot be written"):
            save_mix(Mix(), bad)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(BadArtifact, match="is no mix file"):
        load_mix(tmp_path / "bytes.yaml")


def test_a_mix_too_large_for_its_file_is_not_written(tmp_path: Path):
    mix = Mix(raw={f"{number}.positive": math.pi for number in range(3000)})
    with pytest.raises(InvalidValue, match="65,536 is the most"):
        save_mix(mix, tmp_path / "mix.yaml")
    assert not (tmp_path / "mix.yaml").exists()
