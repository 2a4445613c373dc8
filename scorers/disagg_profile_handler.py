"""``disagg-profile-handler``: one server for the prompt, another for the answer."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from epp.core.scoring import Cycle, Decider, Kind, Route, kinds, suggestion

PREFILL_HEADER, ENCODE_HEADER = "x-prefiller-host-port", "x-encoder-hosts-ports"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProfiles:
    """The scheduling profile of each stage."""

    decode: str = "decode"
    """Picks who generates; it gets the request."""
    prefill: str = "prefill"
    """Picks who works on the prompt, if another."""
    encode: str = "encode"
    """Picks who encodes images and sound, if another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDeciders:
    """The plugin that says whether a stage is worth it; without one the stage never is."""

    prefill: str = ""
    """For example a ``prefix-based-pd-decider``."""
    encode: str = ""
    """For example an ``always-disagg-multimodal-decider``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DisaggProfileHandler:
    """Pick one endpoint to generate and, if it is worth it, others to work on the prompt and to encode media.

    In:     the request; what the deciders say of it.
    Out:    the pick of ``profiles.decode`` gets the request; it is told of the others by the request headers
            ``x-prefiller-host-port`` (``ip:port``) and ``x-encoder-hosts-ports`` (a comma list); what clients
            send in these never gets through. ``decode-first``: decode, encode, prefill, the latter two as
            their deciders say. ``prefill-first``: prefill (without a decider), encode, decode. An optional
            stage in which nobody can be picked is left out, and the request goes without.
    Load:   the prompt is booked where it is worked on, until the first token.
    Better: what clients send in its headers never gets through.
    Source: upstream ``disagg-profile-handler``.
    """

    stage_order: Literal["decode-first", "prefill-first"] = "decode-first"
    """Which stage picks first; the others may look for somebody near to it."""
    profiles: StageProfiles = field(default_factory=StageProfiles)
    """The scheduling profile of each stage."""
    deciders: StageDeciders = field(default_factory=StageDeciders)
    """Whether a stage is worth it."""
    decode_profile: str = field(default="", metadata={"deprecated": "write profiles: {decode: ...}"})
    prefill_profile: str = field(default="", metadata={"deprecated": "write profiles: {prefill: ...}"})
    encode_profile: str = field(default="", metadata={"deprecated": "write profiles: {encode: ...}"})
    decider_plugin_name: str = field(default="", metadata={"deprecated": "write deciders: {prefill: ...}"})
    prefill_decider_plugin_name: str = field(
        default="", metadata={"deprecated": "write deciders: {prefill: ...}"}
    )
    encode_decider_plugin_name: str = field(
        default="", metadata={"deprecated": "write deciders: {encode: ...}"}
    )
    prefill_decider: Decider | None = field(default=None, init=False, repr=False, compare=False)
    encode_decider: Decider | None = field(default=None, init=False, repr=False, compare=False)
    known: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    kind: ClassVar[Kind] = Kind.PROFILE_HANDLER

    def __post_init__(self) -> None:
        self._take_former()
        names = (self.profiles.decode, self.profiles.prefill, self.profiles.encode)
        if len(set(names)) < len(names):
            raise ValueError("profiles: give each stage a profile of its own")
        if self.stage_order == "prefill-first" and self.deciders.prefill:
            raise ValueError("deciders: with prefill-first there is no decider for prefill, leave it out")

    def _take_former(self) -> None:
        """Profiles and deciders as they were written before; what is written now counts first."""
        profiles, deciders = self.profiles, self.deciders
        usual = StageProfiles()
        former = {
            "decode": self.decode_profile,
            "prefill": self.prefill_profile,
            "encode": self.encode_profile,
        }
        given = {
            stage: name
            for stage, name in former.items()
            if name and getattr(profiles, stage) == getattr(usual, stage)
        }
        object.__setattr__(self, "profiles", replace(profiles, **given))
        prefill = self.prefill_decider_plugin_name or self.decider_plugin_name
        found = StageDeciders(
            prefill=deciders.prefill or prefill, encode=deciders.encode or self.encode_decider_plugin_name
        )
        object.__setattr__(self, "deciders", found)

    def joined(self, plugins: Mapping[str, Any], profiles: Collection[str]) -> "DisaggProfileHandler":
        """This handler, with its deciders; ValueError where it names something that is not there."""
        for stage in ("decode", "prefill", "encode"):
            self._check_profile(stage, profiles)
        found = replace(self)
        for stage in ("prefill", "encode"):
            name, profile = getattr(self.deciders, stage), getattr(self.profiles, stage)
            if not name:
                continue
            if name not in plugins:
                hint = suggestion(name, plugins) or ", add it to plugins"
                raise ValueError(f'deciders.{stage}: there is no plugin "{name}" for {stage}{hint}')
            decider = plugins[name]
            if Kind.DECIDER not in kinds(type(decider)):
                raise ValueError(f'deciders.{stage}: "{name}" for {stage} is no decider')
            if profile not in profiles:
                raise ValueError(
                    f'deciders.{stage}: there is no profile "{profile}", which the decider for {stage} needs'
                )
            object.__setattr__(found, f"{stage}_decider", decider)
        object.__setattr__(found, "known", tuple(profiles))
        return found

    def _check_profile(self, stage: str, profiles: Collection[str]) -> None:
        """ValueError where the profile of a stage is named, or has to be there, and is not."""
        profile, usual = getattr(self.profiles, stage), getattr(StageProfiles(), stage)
        if profile in profiles or (profile == usual and stage != "decode"):
            return
        former = getattr(self, f"{stage}_profile")
        place = f"{stage}Profile" if former == profile else f"profiles.{stage}"
        hint = suggestion(profile, profiles)
        raise ValueError(f'{place}: there is no profile "{profile}" for {stage}{hint}')

    def next_profile(self, cycle: Cycle) -> str | None:
        decode, prefill, encode = self.profiles.decode, self.profiles.prefill, self.profiles.encode
        if self.stage_order == "decode-first":
            if not cycle.picks.get(decode):
                return None if decode in cycle.picks else decode
            if self._is_worth(cycle, encode, self.encode_decider):
                return encode
            return prefill if self._is_worth(cycle, prefill, self.prefill_decider) else None
        if decode in cycle.picks:
            return None
        if prefill in self.known and prefill not in cycle.picks:
            return prefill
        return encode if self._is_worth(cycle, encode, self.encode_decider) else decode

    def _is_worth(self, cycle: Cycle, profile: str, decider: Decider | None) -> bool:
        if decider is None or profile in cycle.picks:
            return False
        decode = cycle.picks.get(self.profiles.decode)
        return decider.disaggregates(cycle, decode[0] if decode else None)

    def route(self, cycle: Cycle) -> Route:
        picks, sent = cycle.picks, cycle.request.headers
        prefill, encode = picks.get(self.profiles.prefill), picks.get(self.profiles.encode)
        headers: dict[str, str | None] = {
            name: None for name in (PREFILL_HEADER, ENCODE_HEADER) if name in sent
        }
        if prefill:
            headers[PREFILL_HEADER] = prefill[0].address
        if encode:
            headers[ENCODE_HEADER] = ",".join(endpoint.address for endpoint in encode)
        decode = self.profiles.decode
        return Route(
            decode,
            headers=headers,
            prompt_at=self.profiles.prefill if prefill else decode,
            stages=[name for name, picked in (("encode", encode), ("prefill", prefill)) if picked],
        )
