"""What an MCP client sees of the page: four tools whose descriptions name everything that this desk has."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from mixer import Desk, SamplingParams
from tests.browser.conftest import Server
from tests.factory import TEMPLATE

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

T = TypeVar("T")


def talk(server: Server, use: Callable[[ClientSession], Awaitable[T]]) -> T:
    async def run() -> T:
        async with (
            streamable_http_client(f"{server.url}gradio_api/mcp/") as (read, write, *_),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await use(session)

    with ThreadPoolExecutor(1) as thread:  # a loop of playwright's may be running in this one
        return thread.submit(lambda: asyncio.run(run())).result()


def text(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def test_the_tools_are_the_public_endpoints_and_say_what_this_desk_has(server: Server, desk: Desk) -> None:
    tools = {tool.name: tool for tool in talk(server, lambda session: session.list_tools()).tools}
    assert set(tools) == {"generate", "describe", "explain", "scores"}
    properties = tools["generate"].inputSchema["properties"]
    assert not tools["generate"].inputSchema.get("required")  # messages may stand in a prompt's place
    for tool in tools.values():
        assert tool.description
        assert all(one["description"] for one in tool.inputSchema["properties"].values())
    for attribute in desk.attributes.values():
        assert f"{attribute.name} ({' | '.join(attribute.labels)})" in properties["settings"]["description"]
    assert all(head in properties["rewards"]["description"] for head in desk.rewards)
    assert "1 to 1000" in properties["max_new_tokens"]["description"]
    assert "1 to 1000 messages" in properties["messages"]["description"]


def test_a_tool_replies_to_messages(server: Server, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.tokenizer, "chat_template", TEMPLATE)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Close it."}]
    asked = {"messages": messages, "max_new_tokens": 8, "seed": 3}
    params = SamplingParams(max_new_tokens=8, seed=3, temperature=0.8)
    found = talk(server, lambda session: session.call_tool("generate", asked))
    assert text(found) == desk.chat(messages, params=params).text != ""


def test_a_tool_writes_what_the_desk_writes_and_refuses_in_sentences(server: Server, desk: Desk) -> None:
    attribute = next(iter(desk.attributes))
    asked: list[tuple[str, dict[str, Any]]] = [
        ("generate", {"prompt": "The door was", "settings": {attribute: 1}, "max_new_tokens": 8, "seed": 3}),
        ("explain", {"formula": "base + 2*sliders"}),
        ("scores", {"text": "I could not be more delighted."}),
        ("describe", {}),
    ]
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("generate", {"prompt": "The door was", "settings": {"charm": 1}}, "no attribute called 'charm'"),
        ("generate", {"prompt": "The door was", "temperature": 9}, "temperature is 9, which is out of range"),
        ("generate", {"prompt": "The door was", "seed": "x"}, "not valid"),
        ("generate", {}, "The prompt is empty"),
        ("generate", {"messages": [{"role": "user", "content": "Close it."}]}, "no chat template"),
        ("generate", {"messages": [{"role": "user", "content": 5}]}, "not of type 'string'"),
        ("scores", {"text": "x" * 20_001}, "20,000 is the most"),
        ("stop", {}, "Unknown tool"),
        ("take", {}, "Unknown tool"),
    ]

    async def ask(session: ClientSession) -> tuple[list[CallToolResult], list[CallToolResult]]:
        good = [await session.call_tool(name, arguments) for name, arguments in asked]
        return good, [await session.call_tool(name, arguments) for name, arguments, _ in refused]

    good, bad = talk(server, ask)
    params = SamplingParams(max_new_tokens=8, seed=3, temperature=0.8)
    assert text(good[0]) == desk.generate("The door was", desk.mix({attribute: 1}), params).text
    assert ast.literal_eval(text(good[1]))["weight"] == 3
    assert ast.literal_eval(text(good[2])) == desk.scores("I could not be more delighted.")
    assert set(ast.literal_eval(text(good[3]))["attributes"]) == set(desk.attributes)
    assert not any(result.isError for result in good)
    for result, (_, _, reason) in zip(bad, refused, strict=True):
        assert result.isError
        assert reason in text(result)
