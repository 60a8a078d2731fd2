"""Clients that are not the page: whatever they post, to any endpoint, nothing breaks, leaks or keeps running.

The server itself lists the endpoints, so that new ones are tried too. The name of the session alone decides which take
a request is about. It is a random word that the browser makes, and Gradio has no other key: a client that knows it can
steer, stop and read that take, and one that does not know it cannot.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from mixer import Desk
from mixer.ui.state.page_state import PageState
from tests.browser.conftest import Server, Visit

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "</script><img src=x onerror='window.pwned=1'><script>window.pwned=1</script>"
FILE = '{"path": "/etc/passwd", "url": "file:///etc/passwd", "meta": {"_type": "gradio.FileData"}}'
JUNK = [
    *("null", "true", "-1", "1.5", "NaN", "-Infinity", "1e999", "9" * 400, '""', '"x"', "[]", "{}"),
    '"\\ud800\\u0000"',
    json.dumps(SCRIPT),
    json.dumps("x" * 50_000),
    "[" * 60 + "]" * 60,
    '{"a":' * 60 + "1" + "}" * 60,
    json.dumps([1] * 5_000),
    json.dumps({f"n{i}": 1 for i in range(5_000)}),
    '{"__class__": 1, "__proto__": {"polluted": 1}, "constructor": 1}',
    '{"seq": 9007199254740993, "positions": {"humor": NaN}}',
    '["formality", ["humor"]]',
    FILE,
]
# The keys that the page reads from what is posted. Each is tried with junk while the others have valid values.
KEYS = sorted(
    {
        key
        for path in (ROOT / "mixer" / "ui").rglob("*.py")
        for key in re.findall(r'(?:\.get\(|\[)"(\w+)"', path.read_text())
    }
    | {"state", *PageState().json()}
)
SOUND: dict[str, Any] = {
    **PageState(tokens=4, rate=0).json(),
    "state": PageState(tokens=4, rate=0).json(),
    "seq": 1,
    "text": "sliders",
    "typed": False,
    "part": "position",
    "name": "humor",
    "low": -1,
    "high": 1,
    "kind": "mix",
}
JSON = {"content-type": "application/json"}
PATIENCE = 60


def config(server: Server) -> dict[str, Any]:
    return httpx.get(f"{server.url}config").json()


def endpoints(server: Server) -> list[dict[str, Any]]:
    return [one for one in config(server)["dependencies"] if one["backend_fn"]]


def post(client: httpx.Client, server: Server, one: dict[str, Any], data: str, session: str) -> str:
    """Everything that the server answers."""
    body = f'{{"data": {data}, "fn_index": {one["id"]}, "session_hash": "{session}"}}'
    where = "queue/join" if one["queue"] else "run/predict"
    answer = client.post(f"{server.url}gradio_api/{where}", content=body, headers=JSON)
    told = answer.text
    if one["queue"] and answer.status_code == 200:
        url = f"{server.url}gradio_api/queue/data"
        with client.stream("GET", url, params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                told += line
                if '"process_completed"' in line or '"close_stream"' in line:
                    break
    assert "Traceback" not in told
    assert "root:" not in told
    return told


def idle(server: Server, desk: Desk) -> None:
    """Waits until no text is written and all rows are free."""
    until = time.monotonic() + PATIENCE
    while any(browser.busy for browser in server.browsers) or desk.scheduler.rows_in_use:
        assert time.monotonic() < until, "a take was left behind"
        time.sleep(0.05)


@pytest.fixture
def unhurt(
    server: Server, desk: Desk, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Afterwards nothing runs, the page is there, and no fault came from a file of this project."""
    yield
    idle(server, desk)
    assert httpx.get(server.url).status_code == 200
    assert not [record for record in caplog.records if record.name.startswith("mixer") and record.levelname == "ERROR"]
    # The traceback of what Gradio itself refuses has a line of the guard.
    faults = capfd.readouterr().err.replace("mixer/ui/guard.py", "").split("Traceback (most recent call last)")
    faults = [fault for fault in faults if "mixer/" in fault]
    assert not faults, faults[0]


