"""What a text was written under, as JSON: it goes to the browser with the last frame, and comes back to be replayed.

So the server keeps nothing, and texts of the history can be replayed too. What comes back may be anything, and is
checked. Knows neither Gradio nor the browser session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from mixer.errors import InvalidValue, Unsupported
from mixer.ui.state.controls import MOST_TOKENS, options, read_box, read_positions, read_steering
from mixer.values.chat import Conversation
from mixer.values.request import FIELDS, SAMPLING
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.decoding.session import Session
    from mixer.decoding.steps import Segment
    from mixer.desk import Desk

MOST_READ = 60_000  # tokens of prefill that one replay may do again because sliders moved
DIGITS = 9  # decimals of a position, more than any slider has
KEPT = tuple(FIELDS[name].argument for name in SAMPLING if name == "bias" or "penalty" in name or "dry" in name)


def write_written(session: Session, formula: str | None) -> dict[str, Any] | None:
    """`{formula, temperature, least, penalties, parts}` of a text, and `messages` of a reply; None without tokens.

    `least` is `min_new_tokens`, and `penalties` has the bias and the penalties that are not neutral.

    A part is a `mixer.decoding.session.Segment`: `{tokens, exact, positions}` and what `read_steering` reads.
    """
    params = session.params
    parts = [_part(segment) for segment in session.segments]
    penalties = {name: value for name, value in params.record().items() if name in KEPT}
    written: dict[str, Any] = {"formula": formula, "temperature": params.temperature, "least": params.min_new_tokens}
    asked = session.prompted.prompt
    if isinstance(asked, Conversation):
        written["messages"] = [message.record() for message in asked.messages]
    return {**written, "penalties": penalties, "parts": parts} if parts else None


def _part(segment: Segment) -> dict[str, Any]:
    return {
        "tokens": list(segment.token_ids),
        "exact": segment.exact,
        "positions": {name: round(setting.position, DIGITS) for name, setting in segment.mix.settings.items()},
        **segment.steering.record(),
    }


def read_written(posted: object, desk: Desk) -> tuple[list[Segment], SamplingParams, str | None]:
    """What `write_written` wrote, checked; the replay itself checks the tokens.

    Raises:
        UnknownName, InvalidValue: it is not as the page sends it. Unsupported: the sliders moved too often.
    """
    parts = posted.get("parts") if isinstance(posted, Mapping) else None
    if not isinstance(posted, Mapping) or not isinstance(parts, list):
        raise InvalidValue("The text is not as the page keeps it.", "Send {formula, temperature, least, parts}.")
    segments = [_segment(part, desk) for part in parts[:MOST_TOKENS]]
    sizes = [len(segment.token_ids) for segment in segments]
    if not all(sizes) or len(segments) < len(parts):
        raise InvalidValue("A part of the text has no tokens.", "Leave it out.")
    penalties = posted.get("penalties", {})
    if not isinstance(penalties, Mapping) or not set(penalties) <= set(KEPT):
        raise InvalidValue("The penalties are not as the page keeps them.", f"Send some of {', '.join(KEPT)}.")
    params = options(sum(sizes), posted.get("temperature"), 0, penalties)
    before = accumulate(sizes[:-1])
    if sum(size for size, segment in zip(before, segments[1:], strict=True) if segment.exact) > MOST_READ:
        hint = "Choose keep in the options, or a shorter text."
        raise Unsupported("The sliders moved too often in this text to read it anew each time.", hint)
    formula = posted.get("formula")
    text = None if formula is None else read_box({"text": formula}).text
    fewest = FIELDS["fewest_tokens"].check(posted.get("least", 0), True)
    return segments, replace(params, min_new_tokens=min(fewest, params.max_new_tokens)), text


def _segment(part: object, desk: Desk) -> Segment:
    from mixer.decoding.steps import Segment

    if not isinstance(part, Mapping):
        raise InvalidValue("A part of the text is not an object.", "Send {tokens, exact, positions}.")
    tokens, exact = part.get("tokens"), part.get("exact", True)
    if not isinstance(tokens, list) or not isinstance(exact, bool):
        raise InvalidValue("The tokens are no list, or exact is not true or false.", "Send {tokens, exact}.")
    mix = desk.mix(read_positions(part.get("positions", {}), desk.attributes))
    return Segment(tuple(tokens), mix, read_steering(part, desk.rewards), exact)
