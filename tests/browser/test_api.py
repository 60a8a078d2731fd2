"""What other programs can post: the named endpoint, and values that no page would send."""

from __future__ import annotations

import json

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from mixer import Desk, SamplingParams
from tests.browser.conftest import Server

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
    with pytest.raises(AppError, match="prompt is empty"):
        client.predict("", {}, 12, 0.8, 3, api_name="/generate")


@pytest.mark.parametrize(
    "value", [[], "x", 7, {"seq": "1"}, {"seq": 1, "positions": {"__class__": 1}}, {"seq": 1, "positions": [1e400]}]
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
    live = server.registry.find("hostile")
    assert live is None or not live.value.positions
    assert httpx.get(server.url).status_code == 200
