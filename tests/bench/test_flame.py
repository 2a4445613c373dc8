import re
import xml.etree.ElementTree as ET

import pytest

from bench import flame

LOOP = "main (epp/main.py:62);run (asyncio/runners.py:118)"
READ = f"{LOOP};read (epp/runtime/fast/connection.py:7)"
STACKS = [
    f"{READ} 30",
    f"{READ};pick (epp/core/scheduling.py:3) 60",
    f"{LOOP} 10",
    "_bootstrap (threading.py:1);_worker (concurrent/futures/thread.py:69) 999",
]


def test_stacks_become_a_tree_above_the_event_loop() -> None:
    root = flame.tree(STACKS)
    assert (root.name, root.samples) == ("event loop", 100)
    read = root.callees["read"]
    assert (read.samples, read.file) == (90, "epp/runtime/fast/connection.py")
    assert read.callees["pick"].samples == 60


def test_a_rooms_share_is_its_own() -> None:
    assert flame.shares(flame.tree(STACKS)) == [
        ("core", 0.6),
        ("driver", 0.3),
        ("event loop, system calls, libraries", 0.1),
    ]


def test_the_picture_is_well_formed_and_as_wide_as_the_shares() -> None:
    root = flame.tree(STACKS)
    drawn = ET.fromstring(flame.svg(root, "a < title"))
    titles = {title.text: group for group in drawn.iter() for title in group if title.tag.endswith("title")}
    read = next(group for text, group in titles.items() if text and text.startswith("read"))
    assert "read (epp/runtime/fast/connection.py): 90.0%" in titles
    rect = next(one for one in read if one.tag.endswith("rect"))
    assert float(rect.attrib["width"]) == pytest.approx(0.9 * flame.WIDTH, abs=1)


def test_the_picture_has_no_script_and_no_address() -> None:
    text = flame.svg(flame.tree(STACKS), "title")
    assert "<script" not in text
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize(
    "letters, label",
    [(20, "Stream.receive"), (13, "receive"), (7, "receive"), (6, "recei…"), (4, "rec…"), (3, ""), (-1, "")],
)
def test_a_name_is_shown_as_far_as_there_is_room(letters: int, label: str) -> None:
    assert flame._label("Stream.receive", letters) == label


def test_frames_too_narrow_to_see_are_left_out() -> None:
    lines = ["run (asyncio/runners.py:1);wide (a.py:1) 99999", "run (asyncio/runners.py:1);thin (b.py:1) 1"]
    text = flame.svg(flame.tree(lines), "title")
    assert "wide" in text and "thin" not in text


def test_nothing_sampled_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was sampled"):
        flame.svg(flame.tree([]), "title")
