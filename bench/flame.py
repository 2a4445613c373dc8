"""Sampled stacks as a flame graph, drawn without scripts or fonts of its own (SVG).

Place:   bench.profile feeds it what py-spy sampled; docs/performance.md shows the picture.
Ignores: how the stacks were sampled.
Rule:    a frame is as wide as its share of all samples, its callers are below it, siblings are in
         alphabetical order. The colour says which room the code lives in.
"""

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

WIDTH, ROW, HEAD, FOOT = 1_200, 17, 44, 26
LEAST_WIDTH = 1.5
LETTER_WIDTH = 6.2

ROOMS: Mapping[str, tuple[str, str]] = {
    "epp/runtime/fast/": ("driver", "#e8895c"),
    "epp/wire/": ("messages", "#e3bb54"),
    "epp/core/": ("core", "#7fae6b"),
    "scorers/": ("plugins", "#62a8a0"),
    "epp/": ("runtime", "#8a9fd4"),
    "": ("event loop, system calls, libraries", "#b9b4ac"),
}
"""The first prefix that fits a frame's file: what it is called, and its colour."""

_FRAME = re.compile(r"(?P<name>.+) \((?P<file>[^()]*?)(:\d+)?\)$")
_LOOP = "event loop"


@dataclass(slots=True)
class Frame:
    """A function in one place of the graph; ``samples`` include those of what it called."""

    name: str
    file: str = ""
    samples: int = 0
    callees: dict[str, "Frame"] = field(default_factory=dict)


def tree(lines: Iterable[str]) -> Frame:
    """Collapsed stacks (``outermost;…;innermost count``) of the thread that runs the event loop."""
    root = Frame(_LOOP)
    for line in lines:
        stack, _, count = line.strip().rpartition(" ")
        frames = [_FRAME.match(text) for text in stack.split(";")]
        loop = next((n for n, f in enumerate(frames) if f and f["file"].startswith("asyncio/runners")), None)
        if loop is None:
            continue  # another thread, or before the loop
        samples = int(count)
        here = root
        here.samples += samples
        for match in frames[loop + 1 :]:
            if match is None:
                continue
            here = here.callees.setdefault(match["name"], Frame(match["name"], match["file"]))
            here.samples += samples
    return root


def svg(root: Frame, title: str) -> str:
    """The picture. Hovering over a frame tells its file and share."""
    if not root.samples:
        raise ValueError("nothing was sampled: was the picker under load?")
    boxes = list(_boxes(root, root.samples))
    rows = max(box.depth for box in boxes) + 1
    height = HEAD + rows * ROW + FOOT
    drawn = [_drawn(box, height - FOOT) for box in boxes]
    font = 'font-family="monospace" font-size="10"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {font}>',
            f'<rect width="{WIDTH}" height="{height}" fill="#fffdf8"/>',
            f'<text x="10" y="20" font-size="14">{html.escape(title)}</text>',
            *_legend(height - 9),
            *drawn,
            "</svg>\n",
        ]
    )


@dataclass(frozen=True, slots=True)
class _Box:
    frame: Frame
    depth: int
    left: float
    width: float
    share: float


def _boxes(root: Frame, total: int) -> Iterator[_Box]:
    waiting: list[tuple[Frame, int, float]] = [(root, 0, 0.0)]
    while waiting:
        frame, depth, left = waiting.pop()
        width = WIDTH * frame.samples / total
        if width < LEAST_WIDTH:
            continue
        yield _Box(frame, depth, left, width, frame.samples / total)
        for callee in sorted(frame.callees.values(), key=lambda one: one.name):
            waiting.append((callee, depth + 1, left))
            left += WIDTH * callee.samples / total


def _drawn(box: _Box, floor: int) -> str:
    frame, top = box.frame, floor - (box.depth + 1) * ROW
    label = _label(frame.name, int(box.width / LETTER_WIDTH - 0.5))
    said = html.escape(f"{frame.name}{f' ({frame.file})' if frame.file else ''}: {box.share:.1%}")
    text = f'<text x="{box.left + 2:.1f}" y="{top + 12}">{html.escape(label)}</text>' if label else ""
    return (
        f'<g><title>{said}</title><rect x="{box.left:.1f}" y="{top}" width="{max(box.width - 0.5, 0.5):.1f}" '
        f'height="{ROW - 1}" fill="{_room(frame.file)[1]}"/>{text}</g>'
    )


def _label(name: str, letters: int) -> str:
    """As much of a name as there is room for: without its class, cut off, nothing."""
    own = name.rpartition(".")[2]
    if len(name) <= letters:
        return name
    if len(own) <= letters:
        return own
    return own[: letters - 1] + "…" if letters > 3 else ""


def _room(file: str) -> tuple[str, str]:
    return next(room for prefix, room in ROOMS.items() if file.startswith(prefix))


def _legend(baseline: int) -> Iterator[str]:
    left = 10
    for name, colour in ROOMS.values():
        yield f'<rect x="{left}" y="{baseline - 9}" width="11" height="11" fill="{colour}"/>'
        yield f'<text x="{left + 15}" y="{baseline}">{name}</text>'
        left += 40 + int(len(name) * LETTER_WIDTH)


def shares(root: Frame) -> Sequence[tuple[str, float]]:
    """Each room's own share of the samples, the largest first."""
    own: dict[str, int] = {}
    waiting = [root]
    while waiting:
        frame = waiting.pop()
        room = _room(frame.file)[0]
        own[room] = own.get(room, 0) + frame.samples - sum(one.samples for one in frame.callees.values())
        waiting += frame.callees.values()
    return sorted(((room, count / root.samples) for room, count in own.items()), key=lambda one: -one[1])
