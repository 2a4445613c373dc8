"""Whose API it is: where it answers, and in whose words.

Place:   used by servers.py.
Source:  what Envoy AI Gateway's documentation says of the providers that it supports.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from epp.compiler.intent import Schema


@dataclass(frozen=True, slots=True)
class Provider:
    """``host``: may hold ``{region}``; empty: each customer has one of its own. ``has_own_login``: also
    answers without a key in a Secret, to whom its cloud knows."""

    host: str
    schema: Schema = Schema.OPENAI
    prefix: str = "/v1"
    has_own_login: bool = False

    @property
    def needs_region(self) -> bool:
        """Whether it is another host in each region."""
        return "{region}" in self.host


PROVIDERS: Mapping[str, Provider] = {
    "anthropic": Provider("api.anthropic.com", Schema.ANTHROPIC),
    "azure": Provider("", Schema.AZURE, ""),
    "bedrock": Provider("bedrock-runtime.{region}.amazonaws.com", Schema.BEDROCK, "", has_own_login=True),
    "cohere": Provider("api.cohere.ai", prefix="/compatibility/v1"),
    "deepseek": Provider("api.deepseek.com"),
    "gemini": Provider("generativelanguage.googleapis.com", prefix="/v1beta/openai"),
    "groq": Provider("api.groq.com", prefix="/openai/v1"),
    "mistral": Provider("api.mistral.ai"),
    "openai": Provider("api.openai.com"),
    "together": Provider("api.together.xyz"),
    "vertex": Provider("{region}-aiplatform.googleapis.com", Schema.VERTEX, "", has_own_login=True),
    "xai": Provider("api.x.ai"),
}
