"""Every field of a request has the same name, default and bounds at every door; all are read from the one table."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import yaml

from mixer import Desk, Mix, Request, SamplingParams, Setting, Steering
from mixer.cli.generate import add
from mixer.cli.options import read_mix, read_params, read_steering
from mixer.errors import MixerError
from mixer.files.csv_table import read_table
from mixer.files.mix_file import KEYS, load_mix, load_steering, save_mix
from mixer.tasks.batch_csv import BatchTable
from mixer.ui.api import GENERATE, generate
from mixer.ui.state.link import read_query
from mixer.ui.state.page_state import NAMES, PageState, read_state
from mixer.values.request import FIELDS, Field

NUMBERS = [field for field in FIELDS.values() if field.kind in (int, float, dict)]
SAMPLING = set(inspect.signature(SamplingParams).parameters)
Door = Callable[[Field, float, Desk, Path], Any]  # reads one number of a field there, or raises


def own(field: Field, number: float, desk: Desk) -> Any:
    """A field's value; of the kind `dict` for one attribute, reward head or token id."""
    if field.kind is not dict:
        return number
    if field.name == "bias":
        return {"7": number}
    return {next(iter(desk.attributes)) if field.name == "positions" else desk.rewards[0]: number}


def python(field: Field, number: float, desk: Desk, folder: Path) -> Any:
    if field.argument in SAMPLING:
        more = {"max_new_tokens": 100_000} if field.name == "fewest_tokens" else {}
        return SamplingParams(**{**more, field.argument: own(field, number, desk)})
    if field.name == "positions":
        return Setting.at(number)
    return Steering(**{"positions" if field.name == "rewards" else field.name: own(field, number, desk)})


def command_line(field: Field, number: float, desk: Desk, folder: Path) -> Any:
    value = own(field, number, desk)
    words = [f"{name}={x!r}" for name, x in value.items()] if field.kind is dict else [repr(value)]
    more = ["--max-new-tokens=100000"] if field.name == "fewest_tokens" else []
    options = parsed([f"{field.flag}={word}" for word in words] + more)
    return read_mix(options), read_steering(options), read_params(options)


def mix_file(field: Field, number: float, desk: Desk, folder: Path) -> Any:
    path = folder / "mix.yaml"
    asked: dict[str, Any] = {field.argument: own(field, number, desk)}
    if field.argument in SAMPLING:
        more = {"max_new_tokens": 100_000} if field.name == "fewest_tokens" else {}
        asked = {"sampling": more | asked}
    path.write_text(yaml.safe_dump(asked))
    return load_mix(path), load_steering(path)


def page(field: Field, number: float, desk: Desk, folder: Path) -> Any:
    return read_state({field.name: own(field, number, desk)}, desk.attributes, desk.rewards)


def link(field: Field, number: float, desk: Desk, folder: Path) -> Any:
    value = own(field, number, desk)
    keys = [f"{field.link}{name}" for name in value] if field.kind is dict else [field.link]
    answer = read_query(f"v=1&{keys[0]}={number!r}", desk.attributes, desk.rewards)
    assert answer is not None
    if answer[1]:
        raise MixerError(answer[1][0])
    return answer[0]


def endpoint(field: Field, number: float, desk: Desk, folder: Path) -> Any:
    more = {"max_new_tokens": 1000} if field.name == "fewest_tokens" else {}
    return generate(desk, lambda *asked: str(asked))("A", **{**more, field.argument: own(field, number, desk)})


def csv(served: bool) -> Door:
    def read(field: Field, number: float, desk: Desk, folder: Path) -> Any:
        value = own(field, number, desk)
        column = f"{field.column or field.link}{next(iter(value))}" if field.kind is dict else field.column
        most = FIELDS["tokens"].bounds(served)[1]
        more = (",tokens", f",{most:.0f}") if field.name == "fewest_tokens" else ("", "")
        table = read_table(f"prompt,{column}{more[0]}\nA,{number!r}{more[1]}", "prompt")
        [job] = BatchTable(desk, table, Request(""), served).jobs
        if job.error:
            raise MixerError(job.error)
        return job.request

    return read


