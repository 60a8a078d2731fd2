"""Files of pairs that people write: what is wrong is named by line, what is odd is warned of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mixer.errors import BadArtifact
from mixer.training.data import split_of
from mixer.training.pair_file import check_pairs


def pair(number: int, **changes: str) -> dict[str, str]:
    opening = f"On day {number} the cook"
    return {"opening": opening, "positive": f"{opening} sang aloud.", "negative": f"{opening} said nothing."} | changes


def write(path: Path, records: list) -> Path:
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def written(tmp_path: Path) -> Callable[[list], Path]:
    return lambda records: write(tmp_path / "mine.jsonl", records)


def test_a_sound_file_gives_its_pairs_dealt_out(written):
    found = check_pairs(written([pair(i) for i in range(120)]))
    assert len(found.pairs) == 120 and found.warnings == ()
    assert sum(found.splits.values()) == 120
    assert found.splits["test"] == sum(split_of(one.opening) == "test" for one in found.pairs)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "line 2: Expecting"),
        ("[1, 2]", "line 2: it is no JSON object"),
        ({"opening": "On day"}, 'line 2: it has no "positive"'),
        (pair(1, positive=7), 'line 2: its "positive" is no text'),  # type: ignore[arg-type]
        (pair(1, negative="Another day."), "line 2: the negative text does not begin with the opening 'On day 1"),
        (pair(1, positive="On day 1 the cook "), "line 2: the positive text ends where the opening ends"),
        (pair(1, opening=" "), "line 2: the opening is empty"),
        (pair(1, negative=pair(1)["positive"]), "line 2: both texts are the same"),
        (pair(0), "line 2 repeats a text of line 1"),
    ],
)
def test_a_wrong_line_is_named(line, says: str, written):
    with pytest.raises(BadArtifact) as caught:
        check_pairs(written([pair(0), line, *map(pair, range(2, 40))]))
    assert f"mine.jsonl has lines that cannot be used. {says}" in str(caught.value)
    assert "begin with the opening and differ behind it" in caught.value.hint


def test_the_first_wrong_lines_are_told_and_the_rest_is_counted(written):
    with pytest.raises(BadArtifact, match=r"line 5: Expecting.*; and 4 more"):
        check_pairs(written(["{"] * 9))


def test_too_few_pairs_are_refused_or_warned_of(written):
    with pytest.raises(BadArtifact, match="has 19 pairs, and 20 are the least"):
        check_pairs(written([*map(pair, range(19)), ""]))
    with pytest.raises(BadArtifact, match=r"of the pairs in .* fall to the judges, and 4 are the least"):
        check_pairs(written([one for one in map(pair, range(90)) if split_of(one["opening"]) == "anchor"]))
    (warning,) = check_pairs(written(list(map(pair, range(60))))).warnings
    assert "60 pairs" in warning


def test_unequal_lengths_and_openings_that_come_again_are_warned_of(written):
    records = [pair(i, positive=f"On day {i} the cook sang " + "and sang " * 9) for i in range(119)]
    records.append(pair(0, positive="On day 0 the cook left.", negative="On day 0 the cook stayed."))
    warnings = " ".join(check_pairs(written(records)).warnings)
    assert "19 words on average and the negative ones 2" in warnings
    assert "more than three times as long as the other in line 1, 2, 3, 4, 5, ..." in warnings
    assert "1 openings stand in several lines, such as 'On day 0 the cook'" in warnings