@pytest.mark.usefixtures("unhurt")
def test_every_endpoint_refuses_junk(server: Server) -> None:
    with httpx.Client(timeout=PATIENCE) as client:
        for one in endpoints(server):
            for at, junk in enumerate(JUNK if one["inputs"] else ()):
                data = f"[{', '.join([junk] * len(one['inputs']))}]"
                post(client, server, one, data, f"junk{one['id']}x{at}")
            for data in ("[]", "null", "{}", "[" + "1," * 100 + "1]", "[" * 3000 + "]" * 3000, '["a"', ""):
                post(client, server, one, data, f"junk{one['id']}")


@pytest.mark.usefixtures("unhurt")
def test_every_endpoint_refuses_junk_in_every_place(server: Server) -> None:
    junk = cycle(JUNK)
    with httpx.Client(timeout=PATIENCE) as client:
        for one in endpoints(server):
            if len(one["inputs"]) != 1 or one["api_visibility"] == "public":
                continue
            for key in KEYS:
                inner = {"state": {**SOUND["state"], key: "JUNK"}} if key in SOUND["state"] else {key: "JUNK"}
                body = json.dumps({**SOUND, key: "JUNK", **inner}).replace('"JUNK"', next(junk))
                post(client, server, one, f"[{body}]", f"keys{one['id']}")


def sound(server: Server, one: dict[str, Any]) -> list[Any]:
    """Arguments as the page or a program would send them, for a short text."""
    parts = {part["id"]: part["props"] for part in config(server)["components"]}
    inputs = [parts[number] for number in one["inputs"]]
    found = [part.get("value") for part in inputs]
    if one["api_name"] == "generate":
        return ["The door", {}, 4, *found[3:]]
    return [{"tokens": 4, "rate": 0}.get(part.get("elem_id"), value) for part, value in zip(inputs, found, strict=True)]


@pytest.mark.usefixtures("unhurt")
def test_every_argument_of_every_endpoint_refuses_junk(server: Server) -> None:
    with httpx.Client(timeout=PATIENCE) as client:
        for one in endpoints(server):
            if len(one["inputs"]) < 2:
                continue
            name, arguments = one["api_name"], sound(server, one)
            assert '"success":true' in post(client, server, one, json.dumps(arguments), "sound")
            for place in range(len(arguments)):
                for junk in JUNK[place % 3 :: 3]:
                    parts = [json.dumps(one) for one in arguments]
                    parts[place] = junk
                    post(client, server, one, f"[{', '.join(parts)}]", f"{name}{place}")


@pytest.mark.usefixtures("unhurt")
def test_every_server_function_of_every_component_refuses_junk(server: Server) -> None:
    with httpx.Client(timeout=PATIENCE) as client:
        url = f"{server.url}gradio_api/component_server/"
        for component in config(server)["components"]:
            for name in component["props"].get("server_fns") or []:
                for junk in [*JUNK, *(f'{{"seq": 1, "text": {one}, "positions": {one}}}' for one in JUNK)]:
                    asked = f'"component_id": {component["id"]}, "fn_name": "{name}", "session_hash": "x"'
                    answer = client.post(url, content=f'{{"data": {junk}, {asked}}}', headers=JSON)
                    assert answer.status_code in (200, 400, 422), (name, junk[:80], answer.text)
        for asked in ({"fn_name": "__init__"}, {"fn_name": "postprocess"}, {"component_id": 10**6}, {"data": 1}):
            body = {"data": None, "component_id": 1, "fn_name": "x", "session_hash": "x", **asked}
            assert httpx.post(url, json=body).status_code >= 400


@pytest.mark.usefixtures("unhurt")
def test_a_million_names_and_a_deep_nest_are_refused_unread(server: Server) -> None:
    names = json.dumps({"data": [{str(i): 1 for i in range(10**6)}], "fn_index": 0, "session_hash": "x"})
    answer = httpx.post(f"{server.url}gradio_api/queue/join", content=names, headers=JSON)
    assert answer.status_code == 413
    pieces = iter([names[at : at + 2**20].encode() for at in range(0, len(names), 2**20)])  # without a content-length
    assert httpx.post(f"{server.url}gradio_api/queue/join", content=pieces, headers=JSON).status_code in (400, 413)
    deep = '{"data":' + "[" * 10**5 + "]" * 10**5 + "}"
    assert httpx.post(f"{server.url}gradio_api/call/generate", content=deep, headers=JSON).status_code in (400, 422)


