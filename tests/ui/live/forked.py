"""Takes that forked workers write. test_zero_gpu runs this in a new process, since a fork needs one without threads.

Prints what happened as JSON. `workers` does what a ZeroGPU Space does: it forks a worker, sends it the arguments of a
take, brings the frames back, and keeps the worker for the next take.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable
from typing import Any

from mixer import Desk, SamplingParams, Steering
from mixer.ui.controls.stage import Frame
from mixer.ui.live.browsers import BrowserSession
from mixer.ui.live.zero_gpu import Frames, ZeroGpu
from mixer.ui.state.controls import DeckValue
from mixer.ui.state.formula_text import Recipe
from mixer.values.chat import Conversation
from tests.factory import TEMPLATE

FORK = multiprocessing.get_context("fork")
PROMPT = "The last train was"
RATE = 60.0  # tokens a second: there is time to steer


def workers(task: Callable[..., Frames]) -> Callable[..., Frames]:
    idle: list[tuple[Any, Any, Any]] = []

    def serve(orders: Any, frames: Any, ended: Any) -> None:
        while True:
            arguments = orders.get()
            ended.clear()
            running = task(*arguments)
            for frame in running:
                if ended.is_set():
                    break
                frames.put(frame)
            running.close()
            frames.put(None)

    def forked(*arguments: Any) -> Frames:
        if not idle:
            made = FORK.SimpleQueue(), FORK.SimpleQueue(), FORK.Event()
            FORK.Process(target=serve, args=made, daemon=True).start()
            idle.append(made)
        worker = orders, frames, ended = idle.pop()
        orders.put(arguments)
        try:
            while (frame := frames.get()) is not None:
                yield frame
        except GeneratorExit:
            ended.set()
            while frames.get() is not None:
                pass
            raise
        finally:
            idle.append(worker)

    return forked


def text(frame: Frame) -> str:
    return "".join(part for _, part in frame.mix)


def params(tokens: int) -> SamplingParams:
    return SamplingParams(max_new_tokens=tokens, min_new_tokens=tokens, seed=7)


def main() -> dict[str, Any]:
    desk = Desk.load(strict=False)
    desk.tokenizer.chat_template = TEMPLATE
    zero_gpu = ZeroGpu(desk, workers, slots=2)
    told: dict[str, Any] = {}
    names = list(desk.attributes)

    # Moves in this process while the other one writes.
    browser, parts, value = BrowserSession(), [], DeckValue(1, {names[0]: 1.0})
    for frame in zero_gpu.run(browser, PROMPT, value, "keep", params(60), RATE):
        parts.append(text(frame))
        if browser.value.seq == 1 and parts[-1]:
            moved = DeckValue(2, {names[1]: 1.5}, Steering({desk.rewards[0]: 1.0}, {desk.rewards[-1]: 0.0}, 0.5))
            told["before"] = parts[-1]
            assert browser.steer(moved, desk.mix(moved.positions))
    told["moved"] = {"frames": len(parts), "state": frame.state, "seq": frame.seq, "text": parts[-1]}
    told["moved"]["labels"] = [label for label, _ in frame.mix]
    told["levels"] = sorted(frame.levels)

    # Stop, and a browser that goes away.
    for frame in zero_gpu.run(browser, PROMPT, value, "keep", params(400), RATE):
        if text(frame):
            browser.stop()
    told["stopped"] = {"state": frame.state, "words": len(text(frame).split())}
    frames = zero_gpu.run(browser, PROMPT, value, "keep", params(400), RATE)
    next(frames)
    next(frames)
    frames.close()
    told["gone"] = {"busy": browser.busy, "free": zero_gpu.slots.free}

    # Two at once, each under its own moves, and a third that finds no slot.
    ones = [BrowserSession(), BrowserSession()]
    takes = [zero_gpu.run(one, PROMPT, DeckValue(), "keep", params(40), RATE) for one in ones]
    last = [next(take) for take in takes]
    for at, one in enumerate(ones):
        one.steer(DeckValue(1, {names[at]: 1.0}), desk.mix({names[at]: 1.0}))
    told["third"] = [frame.error for frame in zero_gpu.run(BrowserSession(), PROMPT, DeckValue(), "keep", params(4))]
    for at, take in enumerate(takes):
        for frame in take:
            last[at] = frame
    told["two"] = [[label for label, _ in frame.mix][-1] for frame in last]

    # An error is a sentence, and programs get the same text as the page.
    *_, frame = zero_gpu.run(BrowserSession(), "", DeckValue(), "keep", params(4))
    told["empty"] = frame.error
    *_, frame = zero_gpu.run(
        BrowserSession(), PROMPT, DeckValue(), "keep", params(4), recipe=Recipe("2*sliders", "2*sliders")
    )
    told["formula"] = [frame.state, frame.formula]
    told["program"] = zero_gpu.text(PROMPT, value, params(12), "1.5*sliders - 0.5*base")
    messages = Conversation.of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go on."}])
    told["reply"] = zero_gpu.text(messages, value, params(12), None)
    told["free"] = zero_gpu.slots.free
    told["workers"] = len(multiprocessing.active_children())
    # Only after the last fork, since forked processes inherit what was computed before.
    told["here"] = desk.generate(PROMPT, desk.mix(value.positions), params(12), "1.5*sliders - 0.5*base").text
    told["replied"] = desk.chat(messages, desk.mix(value.positions), params(12)).text
    told["names"] = names
    return told


if __name__ == "__main__":
    json.dump(main(), sys.stdout)
