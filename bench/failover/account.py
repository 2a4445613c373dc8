"""What became of every request of one run, counted.

Place:   fed by bench.failover.play; judged by the goals of bench.failover.scenarios.
Ignores: how requests were made and faults injected.
Rule:    pure. A request belongs to the server that the picker chose for it, whatever the gateway made of
         that. Times are seconds; None: it did not happen.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from bench.load import Percentiles, Sample


class Fate(Enum):
    """How a request ended."""

    OK = "answered"
    FAILED = "failed before any byte"
    """No answer at all, or an error in its place."""
    BROKEN = "broken in mid-stream"
    """A good answer that did not come to its end."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; all moments by the same clock."""

    due: float
    sent: float
    picked: str | None
    """The address that the picker chose; None: it chose none, or nobody said."""
    served: str | None
    """The address to which the gateway sent it last."""
    status: int | None
    first_byte: float | None
    first_token: float | None
    ended: float
    body_bytes: int
    error: str | None

    @classmethod
    def of(cls, sample: Sample) -> "Request":
        """``served_by`` of the sample is the gateway's account: ``picked served``."""
        picked, _, served = (sample.served_by or "").partition(" ")
        return cls(
            due=sample.due,
            sent=sample.due if sample.sent is None else sample.sent,
            picked=_known(picked.partition(",")[0]),  # the first of an ordered list
            served=_known(served),
            status=sample.status,
            first_byte=sample.first_byte,
            first_token=sample.first_token,
            ended=sample.ended,
            body_bytes=sample.body_bytes,
            error=sample.error,
        )

    @property
    def fate(self) -> Fate:
        if self.error is None:
            return Fate.OK
        return Fate.BROKEN if self.status is not None and 200 <= self.status < 300 else Fate.FAILED

    @property
    def ttft(self) -> float | None:
        return None if self.first_token is None or self.error else self.first_token - self.due


def _known(address: str) -> str | None:
    return address if address not in ("", "-") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What happened to the victim, and when."""

    began: float
    struck: float
    """Read just before the fault."""
    healing: float
    """Read just before its end."""
    back: float | None
    """The first look at which the victim itself answered again."""
    ended: float
    """The last request was due."""
    struck_at: str
    """Its address before ..."""
    back_at: str
    """... and after."""
    can_serve: bool = False
    """It serves during the fault, or part of it: only what is lost there was sent there by mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One run in figures."""

    requests: int
    on_it: int
    """On their way to the victim or on it at the fault."""
    lost_on_it: int
    """Of these, failed or broken."""
    failed: int
    """Before any byte, all in all."""
    broken: int
    """In mid-stream, all in all."""
    lost_new: int
    """Sent after the fault, and failed or broken."""
    last_lost: float
    """From the fault to the last request sent that was lost; 0: none."""
    sent_after: int
    """New requests sent there after the fault: those before its end, and those that were lost until it was
    back."""
    last_sent: float
    """From the fault to the last of these; 0: there was none."""
    back_after: float | None
    """From when the victim could answer again to the first request sent there."""
    first_second: float
    """Of all requests sent within a second of that one, those sent there."""
    lost_after_back: int
    """Sent after the first one there, and lost."""
    kept_share: float
    """Of requests during the fault, those that the victim answered."""
    told_after: float | None
    """The longest wait of a request, sent during the fault, until it was told that it had failed."""
    late: float
    """The longest from when a request was due until it was sent: where this is much, the machine was busy."""
    before: Percentiles | None
    during: Percentiles | None
    after: Percentiles | None
    """Time to the first token of good answers, by when the request was due."""

    @property
    def lost(self) -> int:
        return self.failed + self.broken


def account(requests: Sequence[Request], moments: Moments) -> Account:
    """Count."""
    struck, end = moments.struck, moments.ended + 1.0 if moments.back is None else moments.back
    lost = [one for one in requests if one.fate is not Fate.OK]
    lost_new = [one for one in lost if one.sent >= struck]
    on_it = [r for r in requests if r.sent < struck < r.ended and r.picked == moments.struck_at]
    during = [one for one in requests if struck <= one.sent < end]
    sent_after = [one for one in requests if _is_wrong(one, moments, end)]
    back = sorted(r.sent for r in requests if r.sent >= end and r.picked == moments.back_at)
    kept = [one for one in during if one.fate is Fate.OK and one.served == moments.struck_at]
    waits = [one.ended - one.due for one in during if one.fate is Fate.FAILED]
    return Account(
        requests=len(requests),
        on_it=len(on_it),
        lost_on_it=sum(one.fate is not Fate.OK for one in on_it),
        failed=sum(one.fate is Fate.FAILED for one in lost),
        broken=sum(one.fate is Fate.BROKEN for one in lost),
        lost_new=len(lost_new),
        last_lost=max((one.sent - struck for one in lost_new), default=0.0),
        sent_after=len(sent_after),
        last_sent=max((one.sent - struck for one in sent_after), default=0.0),
        back_after=back[0] - end if back and moments.back is not None else None,
        first_second=_share([r for r in requests if back and 0 <= r.sent - back[0] <= 1.0], moments.back_at),
        lost_after_back=sum(bool(back) and one.sent >= back[0] for one in lost),
        kept_share=len(kept) / len(during) if during else 0.0,
        told_after=max(waits, default=None),
        late=max((one.sent - one.due for one in requests), default=0.0),
        before=_ttft(r for r in requests if r.due < struck),
        during=_ttft(r for r in requests if struck <= r.due < end),
        after=_ttft(r for r in requests if r.due >= end),
    )


def _is_wrong(request: Request, moments: Moments, end: float) -> bool:
    """Sent to the victim though it could not serve."""
    if request.picked != moments.struck_at or request.sent < moments.struck:
        return False
    if moments.struck_at != moments.back_at:
        return True
    if request.sent < moments.healing and not moments.can_serve:
        return True
    return request.sent < end and request.fate is not Fate.OK


def _share(requests: Sequence[Request], address: str) -> float:
    return sum(one.picked == address for one in requests) / len(requests) if requests else 0.0


def _ttft(requests: Iterable[Request]) -> Percentiles | None:
    return Percentiles.of(one.ttft for one in requests)
