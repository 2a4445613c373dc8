"""How the demo looks: a live table in a terminal, plain lines anywhere else.

Place:   reads the board; never changes it.
Rule:    what scrolls by (events, reasons of picks) is the same in both; the table only where it can be
         redrawn, and at the end.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench.demo.board import OUT, Board, Phase, answered_by, stayed
from bench.demo.verdict import findings
from bench.load import Percentiles, clock

REDRAW_SECONDS = 0.25
REASON_SECONDS = 3.0
STATE_STYLES = {
    "ready": "green",
    "warming": "yellow",
    "probing": "yellow",
    "suspect": "red",
    **dict.fromkeys(OUT, "bold red"),
}


class View:
    """Shows one board."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._console = console
        self._began = clock()
        self._shown_pick = ""
        self._told_phases = 0

    def say(self, text: str) -> None:
        """An event, with the seconds since the start."""
        self._console.print(
            f"[dim]{clock() - self._began:6.1f} s[/]  {escape(text)}", soft_wrap=True, highlight=False
        )

    @asynccontextmanager
    async def live(self) -> AsyncIterator[None]:
        """Keep the audience up to date while the block runs."""
        async with asyncio.TaskGroup() as owner:
            task = owner.create_task(self._follow(), name="view")
            try:
                yield
            finally:
                task.cancel()

    async def _follow(self) -> None:
        if not self._console.is_terminal:
            await self._tell(None)
        with Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            get_renderable=lambda: render(self._board),
        ) as live:
            await self._tell(live)

    async def _tell(self, live: Live | None) -> None:
        """Ends with the task that owns it."""
        phase: Phase | None = None
        next_reason = clock() + REASON_SECONDS
        while True:
            if self._board.current is not phase:
                if phase is not None:
                    self.say(f"{phase.title}: {line(phase)}")
                phase = self._board.current
                next_reason = clock() + REASON_SECONDS
                if phase is not None:
                    self.say(f"{phase.title}: {phase.seconds:.0f} s of load")
            self._tell_phases()
            if clock() >= next_reason:
                next_reason = clock() + REASON_SECONDS
                self._tell_progress(phase, is_live=live is not None)
            if live is not None:
                live.refresh()
            await asyncio.sleep(REDRAW_SECONDS)

    def _tell_phases(self) -> None:
        """The life of the server that dies."""
        fault = self._board.fault
        if fault is None:
            return
        new, self._told_phases = fault.phases[self._told_phases :], len(fault.phases)
        for phase, why in new:
            self.say(f"{fault.name} is {phase}: {why}")

    def _tell_progress(self, phase: Phase | None, *, is_live: bool) -> None:
        if phase is None or phase.is_over:
            return
        if not is_live:
            self.say(f"{phase.title}: {line(phase)}; {where(self._board)}")
        picks = self._board.picks
        if picks and picks[0]["request_id"] != self._shown_pick:
            self._shown_pick = picks[0]["request_id"]
            self.say(reason(picks[0]))

    def end(self) -> None:
        """What it came to."""
        phase = self._board.current
        self._tell_phases()
        if phase is not None:
            self.say(f"{phase.title}: {line(phase)}")
        self._console.print()
        self._console.print(summary(self._board))
        self._console.print()
        for sentence in findings(self._board):
            self._console.print(escape(sentence), soft_wrap=True, highlight=False)


def line(phase: Phase) -> str:
    """A phase in one line."""
    stay, later = stayed(phase.samples)
    parts = [f"{len(phase.samples)} requests, {len(phase.failures)} failed", f"TTFT {_ttft(phase.ttft())}"]
    if later:
        parts.append(f"{stay / later:.0%} of later turns stayed on their server")
    return ", ".join(parts)


def where(board: Board) -> str:
    """Each server's state and answers, in one line."""
    phase = board.current
    counts = board.counts(phase.samples if phase else ())
    return ", ".join(f"{name} {_state(board, name)} {counts[name]}" for name in board.servers)


def reason(pick: Mapping[str, Any]) -> str:
    """One pick and why, from a record of /debug/picks."""
    if "rejected" in pick:
        return f"{pick['request_id']} → nowhere: {pick['rejected']}"
    chosen = pick["picked"][0]
    ranked = sorted(pick["candidates"], key=lambda one: (one["endpoint"] != chosen, -one["total"]))
    first, *others = ranked
    terms = " + ".join(
        f"{name.removesuffix('-scorer')} {_number(score)}×{pick['weights'][name]:g}"
        for name, score in first["scores"].items()
        if score is not None  # no opinion
    )
    rest = ", ".join(f"{other['endpoint']} {other['total']:.2f}" for other in others) or "nobody else"
    return f"{pick['request_id']} → {chosen}: {terms} = {first['total']:.2f}; {rest}"


def render(board: Board) -> RenderableType:
    """The live picture."""
    phase = board.current
    if phase is None or phase.started is None:
        return Text("measuring what this machine can do ...", style="dim")
    left = max(0.0, phase.started + phase.seconds - clock())
    title = f"{phase.title}  ·  {board.rate:.1f} requests/s  ·  {left:.0f} s left"
    return Group(_servers(board, phase, title), *(Text(f"{p.title}: {line(p)}") for p in board.phases))


def _servers(board: Board, phase: Phase, title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    table.add_column("server")
    table.add_column("state")
    for heading in ("requests", "share", "in flight", "running", "waiting", "TTFT p50"):
        table.add_column(heading, justify="right")
    counts = board.counts(phase.samples)
    total = sum(counts.values())
    for name, address in board.servers.items():
        reading = board.readings.get(name, {})
        load = reading.get("load", {})
        state = _state(board, name)
        ttft = Percentiles.of(sample.ttft for sample in answered_by(phase.samples, address))
        table.add_row(
            name,
            Text(state, style=STATE_STYLES.get(state, "")),
            str(counts[name]),
            f"{counts[name] / total:.0%}" if total else "–",
            # Only the picker knows it, and only of what it picked.
            "–" if phase.listener == "round_robin" else _number(reading.get("requests_in_flight")),
            _number(load.get("running")),
            _number(load.get("waiting")),
            "–" if ttft is None else f"{ttft.p50 * 1e3:.0f} ms",
        )
    return table


def _state(board: Board, name: str) -> str:
    return board.state(name) or "–"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def _ttft(ttft: Percentiles | None) -> str:
    return "–" if ttft is None else f"p50 {ttft.p50 * 1e3:.0f} ms, p95 {ttft.p95 * 1e3:.0f} ms"


def summary(board: Board) -> RenderableType:
    """The table at the end."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("summary", "requests", "failed", "TTFT p50", "p95", "stayed", "by server"):
        table.add_column(heading, justify="left" if heading == "summary" else "right", no_wrap=True)
    for phase in board.phases:
        ttft, (stay, later) = phase.ttft(), stayed(phase.samples)
        table.add_row(
            phase.title,
            str(len(phase.samples)),
            str(len(phase.failures)),
            "–" if ttft is None else f"{ttft.p50 * 1e3:.0f} ms",
            "–" if ttft is None else f"{ttft.p95 * 1e3:.0f} ms",
            f"{stay / later:.0%}" if later else "–",
            "/".join(str(count) for count in board.counts(phase.samples).values()),
        )
    return table
