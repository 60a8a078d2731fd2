"""Where every control of the page stands, as one value: it holds all that makes a text again.

Knows neither Gradio nor the desk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mixer.errors import InvalidValue
from mixer.ui.state.controls import options, read_box, read_positions, read_steering, read_text
from mixer.values.chat import Prompt, prompt_of
from mixer.values.request import FIELDS
from mixer.values.steering import REST, Steering

NAMES = tuple(field.name for field in FIELDS.values() if field.link)  # of a state's fields, in the order of its JSON
PENALTIES: tuple[str, ...] = ("repetition_penalty", "presence_penalty", "frequency_penalty", "dry_multiplier")
DECK = ("positions", *REST.record(), "decouple")  # those that the deck holds


@dataclass(frozen=True)
class PageState:
    """Where every control of the page stands; see `mixer.values.request.FIELDS` for what each field means.

    Attributes:
        formula: as text, right or wrong.
        positions: attribute -> slider position; those at rest are left out.
        steering: the reward sliders and their budget.
        seed: None for an empty box; it is None where -1 was given.
    """

    prompt: str = FIELDS["prompt"].opening
    formula: str = FIELDS["formula"].opening
    positions: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    steering: Steering = field(default_factory=Steering)
    mode: str = FIELDS["mode"].opening
    temperature: float = FIELDS["temperature"].opening
    tokens: int = FIELDS["tokens"].opening
    seed: int | None = FIELDS["seed"].opening
    rate: float = FIELDS["rate"].opening
    fresh: bool = FIELDS["fresh"].opening
    decouple: bool = FIELDS["decouple"].opening
    repetition_penalty: float = FIELDS["repetition_penalty"].opening
    presence_penalty: float = FIELDS["presence_penalty"].opening
    frequency_penalty: float = FIELDS["frequency_penalty"].opening
    dry_multiplier: float = FIELDS["dry_multiplier"].opening
    reply: bool = FIELDS["reply"].opening
    system: str = FIELDS["system"].opening

    def __post_init__(self) -> None:
        if self.seed == -1:
            object.__setattr__(self, "seed", None)

    @property
    def asked(self) -> Prompt:
        """What is written on from: the prompt, or a conversation that it ends.

        Raises:
            InvalidValue: it is to be replied to, and is blank.
        """
        return prompt_of(self.prompt, self.reply, self.system)

    @property
    def penalties(self) -> dict[str, Any]:
        """The penalties that are not neutral, by name."""
        return {name: value for name in PENALTIES if (value := getattr(self, name)) != FIELDS[name].default}

    @property
    def steers(self) -> Steering:
        """The steering of the text: none at all where the reward sliders and the budget are all at rest."""
        return REST if self.steering == Steering() else self.steering

    def json(self) -> dict[str, Any]:
        """The state as the browser keeps it, `{name: value}` for all `NAMES`; `read_state` reads it back."""
        values = {**vars(self), **self.steering.record()}
        return {
            name: dict(sorted(values[name].items())) if FIELDS[name].kind is dict else values[name] for name in NAMES
        }


def read_state(posted: object, names: Collection[str], heads: Collection[str]) -> PageState:
    """A state as the browser sends it, checked; what is missing is as in a new page.

    Raises:
        UnknownName: it names an attribute that is not in `names`, or a reward that is not in `heads`.
        InvalidValue: anything else is not as the page sends it.
    """
    if not isinstance(posted, Mapping):
        raise InvalidValue("The state is not an object.", "Send one as the page does.")
    state = {**PageState().json(), **posted}
    seed = None if state["seed"] == -1 else state["seed"]
    more = {name: state[name] for name in PENALTIES}
    params = options(state["tokens"], state["temperature"], 0 if seed is None else seed, more)
    return PageState(
        read_text("The prompt", state["prompt"]),
        read_box({"text": state["formula"]}).text,
        read_positions(state["positions"], names),
        read_steering(state, heads),
        temperature=params.temperature,
        tokens=params.max_new_tokens,
        seed=None if seed is None else params.seed,
        system=read_text("The system message", state["system"]),
        **{name: getattr(params, name) for name in PENALTIES},
        **{name: FIELDS[name].check(state[name], True) for name in ("mode", "rate", "fresh", "decouple", "reply")},
    )