DOORS: Mapping[str, tuple[Door, bool, set[str]]] = {  # how to read there, whether it is a server's, its fields
    "Python": (python, False, SAMPLING | {"settings", "rewards", "levels", "budget"}),
    "command line": (command_line, False, {field.argument for field in NUMBERS if field.flag}),
    "mix file": (mix_file, False, SAMPLING | set(KEYS)),
    "CSV": (csv(False), False, {field.argument for field in NUMBERS if field.column or field.kind is dict}),
    "CSV of the page": (csv(True), True, {field.argument for field in NUMBERS if field.column or field.kind is dict}),
    "page": (page, True, {FIELDS[name].argument for name in NAMES}),
    "link": (link, True, {field.argument for field in NUMBERS if field.link}),
    "API": (endpoint, True, {FIELDS[name].argument for name in GENERATE}),
}
CASES = [(door, field) for door, (_, _, known) in DOORS.items() for field in NUMBERS if field.argument in known]


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    return parser.parse_args(["generate", *words, "--", "A"])


@pytest.mark.parametrize(("door", "field"), CASES, ids=[f"{door}-{field.name}" for door, field in CASES])
def test_a_number_may_be_as_low_and_as_high_as_the_table_says(
    door: str, field: Field, desk: Desk, tmp_path: Path
) -> None:
    read, served, _ = DOORS[door]
    low, high = field.bounds(served)
    least = 1 if field.kind is int else 1e-6
    for number in (low, high):
        read(field, int(number) if field.kind is int else number, desk, tmp_path)
    for number in (low - least, high + least if high < 2**53 else 2.0 * high):
        with pytest.raises((MixerError, gr.Error)):
            read(field, int(number) if field.kind is int else number, desk, tmp_path)


def test_what_is_left_out_is_as_the_table_says(desk: Desk) -> None:
    options = vars(parsed([]))
    parameters = inspect.signature(generate(desk, lambda *asked: "")).parameters
    state = PageState().json()
    for name, field in FIELDS.items():
        if field.argument in SAMPLING:
            assert getattr(SamplingParams(), field.argument) == field.default
            assert options[field.argument] is None  # so that a mix file's value stays
        if name in NAMES:
            assert state[name] == (field.opening if field.kind is not dict else {})
        if name in GENERATE and field.kind not in (dict, tuple) and name != "budget":
            assert parameters[field.argument].default == field.default
    assert read_params(parsed([])) == SamplingParams()
    assert [FIELDS[name].argument for name in GENERATE] == list(parameters)
    assert Steering().budget == FIELDS["budget"].default and Steering().whole == FIELDS["whole"].default
    assert list(Steering().record()) == ["rewards", "levels", "budget", "whole"]
    assert read_steering(parsed(["--whole"])) == Steering(whole=True) and read_mix(parsed([])) == Mix()


def test_texts_and_biases_on_the_command_line_and_options_before_the_mix_file(tmp_path: Path) -> None:
    words = ["--stop=x", "--stop=y z", "--logit-bias=a=b=2", "--logit-bias=7=-100", "--dry-sequence-breaker=."]
    asked: dict[str, Any] = {"stop": ["x", "y z"], "logit_bias": {"a=b": 2, 7: -100}, "dry_sequence_breakers": ["."]}
    assert read_params(parsed(words)) == SamplingParams(**asked)
    file = save_mix(Mix(), tmp_path / "mix.yaml", params=SamplingParams(top_k=4, min_p=0.2, stop=["end"]))
    params = read_params(parsed([f"--mix={file}", "--top-k=0", "--seed=-1"]))
    assert params == SamplingParams(min_p=0.2, stop=["end"])
    with pytest.raises(MixerError, match="--logit-bias 'a' is not a setting"):
        read_params(parsed(["--logit-bias=a"]))


def test_the_endpoint_takes_texts_and_words(desk: Desk) -> None:
    asked = []
    write = generate(desk, lambda prompt, value, params, formula: str(asked.append(params)))
    more: dict[str, Any] = {
        "stop": ["x"],
        "logit_bias": {"the": -5, "7": 1},
        "dry_sequence_breakers": [],
        "repetition_penalty": 1.2,
    }
    write("A", seed=3, **more)
    assert asked == [SamplingParams(seed=3, **more)]
    with pytest.raises(gr.Error, match="is several tokens"):
        generate(desk)("A", logit_bias={"qzxqzxqzx": 1.0}, max_new_tokens=2)
