"""The competitors: each the text of a configuration that anybody may use as it stands.

Place:   chosen by name on the command line; built by bench.sim.play as the product builds a user's file.
Rule:    one entry for each. Where a parameter has to be calibrated to the hardware, as its authors ask, it is
         calibrated to the simulated one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from epp.config.decode import ConfigError
from epp.core.suggestions import suggestion

UPSTREAM = "upstream-default"
"""What the others are compared with."""
OURS = "predicted-cost"

_H100_PREFILL = 50_000
"""Prompt tokens a second of an H100 with a model of 8B (1 / 19.8 us, bench.sim.hardware)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A way of choosing, by name."""

    name: str
    what: str
    config: str
    """The text of an EndpointPickerConfig."""


_PREFIXES = "approx-prefix-cache-producer"
"""For those that work without it too, but are meant to know what is cached."""


def _config(*uses: str, picker: str = "max-score-picker", producers: Sequence[str] = ()) -> str:
    """One profile of ``name``, ``name weight`` or ``name {parameters}`` each."""
    plugins, profile = [f"- {{type: {name}}}" for name in producers], []
    for use in (*uses, picker):
        name, _, rest = use.partition(" ")
        weight, _, parameters = rest.partition(" ") if rest[:1].isdigit() else ("", "", rest)
        plugins.append(f"- {{type: {name}{f', parameters: {parameters}' if parameters else ''}}}")
        profile.append(f"  - {{pluginRef: {name}{f', weight: {weight}' if weight else ''}}}")
    lines = ["apiVersion: llm-d.ai/v1alpha1", "kind: EndpointPickerConfig", "plugins:", *plugins]
    lines += ["schedulingProfiles:", "- name: default", "  plugins:", *profile]
    return "\n".join(lines) + "\n"


_ALL = (
    Policy(
        OURS,
        "the server where this request costs the least time, its own and that of others",
        _config("predicted-cost-scorer 1"),
    ),
    Policy(
        UPSTREAM,
        "queue 2, KV cache 2, prefix 3: what upstream uses without a configuration",
        _config("queue-scorer 2", "kv-cache-utilization-scorer 2", "prefix-cache-scorer 3"),
    ),
    Policy(
        "no-hit-lru",
        "upstream's former guide: prefix 3, queue 2, KV cache 2, no cold prompt for longest 2",
        _config(
            "prefix-cache-scorer 3", "queue-scorer 2", "kv-cache-utilization-scorer 2", "no-hit-lru-scorer 2"
        ),
    ),
    Policy(
        "sticky-until-saturated",
        "upstream's guide: who holds the prompt, unless that takes 18 s longer; then the fewest tokens",
        _config(
            f"prefix-cache-affinity-filter {{peakPrefillThroughput: {_H100_PREFILL}}}", "token-load-scorer 1"
        ),
    ),
    Policy(
        "lmetric",
        "LMetric: uncached tokens times requests",
        _config("lmetric-scorer 1", producers=[_PREFIXES]),
    ),
    Policy(
        "least-work-left",
        "the fewest uncached prompt tokens to work on",
        _config("least-work-left-scorer 1", producers=[_PREFIXES]),
    ),
    Policy(
        "bounded-load-hash",
        "KubeAI: a hash of the prompt's first 100 bytes, at most 125 % of the mean load",
        _config(picker="bounded-load-hash-picker"),
    ),
    Policy("dynamo", "Dynamo: blocks to work on and blocks in use", _config("dynamo-kv-scorer 1")),
    Policy(
        "aibrix-prefix-cache",
        "AIBrix: the longest match that is not unusually busy",
        _config("aibrix-prefix-cache-scorer 1"),
    ),
    Policy(
        "sglang-cache-aware",
        "SGLang: the longest match while requests are balanced",
        _config("sglang-cache-aware-scorer 1"),
    ),
    Policy("power-of-two", "the less busy of any two", _config(picker="power-of-two-picker")),
    Policy("least-request", "the fewest of our own requests", _config("active-request-scorer 1")),
    Policy("round-robin", "one after the other", _config(picker="round-robin-picker")),
    Policy("random", "any", _config(picker="random-picker")),
)

POLICIES: Mapping[str, Policy] = {policy.name: policy for policy in _ALL}


def find_policy(name: str) -> Policy:
    """One of these, or a configuration's file. Raises ConfigError."""
    if not name.endswith((".yaml", ".yml")) and "/" not in name:
        if name not in POLICIES:
            remedy = (
                suggestion(name, POLICIES) or f", known are {', '.join(POLICIES)}, or write a file's path"
            )
            raise ConfigError(f'--policy: "{name}" is unknown{remedy}')
        return POLICIES[name]
    path = Path(name)
    try:
        return Policy(path.stem, f"the configuration in {path.name}", path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
