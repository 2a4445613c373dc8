"""What the picker knows of one request when it chooses.

Place:   made by epp.core.stream out of headers and body; read by every plugin.
Ignores: how the gateway sent it.
"""

import enum
from collections.abc import Mapping

import msgspec


class Api(enum.Enum):
    """The request APIs whose bodies are understood; everything else is PASSTHROUGH."""

    CHAT_COMPLETIONS = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    IMAGES = "images/generations"
    CONVERSATIONS = "conversations"
    MESSAGES = "messages"
    GENERATE = "inference/v1/generate"
    SGLANG_GENERATE = "generate"
    PASSTHROUGH = "passthrough"


class Payload(msgspec.Struct, frozen=True, gc=False):
    """What a body says, as far as choosing needs it.

    ``prompt`` is the material for prefix hashing: roles, tools, text and image references in the
    order in which an engine renders them, so that two requests with a common beginning of the
    conversation have a common beginning here. Four of its bytes stand for one token.
    """

    model: str = ""
    prompt: bytes = b""
    streaming: bool = False
    max_output_tokens: int | None = None
    cache_salt: str = ""


NO_PAYLOAD = Payload()
MEDIA = b"\x1c"
"""The mark in a prompt's material ahead of what stands for a part that is no text; no text holds it."""
_WITH_PARTS = frozenset({Api.CHAT_COMPLETIONS, Api.MESSAGES, Api.RESPONSES, Api.CONVERSATIONS})
BYTES_PER_TOKEN = 4
"""The estimate of upstream's ``token-producer`` where no tokenizer is at hand."""


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request, complete as far as choosing an endpoint is concerned."""

    id: str = ""
    path: str = "/v1/completions"
    api: Api = Api.PASSTHROUGH
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Lower-case names, pseudo-headers included."""
    payload: Payload = NO_PAYLOAD
    target_model: str = ""
    """The model the server is asked for; differs from ``payload.model`` after a rewrite."""
    rewritten_by: str = ""
    """The object whose rule chose ``target_model``; empty: none did."""
    priority: int = 0
    """Of its objective: higher is more important, negative may be shed; 0 where there is none."""
    body_bytes: int = 0
    shows_first_token: bool = False
    """A streamed answer will pass here piece by piece."""
    subset: tuple[str, ...] | None = None
    """The gateway's subset hint: ``ip`` or ``ip:port`` each; None when it gave none."""

    agent: str = ""
    """The session of the agent that sent it, where the plugin agent-identity finds one."""

    @property
    def has_media(self) -> bool:
        """Whether a message has a part that is no text: an image, a sound, a video, a file."""
        return self.api in _WITH_PARTS and MEDIA in self.payload.prompt

    @property
    def prompt_tokens(self) -> int:
        """Estimated length of the prompt [tokens]."""
        return (len(self.payload.prompt) + BYTES_PER_TOKEN - 1) // BYTES_PER_TOKEN
