from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.formula.bind import Vocabulary, bind
from mixer.formula.compile import compile_formula
from mixer.formula.parser import parse
from mixer.formula.tree import Term
from mixer.ui.state.controls import LIMIT
from mixer.ui.state.formula_text import positions_of, recipe, rewrite
from mixer.values.mix import Attribute

LABELS = {
    "formality": ("informal", "formal"),
    "politeness": ("rude", "polite"),
    "sentiment": ("negative", "positive"),
    "my-tone": ("less my-tone", "more my-tone"),
    "base-ness": ("base", "sliders"),  # labels that mean something else
    "register": ("informal", "lofty"),  # a label that another attribute has already
}
VOCABULARY = Vocabulary({name: Attribute(name, None, None, labels) for name, labels in LABELS.items()}, ("politeness",))

steps = st.integers(-30, 30).map(lambda n: n / 20)
anywhere = st.floats(-LIMIT, LIMIT).filter(lambda x: x == 0 or abs(x) > 1e-9)
positions = st.dictionaries(st.sampled_from(list(LABELS)), steps | anywhere)
space = st.sampled_from(["", " ", "\n  ", " # a - b\n "])


def read(text: str) -> Mapping[str, float] | None:
    return positions_of(parse(text), VOCABULARY)


def write(text: str, wanted: Mapping[str, float]) -> str:
    return rewrite(parse(text), VOCABULARY, wanted)


@st.composite
def mixes(draw: st.DrawFn) -> str:
    """Weight mixes as a person may write them."""
    text, first = draw(space), True
    for name in draw(st.lists(st.sampled_from(list(LABELS)), unique=True, max_size=4)):
        size = draw(st.sampled_from(["", "0.7*", "0*", "1.25 * ", ".3*", "1e-1*"]))
        minus = draw(st.booleans())
        if draw(st.booleans()):
            word = f'"{name}"' if "-" in name else name
        else:
            word, minus = f'"{name}.{draw(st.sampled_from(["negative", "positive"]))}"', False
        if draw(st.integers(0, 3)) == 0:
            share = size.rstrip("* ").replace("1e-1", "0.1") or "1"
            text += ("" if first else " ") + f"<lora:{word.strip(chr(34))}:{'-' if minus else ''}{share}>"
        else:
            sign = "-" if minus else "" if first else "+"
            text += sign + draw(space) + size + word
        text += draw(space)
        first = False
    return draw(space) + "[" + (text if not first else "base") + "]" + draw(space)


@given(mixes())
def test_text_to_positions_to_text_changes_nothing(text: str) -> None:
    found = read(text)
    assert found is not None
    assert write(text, found) == text


@given(mixes(), positions)
def test_positions_to_text_to_positions_changes_nothing(text: str, wanted: dict[str, float]) -> None:
    moved = write(text, wanted)
    assert read(moved) == {name: x for name, x in wanted.items() if x}
    assert write(moved, wanted) == moved


@given(mixes(), positions)
def test_what_does_not_move_keeps_its_words(text: str, wanted: dict[str, float]) -> None:
    found = read(text)
    assert found is not None
    term = parse(text).result
    assert isinstance(term, Term)
    moved = write(text, {name: wanted.get(name, 0.0) if name == "formality" else x for name, x in found.items()})
    for part in term.mix:
        if "formality" not in part.name and part.name != "base":
            assert text[slice(*part.span)] in moved


@given(positions)
def test_a_text_means_the_same_model_as_the_sliders_it_was_made_from(wanted: dict[str, float]) -> None:
    (branch,) = bind(parse(write("[base]", wanted)), VOCABULARY).branches
    raw = {f"{name}.{'positive' if x > 0 else 'negative'}": abs(x) for name, x in wanted.items() if x}
    assert dict(branch.mix.weights) == raw
    assert branch.follows == 0


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [
        ("[0.7*formal + 0.3*polite]", {"formality": 0.4, "politeness": 0.3}, "[0.40*formal + 0.3*polite]"),
        ("[0.7*formal + 0.3*polite]", {"formality": -0.4, "politeness": 0.3}, "[0.40*informal + 0.3*polite]"),
        ("[0.7*formal + 0.3*polite]", {"politeness": 0.3}, "[0.3*polite]"),
        ("[0.7*formal]", {"formality": 0.7, "politeness": -0.4}, "[0.7*formal + 0.40*rude]"),
        ("[0.7*formal + 0.3*polite]", {}, "[base]"),
        ("formal", {"formality": 1.0}, "formal"),
        ("formal", {"formality": 0.5}, "[0.50*formal]"),
        ("base", {"formality": 0.5}, "[0.50*formal]"),
        ("base", {}, "base"),
        ("[ -0.5*formality ]", {"formality": 0.5}, "[ 0.50*formality ]"),
        ("[polite-0.5*formality]", {"formality": -0.5}, "[-0.5*formality]"),
        ("[formality.positive]", {"formality": -0.25}, "[0.25*formality.negative]"),
        ("[\n  0.7*formal  # a\n  + 0.3*polite  # b\n]", {"politeness": 1.0}, "[\n  1.00*polite  # b\n]"),
        ("<lora:formal:0.7> <lora:rude>", {"formality": 0.7}, "[<lora:formal:0.7>]"),
        ("<lora:formal:0.7> <lora:rude>", {"formality": 0.7, "politeness": -0.5}, "[<lora:formal:0.7> + 0.50*rude]"),
        ("[base]", {"my-tone": -0.3}, '[0.30*"less my-tone"]'),
        ("[base]", {"base-ness": -0.3}, '[0.30*"base-ness.negative"]'),
    ],
)
def test_examples(text: str, wanted: dict[str, float], expected: str) -> None:
    assert write(text, wanted) == expected


@pytest.mark.parametrize(
    "text",
    [
        "sliders",
        "[sliders + 0.3*polite]",
        "2*[formal]",
        "[formal] + [polite]",
        '[formal] @ "x"',
        "[2*formal]",
        "[-0.5*polite]",
        "[0.2*polite + 0.2*rude]",
        "[polite + politeness]",
        "a = formal; [polite]",
        "a = formal; a",
        "norm(formal)",
    ],
)
def test_other_formulas_are_no_positions_and_stay_as_they_are(text: str) -> None:
    assert read(text) is None
    assert write(text, {"formality": 0.5}) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sliders", "sliders"),
        ("base", "mix"),
        ("[0.5*formal]", "mix"),
        ("[0.5*sliders + polite]", "sliders"),
        ("a = sliders; 2*formal + a", "sliders"),
        ("a = sliders; formal - 0.1*polite", "none"),
        ("supersede(sliders, formal)", "sliders"),
        ('[formal] @ "x"', "none"),
        ("[formal - 0.1*polite]", "none"),
    ],
)
def test_how_the_sliders_act(text: str, expected: str) -> None:
    assert recipe(compile_formula(text, VOCABULARY), VOCABULARY).tie == expected