def test_no_file_of_this_machine_is_served_and_none_is_taken(server: Server) -> None:
    inside = (
        "/etc/passwd",
        str(ROOT / "app.py"),
        "app.py",
        "../app.py",
        "..%2f..%2fetc%2fpasswd",
        "/proc/self/environ",
    )
    outside = ("http://127.0.0.1:1/", "https://example.com/", "HTTP://example.com/", "file:///etc/passwd", "ftp://x/y")
    for path in (*inside, *outside):
        for way in ("file=", "file/", "proxy="):
            answer = httpx.get(f"{server.url}gradio_api/{way}{path}")
            assert answer.status_code >= 400, (way, path)
            assert "root:" not in answer.text
    for path in ("static/..%2f..%2f..%2fpyproject.toml", "assets/..%2f..%2f..%2fetc%2fpasswd", "svelte/..%2fmcp.py"):
        assert httpx.get(f"{server.url}{path}").status_code >= 400
    for path in ("upload", "upload?upload_id=1", "process_recording", "run-history/connect", "stream/x"):
        assert httpx.post(f"{server.url}gradio_api/{path}", files={"files": b"x"}).status_code == 404
    for path in ("monitoring", "monitoring/summary", "gradio_api/deep_link?session_hash=x", "gradio_api/runs"):
        assert httpx.get(f"{server.url}{path}").status_code in (403, 404)
    told = config(server)
    assert told["max_file_size"] == 2**20
    assert not told["show_error"]


class Stranger(threading.Thread):
    """A client that starts a take in its own session and reads all of it."""

    def __init__(self, server: Server, session: str, deck: dict[str, Any], tokens: int = 120) -> None:
        super().__init__(daemon=True)
        self.told: list[dict[str, Any]] = []
        self.begun = threading.Event()
        self._server, self._session = server, session
        (take,) = [one["id"] for one in endpoints(server) if one["api_name"] == "take"]
        data = [deck, None, "The last train was", False, "", "keep", 0.8, tokens, 7, 60, False, 1, 0, 0, 0]
        self._body = {"data": data, "fn_index": take, "session_hash": session}

    def run(self) -> None:
        with httpx.Client(timeout=PATIENCE) as client:
            assert client.post(f"{self._server.url}gradio_api/queue/join", json=self._body).status_code == 200
            url = f"{self._server.url}gradio_api/queue/data"
            with client.stream("GET", url, params={"session_hash": self._session}) as stream:
                for line in stream.iter_lines():
                    if line.startswith("data:"):
                        self.told.append(json.loads(line[5:]))
                        if self.told[-1]["msg"] == "process_generating":
                            self.begun.set()
                        if self.told[-1]["msg"] == "process_completed":
                            break
        self.begun.set()


@pytest.mark.usefixtures("unhurt")
def test_what_one_session_does_is_never_seen_in_another(server: Server, desk: Desk) -> None:
    steer = next(one for one in endpoints(server) if one["api_name"] == "steer")
    stops = [one for one in endpoints(server) if one["api_name"].startswith("stop")]
    names = list(desk.attributes)[:3]
    strangers = [Stranger(server, f"stranger{name}", {"seq": 1, "positions": {name: 1.0}}) for name in names]
    for one in strangers:
        one.start()
    for one in strangers:
        assert one.begun.wait(PATIENCE)
    with httpx.Client(timeout=PATIENCE) as client:  # unknown names, and names of the queue
        for session in ("nobody", "", "stranger", f"stranger{names[0]} ", f"stranger{names[0]}\\u0000"):
            post(client, server, steer, '[{"seq": 99, "positions": {"toxicity": 1, "humor": -1}}]', session)
            post(client, server, steer, '[{"seq": 99, "positions": {"humor": -1.45}}]', session)
            for stop in stops:
                post(client, server, stop, "[]", session)
    for one, name in zip(strangers, names, strict=True):
        one.join(PATIENCE)
        told = json.dumps(one.told, ensure_ascii=False)
        assert '"success": true' in told
        assert f"{name} +1.00" in told
        assert '"stopped"' not in told
        assert "−1.45" not in told
        assert not any(f"{other} +" in told for other in names if other != name)


