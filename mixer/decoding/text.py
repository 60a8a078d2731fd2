"""Between text and tokens: encoding of prompts, streaming decoding of tokens, and the search for banned words.

Knows tokenizers. Knows no sessions and no networks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from mixer.errors import InvalidValue
from mixer.formula.bind import Branch
from mixer.model.model import Model
from mixer.values.chat import Conversation, Message, Prompt


class TextStream:
    """Decodes tokens to text one by one.

    It gives whole characters only. It holds back characters that may be the beginning of a stop text.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], stops: Sequence[str]) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._decoder = DecodeStream(ids=list(prompt_ids), skip_special_tokens=True)
        self._held = ""

    def push(self, token: int) -> tuple[str, bool]:
        """Take one token. Returns the new text that is certain, and whether a stop text appeared (it is cut off)."""
        self._held += self._decoder.step(self._tokenizer, token) or ""
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            text, self._held = self._held[: min(found)], ""
            return text, True
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        certain = len(self._held) - keep
        text, self._held = self._held[:certain], self._held[certain:]
        return text, False

    def flush(self) -> str:
        """The text that was held back. Call it when no token can follow."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `stop`, and shorter than `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Bans:
    """Words that a text must not contain.

    Only whole words count. Upper and lower case are the same. A space in a banned word matches any white space.
    """

    def __init__(self, words: Sequence[str]) -> None:
        parts = ["\\s+".join(map(re.escape, word.split())) for word in words]
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE) if parts else None

    def find(self, text: str, ended: bool) -> int | None:
        """Index of the first character of the first banned word; None where there is none.

        A word at the end of the text may still grow. It counts only if the text has `ended`.
        """
        for match in self._pattern.finditer(text) if self._pattern else ():
            if match.end() < len(text) or ended:
                return match.start()
        return None


def encode_prompt(model: Model, prompt: Prompt) -> list[int]:
    """Token ids of a prompt.

    Raises:
        InvalidValue: the prompt is empty, or it leaves no room in the model's context, or the model's chat template
            refuses the conversation. Unsupported: it is a conversation, and the model has no chat template.
    """
    if isinstance(prompt, Conversation):
        size = sum(len(message.content) for message in prompt.messages)
        return _fitting(model, size, lambda: model.encode_chat(prompt))
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidValue("The prompt is empty.", "Write a few words for the model to go on from.")
    return _fitting(model, len(prompt), lambda: model.encode(prompt))


def _fitting(model: Model, characters: int, encode: Callable[[], list[int]]) -> list[int]:
    """The token ids that `encode` gives of so many characters, if they fit into the model's context."""
    # A huge prompt is refused before it is tokenized: that is slow, and the answer would be the same.
    if characters <= 64 * model.context:
        ids = encode()
        if 0 < len(ids) < model.context:
            return ids
        size = f"{len(ids):,} tokens" if ids else "no tokens"
    else:
        size = f"{characters:,} characters"
    raise InvalidValue(
        f"The prompt has {size}, and this model reads {model.context:,} tokens, its own text included.",
        "Shorten the prompt.",
    )


def encode_branch(model: Model, branch: Branch, prompt: Prompt) -> list[int]:
    """Token ids that a branch reads before the text.

    They are the branch's own prompt, on a line of its own, and then the user's; with `only`, its own prompt alone. In a
    conversation, the branch's own prompt is a system message; with `only`, it is all that the user said.

    Raises:
        InvalidValue: see `encode_prompt`; or the model has no token to begin from where nothing is to be read.
    """
    if branch.prompt is None:
        return encode_prompt(model, prompt)
    if isinstance(prompt, Conversation) and branch.prompt.strip():
        own = Conversation((Message("user", branch.prompt),)) if branch.only else prompt.with_system(branch.prompt)
        return encode_prompt(model, own)
    if not branch.only:
        if isinstance(prompt, Conversation):
            return encode_prompt(model, prompt)
        between = "" if not branch.prompt or branch.prompt[-1].isspace() else "\n"
        return encode_prompt(model, branch.prompt + between + prompt)
    if branch.prompt.strip():
        return encode_prompt(model, branch.prompt)
    # An empty prompt: the token that begins every text, or else one that ends texts.
    ids = model.encode(branch.prompt) or sorted(model.eos_ids)[:1]
    if not ids:
        raise InvalidValue("This model cannot begin from nothing.", 'Give only("...") a few words.')
    return ids
