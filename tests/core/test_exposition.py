"""Reading single series out of a Prometheus page."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from epp.core.exposition import Sample, mentions, samples
from tests.captures import FOLDER, capture

NAME = b"app:queue"


def values(page: bytes, name: bytes = NAME) -> list[float]:
    return [sample.value for sample in samples(page, name)]


@pytest.mark.parametrize(
    "page, expected",
    [
        pytest.param(b"app:queue 3\n", [3.0], id="first-line"),
        pytest.param(b"x 1\napp:queue 3", [3.0], id="last-line-without-end"),
        pytest.param(b"x 1\r\napp:queue 3\r\ny 2\r\n", [3.0], id="crlf"),
        pytest.param(b"app:queue{} 3\n", [3.0], id="empty-labels"),
        pytest.param(b'app:queue{a="1"} 3\napp:queue{a="2"} 4\nx 5\n', [3.0, 4.0], id="a-group"),
        pytest.param(b'app:queue{a="1",} 3\n', [3.0], id="comma-after-last-label"),
        pytest.param(b'app:queue { a = "1" , b="2" }\t3\n', [3.0], id="blanks"),
        pytest.param(b'app:queue{a="}{ 9 "} 3\n', [3.0], id="braces-in-a-value"),
        pytest.param(b'app:queue{a="\\"} 9"} 3\n', [3.0], id="escaped-quote"),
        pytest.param(b"app:queue 3 1700000000123\n", [3.0], id="timestamp"),
        pytest.param(b'app:queue 3 # {t="1"} 0.5 1.7e9\n', [3.0], id="exemplar"),
        pytest.param(b"app:queue 1e+09\n", [1e9], id="exponent"),
        pytest.param(b"app:queue +Inf\n", [math.inf], id="infinite"),
        pytest.param(b"app:queue -0.5\n", [-0.5], id="negative"),
        pytest.param(b"app:queue_created 9\napp:queue 3\n", [3.0], id="created-twin-before"),
        pytest.param(b'app:queue_by_reason{r="x"} 9\n', [], id="longer-name"),
        pytest.param(b"my_app:queue 9\n", [], id="shorter-name"),
        pytest.param(b"# HELP app:queue 9\n# TYPE app:queue gauge\n", [], id="comments"),
        pytest.param(b"# app:queue 9\napp:queue 3\n", [3.0], id="comment-then-sample"),
        pytest.param(b"", [], id="empty-page"),
        pytest.param(
            b"app:queue 1\napp:queue_sum 9\napp:queue 2\n# TYPE x gauge\napp:queue 8\n",
            [1.0, 2.0],
            id="a-family-ends-at-the-next-type",
        ),
    ],
)
def test_reads_exactly_the_series_asked_for(page: bytes, expected: list[float]) -> None:
    assert values(page) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"app:queue",
        b"app:queue ",
        b"app:queue{",
        b"app:queue{}",
        b'app:queue{a="1} 3',
        b'app:queue{a="1\\"} 3',
        b"app:queue{a=1} 3",
        b"app:queue{a} 3",
        b'app:queue{"a"} 3',
        b"app:queue three",
        b"app:queue 3x",
        b"app:queue 1_000",
        b"app:queue 3 then",
        b"app:queue \xff",
        b'app:queue{a="1"} ',
    ],
)
def test_a_malformed_line_is_skipped_and_its_neighbours_are_read(line: bytes) -> None:
    page = b'app:queue{n="1"} 1\n' + line + b'\napp:queue{n="2"} 2\n'
    assert values(page) == [1.0, 2.0]


def test_not_a_number_is_a_value() -> None:
    assert math.isnan(values(b"app:queue NaN\n")[0])


def test_labels_are_unescaped() -> None:
    (sample,) = samples(rb'app:queue{a="x\\y\"z\n", b="",c="\t"} 1', NAME)
    assert sample.labels == {"a": 'x\\y"z\n', "b": "", "c": r"\t"}
    assert sample.label("a") == 'x\\y"z\n'
    assert sample.label("d") is None


def test_a_page_mentions_a_series_by_sample_or_declaration() -> None:
    assert mentions(b"app:queue 1\n", b"app:")
    assert mentions(b"x 1\napp:queue 1\n", b"app:")
    assert mentions(b"# TYPE app:queue gauge\n", b"app:")
    assert not mentions(b"my_app:queue 1\n# HELP x about app:queue\n", b"app:")


NAMES = st.sampled_from(["a", "a_created", "ab", "app:queue", "app:queue_by_reason", "b:c", "process_x"])
LABELS = st.dictionaries(
    st.sampled_from(["engine", "model_name", "le", "_x"]), st.text(max_size=12), max_size=3
)
NUMBERS = st.floats() | st.integers(-5, 10**12).map(float)
Group = tuple[str, Sequence[tuple[dict[str, str], float]]]
GROUPS = st.lists(
    st.tuples(NAMES, st.lists(st.tuples(LABELS, NUMBERS), min_size=1, max_size=4)),
    max_size=6,
    unique_by=lambda group: group[0],
)


def written(groups: Sequence[Group], end: str, stamp: str) -> bytes:
    lines = []
    for name, group in groups:
        lines += [f"# HELP {name} about {name} 1", f"# TYPE {name} gauge"]
        for labels, value in group:
            pairs = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
            lines.append(f"{name}{'{' + pairs + '}' if pairs else ''} {shown(value)}{stamp}")
    return end.join([*lines, ""]).encode("utf-8", "surrogatepass")


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def shown(value: float) -> str:
    return repr(value).replace("inf", "Inf").replace("nan", "NaN")


@given(groups=GROUPS, asked=NAMES, end=st.sampled_from(["\n", "\r\n"]), stamp=st.sampled_from(["", " 17"]))
@settings(max_examples=150, deadline=None)
def test_what_was_written_is_read(groups: Sequence[Group], asked: str, end: str, stamp: str) -> None:
    found = samples(written(groups, end, stamp), asked.encode())
    expected = dict(groups).get(asked, [])
    assert [repr(sample.value) for sample in found] == [repr(value) for _, value in expected]
    assert [sample.labels for sample in found] == [labels for labels, _ in expected]


FRAGMENTS = st.sampled_from(
    [
        b"app:queue",
        b"{",
        b"}",
        b'"',
        b"\\",
        b",",
        b"=",
        b" ",
        b"\n",
        b"\r\n",
        b"1",
        b"NaN",
        b"#",
        b"a",
        b"\xff",
    ]
)


@given(page=st.lists(FRAGMENTS | st.binary(max_size=5), max_size=40).map(b"".join))
@example(page=b"app:queue{" + b'a="\\' * 2000)
@example(page=b"app:queue{" + b'a="b",' * 2000)
@example(page=b"app:queue" + b" " * 5000 + b"x")
@settings(max_examples=300, deadline=None)
def test_no_page_raises(page: bytes) -> None:
    for sample in samples(page, NAME):
        assert isinstance(sample, Sample)
        assert all(isinstance(text, str) for text in sample.labels.values())


def reference(page: bytes, name: str) -> list[float]:
    """A slow reader of well-formed pages: line by line, the value is what stands last."""
    lines = [line for line in page.decode().splitlines() if line and not line.startswith("#")]
    return [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " "))]


PAGES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob("**/*metrics*.txt"))


@pytest.mark.parametrize("name", PAGES)
def test_every_series_of_a_recorded_page_is_read(name: str) -> None:
    page = capture(name).body
    names = {
        line.split("{")[0].split(" ")[0] for line in page.decode().splitlines() if line[:1] not in ("#", "")
    }
    assert len(names) > 10
    for each in names:
        assert values(page, each.encode()) == pytest.approx(reference(page, each), nan_ok=True), each