def dropped(server: Server, many: int) -> None:
    """Opens that many streams and drops each: before the first frame, after a frame or two, or without reading."""

    def drop(at: int) -> None:
        (take,) = [one["id"] for one in endpoints(server) if one["api_name"] == "take"]
        data = [{}, None, "The last train was", False, "", "keep", 0.8, 200, 7, 30, False, 1, 0, 0, 0]
        body = {"data": data, "fn_index": take, "session_hash": f"dropped{at}"}
        with httpx.Client(timeout=PATIENCE) as client:
            if client.post(f"{server.url}gradio_api/queue/join", json=body).status_code == 503:
                return  # the queue is full
            url = f"{server.url}gradio_api/queue/data"
            with client.stream("GET", url, params={"session_hash": f"dropped{at}"}) as stream:
                for seen, line in enumerate(line for line in stream.iter_lines() if "generating" in line):
                    if seen == at % 3 or not line:
                        break

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(drop, range(many)))


@pytest.mark.usefixtures("unhurt")
def test_streams_that_are_dropped_give_their_rows_back(server: Server, desk: Desk) -> None:
    dropped(server, 16)
    idle(server, desk)


@pytest.mark.slow
@pytest.mark.usefixtures("unhurt")
def test_two_hundred_dropped_streams_leave_nothing_behind(server: Server, desk: Desk) -> None:
    used = []
    for many in (400, 200):  # at first, caches fill
        dropped(server, many)
        idle(server, desk)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that the process still holds is no leak
        used.append(resident())
    assert used[1] - used[0] < 60e6


def resident() -> float:
    """Resident memory of this process, in which the server runs, in bytes."""
    (line,) = re.findall(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) * 1024.0


def test_markup_in_a_link_in_texts_and_in_the_history_is_text(visit: Visit) -> None:
    fields = [("v", "1"), ("p", SCRIPT), ("f", SCRIPT), ("mode", SCRIPT), ("t", SCRIPT), ("seed", SCRIPT), ("n", "8")]
    fields += [
        (SCRIPT, SCRIPT),
        (f"r.{SCRIPT}", "1"),
        (f"aim.{SCRIPT}", "1"),
        ("budget", SCRIPT),
        ("formality", SCRIPT),
    ]
    page = visit(query=f"?{urlencode(fields)}")
    assert page.locator("#prompt textarea").input_value() == SCRIPT
    assert page.locator("#formula textarea").input_value() == SCRIPT
    page.locator(".fault").first.wait_for()

    page = visit(query=f"?{urlencode([('v', '1'), ('p', SCRIPT), ('n', '8'), ('rate', '0')])}")
    page.click("#generate")
    page.wait_for_function("document.documentElement.dataset.desk === 'done'")
    assert SCRIPT in page.locator("[data-pane=mix] .body").inner_text()
    page.evaluate(
        """(script) => {
            const key = "mixing-desk.history";
            const [one] = JSON.parse(localStorage.getItem(key));
            const frame = {...one.frame, prompt: script, base: script, mix: [[script, script]], formula: script,
                scores: {[script]: 1, humor: script}, levels: {[script]: 1}, status: {seed: script, finish: script},
                error: script, note: script};
            const state = {...one.state, prompt: script, formula: script, seed: script, mode: script};
            localStorage.setItem(key, JSON.stringify([{at: script, state, frame}, {at: 1, state: one.state, frame}]));
        }""",
        SCRIPT,
    )
    page.reload()
    page.wait_for_selector("html[data-opened] .fader")
    for at in range(2):
        page.click(".tools .history")
        page.locator("#history-sheet li button").nth(at).click()
        page.wait_for_timeout(300)
    page.click(".tools .share")
    page.wait_for_timeout(500)
    assert page.evaluate("[window.pwned, document.querySelectorAll('[onerror], img[src=x]').length]") == [None, 0]
