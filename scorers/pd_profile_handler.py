"""``pd-profile-handler``: the former ``disagg-profile-handler``, for prompts alone."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from epp.core.scoring import Cycle, Endpoint
from scorers.disagg_profile_handler import DisaggProfileHandler, StageDeciders

DECIDER = "prefix-based-pd-decider"


class _Always:
    """The decider that ``threshold: 0`` is."""

    def disaggregates(self, cycle: Cycle, endpoint: Endpoint | None) -> bool:
        """Every prompt is worked on elsewhere."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class PdProfileHandler(DisaggProfileHandler):
    """Pick one endpoint to generate and, if it is worth it, another to work on the prompt.

    In:     as ``disagg-profile-handler``, which it is with two stages.
    Out:    as there. Whether the prompt goes elsewhere says the plugin called ``deciderPluginName``; with
            ``threshold: 0``, of older versions, it always does.
    Lacks:  thresholds in characters other than 0; ``primaryPort``.
    Source: upstream ``pd-profile-handler``, deprecated in v0.9; before, it took a threshold in characters.
    """

    threshold: int | None = None
    """Of older versions: only 0 is taken. For another one use a ``prefix-based-pd-decider``."""
    hash_block_size: int = field(default=0, metadata={"deprecated": "never had an effect on the decision"})
    primary_port: int = 0
    """Only 0 is taken: with one port for several ranks use ``data-parallel-profile-handler``."""
    prefix_plugin_type: str = field(default="", metadata={"deprecated": "never had an effect"})
    prefix_plugin_name: str = field(default="", metadata={"deprecated": "never had an effect"})
    prefix_match_info_producer_name: str = field(
        default="", metadata={"deprecated": "write it in the decider's parameters"}
    )

    deprecated: ClassVar[str] = "use disagg-profile-handler with deciders: {prefill: prefix-based-pd-decider}"

    def __post_init__(self) -> None:
        DisaggProfileHandler.__post_init__(self)
        if self.threshold:
            tokens = max(self.threshold // 4, 1)
            raise ValueError(
                f"threshold: {self.threshold} characters of a prompt are not supported by this version: use "
                f"a {DECIDER} with nonCachedTokens: {tokens}, and name it in deciderPluginName"
            )
        if self.primary_port:
            raise ValueError("primaryPort: is not supported here, use data-parallel-profile-handler")

    def joined(self, plugins: Mapping[str, Any], profiles: Collection[str]) -> "PdProfileHandler":
        """This handler, with its decider; ValueError where it has none."""
        named, wanted = self.deciders.prefill, self
        if self.threshold is None and not named:
            if DECIDER not in plugins:
                raise ValueError(
                    f"there is no decider: add a {DECIDER} or an always-disagg-pd-decider to plugins, "
                    "and name it in deciderPluginName"
                )
            wanted = replace(self, deciders=StageDeciders(prefill=DECIDER))
        found = DisaggProfileHandler.joined(wanted, plugins, profiles)
        assert isinstance(found, PdProfileHandler)
        if self.threshold is not None and not named:
            if self.profiles.prefill not in profiles:
                raise ValueError(f'there is no profile "{self.profiles.prefill}" for prefill')
            object.__setattr__(found, "prefill_decider", _Always())
        return found
