"""What other programs can post: the named endpoint, and values that no page would send."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from mixer import Desk, SamplingParams, Steering
from tests.browser.conftest import Server
from tests.factory import TEMPLATE

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]


def test_the_endpoint_writes_what_the_desk_writes(server: Server, desk: Desk) -> None:
    client = Client(server.url, verbose=False, analytics_enabled=False)
    settings = {next(iter(desk.attributes)): 0.5}
    params = SamplingParams(max_new_tokens=12, seed=3)
    text = client.predict("The door was", settings, 12, 0.8, 3, api_name="/generate")
    assert text == desk.generate("The door was", mix=desk.mix(settings), params=params).text
    for bad in ({"nonsense": 1.0}, {next(iter(desk.attributes)): 9.0}, {next(iter(desk.attributes)): "x"}):
        with pytest.raises(AppError) as refused:
            client.predict("The door was", bad, 12, 0.8, 3, api_name="/generate")
        assert "Traceback" not in str(refused.value)
    formula = f"1.5*sliders - 0.5*[{next(iter(desk.attributes))}]"
    text = client.predict("The door was", settings, 12, 0.8, 3, formula, api_name="/generate")
    assert text == desk.generate("The door was", desk.mix(settings), params, formula).text
    with pytest.raises(AppError, match="Line 1, column 11"):
        client.predict("The door was", settings, 12, 0.8, 3, "sliders + plite", api_name="/generate")
    steering = Steering({desk.rewards[0]: 1.0}, {desk.rewards[-1]: 0.0}, budget=0.5)
    asked = (dict(steering.positions), dict(steering.levels), 0.5, False)
    text = client.predict("The door was", settings, 12, 0.8, 3, None, *asked, api_name="/generate")
    assert text == desk.generate("The door was", desk.mix(settings), params, steering=steering).text
    with pytest.raises(AppError, match="no reward called 'charm'"):
        client.predict("The door was", settings, 12, 0.8, 3, None, {"charm": 1.0}, api_name="/generate")
    with pytest.raises(AppError, match="budget is -1"):
        client.predict("The door was", settings, 12, 0.8, 3, None, {}, {}, -1, api_name="/generate")
    with pytest.raises(AppError, match="prompt is empty"):
        client.predict("", {}, 12, 0.8, 3, api_name="/generate")


def test_what_is_left_out_has_a_default_and_whole_numbers_are_numbers(server: Server, desk: Desk) -> None:
    client = Client(server.url, verbose=False, analytics_enabled=False)
    text = client.predict("The door was", max_new_tokens=6, temperature=1, seed=3, api_name="/generate")
    params = SamplingParams(max_new_tokens=6, temperature=1.0, seed=3)
    assert text == desk.generate("The door was", params=params).text
    for bad, reason in (
        ({"max_new_tokens": 6.5}, "not a whole number"),
        ({"min_new_tokens": 200}, "min_new_tokens is 200, which is out of range"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"settings": []}, "not an object"),
        ({"rewards": {"charm": 1}}, "no reward called 'charm'"),
        ({"whole": 1}, "not true or false"),
        ({"formula": 7}, "not a text"),
        ({"prompt": ["The"]}, "not a text"),
    ):
        with pytest.raises(AppError, match=reason):
            client.predict(**{"prompt": "The door was", **bad}, api_name="/generate")


MESSAGES = [
    {"role": "user", "content": "Is the door open?"},
    {"role": "assistant", "content": "It is."},
    {"role": "user", "content": "Then close it."},
]


def test_the_endpoint_replies_to_messages(server: Server, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(server.url, verbose=False, analytics_enabled=False)
    how = {"max_new_tokens": 6, "temperature": 0.8, "seed": 3, "api_name": "/generate"}
    params = SamplingParams(max_new_tokens=6, temperature=0.8, seed=3)
    with pytest.raises(AppError, match="no chat template"):
        client.predict(messages=MESSAGES, **how)
    monkeypatch.setattr(desk.tokenizer, "chat_template", TEMPLATE)
    text = desk.chat(MESSAGES, params=params).text
    assert client.predict(messages=MESSAGES, **how) == text != ""
    assert client.predict("", messages=MESSAGES, chat=True, **how) == text
    assert client.predict("Close it.", chat=True, **how) == desk.chat("Close it.", params=params).text
    told = [{"role": "system", "content": "Be brief.\nBe kind."}, *MESSAGES]
    asked = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    assert client.predict(messages=asked, system="Be kind.", **how) == desk.chat(told, params=params).text
    event = httpx.post(
        f"{server.url}gradio_api/call/v2/generate", json={"messages": MESSAGES, "max_new_tokens": 6, "seed": 3}
    ).json()
    assert json.dumps([text]) in httpx.get(f"{server.url}gradio_api/call/generate/{event['event_id']}").text


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"prompt": "The door was", "messages": MESSAGES}, "a prompt beside the messages"),
        ({}, "The prompt is empty"),
        ({"messages": []}, "A conversation has 1 to 1,000 messages, not 0"),
        ({"messages": [MESSAGES[0]] * 1001}, "A conversation has 1 to 1,000 messages, not 1,001"),
        ({"messages": MESSAGES[:2]}, "the last message is not the user's"),
        ({"messages": "Close it."}, "The messages are not a list"),
        ({"messages": {"role": "user", "content": "Close it."}}, "The messages are not a list"),
        ({"messages": [{"role": "user", "content": ["Close it."]}]}, "The content of message 1 is no text"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "Message 1 has no role out of system, user, assistant"),
        ({"messages": [*MESSAGES[:2], {"role": "user", "content": "x" * 500_000}]}, "prompt has 500,0.. characters"),
        ({"messages": [{"role": "user", "content": "word " * 900}] * 9}, "this model reads"),
        ({"messages": [None]}, "Message 1 has no role"),
    ],
)
def test_messages_that_cannot_be_replied_to_are_refused_in_words(
    server: Server, desk: Desk, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr(desk.tokenizer, "chat_template", TEMPLATE)
    client = Client(server.url, verbose=False, analytics_enabled=False)
    with pytest.raises(AppError, match=reason):
        client.predict(**asked, api_name="/generate")


def test_curl_may_name_its_arguments_and_leave_the_others_out(server: Server, desk: Desk) -> None:
    url = f"{server.url}gradio_api/call/"
    event = httpx.post(f"{url}v2/generate", json={"prompt": "The door was", "max_new_tokens": 6, "seed": 3}).json()
    answer = httpx.get(f"{url}generate/{event['event_id']}").text
    text = desk.generate("The door was", params=SamplingParams(max_new_tokens=6, temperature=0.8, seed=3)).text
    assert answer.startswith("event: complete")
    assert json.loads(answer.split("data: ")[1]) == [text]


def test_the_desk_describes_itself_and_explains_formulas(server: Server, desk: Desk) -> None:
    client = Client(server.url, verbose=False, analytics_enabled=False)
    told = client.predict(api_name="/describe")
    assert set(told["attributes"]) == set(desk.attributes)
    assert told["rewards"] == list(desk.rewards)
    assert told["limits"]["settings"] == [-1.5, 1.5]
    assert all(client.predict(one["formula"], api_name="/explain")["weight"] for one in told["presets"].values())

    label = next(iter(desk.attributes.values())).labels[1]
    mix = client.predict(f"[0.5*{label}]", api_name="/explain")
    assert mix["settings"] == {next(iter(desk.attributes)): 0.5}
    assert not mix["follows_settings"]
    assert client.predict("2*sliders", api_name="/explain")["follows_settings"]
    wrong = client.predict("sliders + plite", api_name="/explain")["error"]
    assert (wrong["line"], wrong["column"], wrong["length"]) == (1, 11, 5)

    text = "I could not be more delighted."
    assert client.predict(text, api_name="/scores") == desk.scores(text)


@pytest.mark.parametrize(
    "value",
    [
        [],
        "x",
        7,
        {"seq": "1"},
        {"seq": 1, "positions": {"__class__": 1}},
        {"seq": 1, "positions": [1e400]},
        {"seq": 1, "positions": {}, "rewards": {"__class__": 1}},
        {"seq": 1, "positions": {}, "rewards": {"toxicity": 1}, "levels": {"toxicity": 1}},
        {"seq": 1, "positions": {}, "levels": {"toxicity": 1e400}, "budget": {}, "whole": "yes"},
    ],
)
def test_a_hostile_deck_value_changes_nothing_and_the_server_lives(server: Server, value: object) -> None:
    config = httpx.get(f"{server.url}config").json()
    (steer,) = [d["id"] for d in config["dependencies"] if any(t[1] == "input" for t in d["targets"])]
    body = json.dumps({"data": [value], "fn_index": steer, "session_hash": "hostile"})
    answer = httpx.post(
        f"{server.url}gradio_api/run/predict", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code >= 400
    assert "Traceback" not in answer.text
    browser = server.browsers.find("hostile")
    assert browser is None or (not browser.value.positions and not browser.value.steering.heads)
    assert httpx.get(server.url).status_code == 200


@pytest.mark.parametrize(
    "question",
    [
        None,
        [],
        "x",
        {"seq": 1},
        {"seq": "1", "text": "base"},
        {"seq": 1, "text": "[base]", "positions": {"__class__": 1}},
    ],
)
def test_a_hostile_question_about_a_formula_is_refused_in_words(server: Server, question: object) -> None:
    answer = ask(server, question)
    assert answer["seq"] == 0
    assert answer["refused"]


@pytest.mark.parametrize("text", ["\ud800", "x" * 100_000, "(" * 4000, "a=b;" * 900 + "a", "[[[", "<b>&\0\u202e"])
def test_a_hostile_formula_is_answered_with_its_place(server: Server, text: str) -> None:
    assert ask(server, {"seq": 1, "text": text})["error"]["message"]


def ask(server: Server, question: object) -> dict:
    config = httpx.get(f"{server.url}config").json()
    (box,) = [c["id"] for c in config["components"] if c["props"].get("elem_id") == "formula"]
    body = json.dumps({"data": question, "component_id": box, "fn_name": "look", "session_hash": "hostile"})
    answer = httpx.post(
        f"{server.url}gradio_api/component_server/", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200
    return answer.json()
