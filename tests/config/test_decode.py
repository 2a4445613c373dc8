"""Strict decoding: what is accepted, and what the person who wrote it is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from epp.config import decode as decoding
from epp.config.decode import ConfigError, Here, Section, parse, parse_all, plain, quantity, read
from epp.core.durations import duration
from epp.core.scoring import Bytes, Seconds

T = TypeVar("T")


def decode(text: str, file: str, target: type[T]) -> T:
    return read(parse(text, file), target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    block_size_tokens: int = 16
    auto_tune: bool = True
    mode: Literal["fast", "slow"] = "fast"
    label: str | None = None
    port: int | str = 0
    inner: Inner | None = None
    parts: tuple[Inner, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    interval: Seconds = 1.0
    limit: Bytes = 0
    ttl: Seconds | None = field(default=None, metadata={"yaml": "requestTTL"})
    later: Section | None = None
    anything: Any = None

    def __post_init__(self) -> None:
        if self.block_size_tokens < 1:
            raise ValueError(f"blockSizeTokens: must be at least 1, got {self.block_size_tokens}")
        if self.mode == "slow" and self.auto_tune:
            raise ValueError("slow does not go with autoTune")


GOOD = """\
blockSizeTokens: 64
autoTune: no
mode: slow
label: "8"
port: 8000
inner: {name: a, weight: 2}
parts:
- name: b
- {name: c, weight: 1e1}
labels: {app: x}
interval: 1m30s
limit: 512Mi
requestTTL: 500ms
later: {what: ever}
anything: [1, yes, 2.5, x, {a: null}]
"""


def test_everything_at_once() -> None:
    outer = decode(GOOD, "c.yaml", Outer)
    assert outer.later is not None and outer.later.path == "later"
    assert outer == Outer(
        block_size_tokens=64,
        auto_tune=False,
        mode="slow",
        label="8",
        port=8000,
        inner=Inner(name="a", weight=2.0),
        parts=(Inner(name="b"), Inner(name="c", weight=10.0)),
        labels={"app": "x"},
        interval=90.0,
        limit=512 << 20,
        ttl=0.5,
        later=outer.later,
        anything=(1, True, 2.5, "x", {}),
    )


@pytest.mark.parametrize(
    "text, message",
    [
        pytest.param(
            "blockSizeTokns: 1",
            'c.yaml:1: blockSizeTokns: unknown field, did you mean "blockSizeTokens"?',
            id="unknown-field",
        ),
        pytest.param(
            "\nautotune: true",
            'c.yaml:2: autotune: unknown field, did you mean "autoTune"?',
            id="wrong-case",
        ),
        pytest.param(
            "inner: {name: a, zzz: 1}",
            "c.yaml:1: inner.zzz: unknown field, known are name, weight",
            id="nothing-like-it",
        ),
        pytest.param(
            "parts:\n- name: a\n- {nam: b}",
            'c.yaml:3: parts[1].nam: unknown field, did you mean "name"?',
            id="deep",
        ),
        pytest.param(
            "blockSizeTokens: x", 'c.yaml:1: blockSizeTokens: expected an integer, got "x"', id="integer"
        ),
        pytest.param(
            "blockSizeTokens: 1.5", "c.yaml:1: blockSizeTokens: expected an integer, got 1.5", id="fraction"
        ),
        pytest.param(
            "blockSizeTokens: 16 tokens",
            'c.yaml:1: blockSizeTokens: expected an integer, got "16 tokens", write it without a unit',
            id="unit",
        ),
        pytest.param(
            "blockSizeTokens: true", "c.yaml:1: blockSizeTokens: expected an integer, got true", id="boolean"
        ),
        pytest.param(
            'blockSizeTokens: "1"', 'c.yaml:1: blockSizeTokens: expected an integer, got "1"', id="quoted"
        ),
        pytest.param(
            "blockSizeTokens: 0x10", 'c.yaml:1: blockSizeTokens: expected an integer, got "0x10"', id="hex"
        ),
        pytest.param(
            f"blockSizeTokens: {'9' * 5000}",
            f"c.yaml:1: blockSizeTokens: the number {'9' * 37}... is too large",
            id="huge",
        ),
        pytest.param("autoTune: 1", "c.yaml:1: autoTune: expected true or false, got 1", id="truth"),
        pytest.param(
            "label: 8", "c.yaml:1: label: expected a string, got 8, put it in quotes", id="string-number"
        ),
        pytest.param("label: [a]", "c.yaml:1: label: expected a string, got a list", id="string-list"),
        pytest.param(
            "mode: fst",
            'c.yaml:1: mode: expected one of "fast", "slow", got "fst", did you mean "fast"?',
            id="choice",
        ),
        pytest.param("inner: {weight: 1}", 'c.yaml:1: inner: "name" is missing', id="missing"),
        pytest.param("inner: {name: null}", 'c.yaml:1: inner: "name" is missing', id="null-is-missing"),
        pytest.param(
            "inner: {name: a, weight: .inf}",
            "c.yaml:1: inner.weight: expected a finite number, got .inf",
            id="infinity",
        ),
        pytest.param("inner: [1]", "c.yaml:1: inner: expected a mapping, got a list", id="mapping"),
        pytest.param("parts: {a: 1}", "c.yaml:1: parts: expected a list, got a mapping", id="list"),
        pytest.param(
            "labels: {a: 1}", "c.yaml:1: labels.a: expected a string, got 1, put it in quotes", id="label"
        ),
        pytest.param(
            "interval: 5",
            'c.yaml:1: interval: expected a duration such as "500ms", "2s" or "1m30s", got 5',
            id="duration",
        ),
        pytest.param(
            "limit: 1Q",
            'c.yaml:1: limit: expected a quantity such as 1000, "200k" or "512Mi", got "1Q"',
            id="quantity",
        ),
        pytest.param(
            "mode: fast\nblockSizeTokens: 0",
            "c.yaml:2: blockSizeTokens: must be at least 1, got 0",
            id="own-check-of-a-field",
        ),
        pytest.param("mode: slow", "c.yaml:1: slow does not go with autoTune", id="own-check-of-all"),
        pytest.param("a: 1\na: 2", 'c.yaml:2: "a" is there twice, first in line 1', id="key-twice"),
        pytest.param(
            "inner: {name: a}\n---\nlabel: x",
            'c.yaml:2: holds more than one document, remove all from the second "---" on',
            id="two-documents",
        ),
        pytest.param("", "c.yaml: is empty", id="empty"),
        pytest.param("# nothing\n", "c.yaml: is empty", id="only-a-comment"),
        pytest.param("just text", 'c.yaml:1: expected a mapping, got "just text"', id="no-mapping"),
        pytest.param(
            "label: !!python/name:os.system x",
            'c.yaml:1: label: the tag "tag:yaml.org,2002:python/name:os.system" is not supported, '
            "write a plain value",
            id="a-python-object",
        ),
        pytest.param(
            "label: !!str {a: b}",
            'c.yaml:1: label: the tag "tag:yaml.org,2002:str" is not supported, write a plain value',
            id="a-mapping-called-a-string",
        ),
        pytest.param(
            "blockSizeTokens: !!int e1",
            'c.yaml:1: blockSizeTokens: the tag "tag:yaml.org,2002:int" is not supported, '
            "write a plain value",
            id="text-called-a-number",
        ),
        pytest.param(
            "<<: {label: x}",
            'c.yaml:1: merge keys ("<<") are not supported, write the fields out',
            id="merge-key",
        ),
        pytest.param("? [a]\n: 1", "c.yaml:1: field names are plain text, got a list", id="list-as-key"),
        pytest.param(
            "anything: &a [*a]",
            "c.yaml: holds more than 200000 values once its aliases are expanded",
            id="endless",
        ),
        pytest.param("x" * (1 << 20) + "x", "c.yaml: is larger than 1 MiB", id="too-large"),
    ],
)
def test_a_mistake_is_one_line_with_place_and_remedy(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        decode(text, "c.yaml", Outer)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "text", ["a: [", "a: b: c", "\t- x", "a: \x00", "\ud800: 1", "[" * 5000, "- " * 5000]
)
def test_what_is_no_yaml_is_one_line_too(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^c\.yaml:") as raised:
        decode(text, "c.yaml", Outer)
    assert "\n" not in str(raised.value)


def test_aliases_may_repeat_values_but_not_without_bound() -> None:
    assert decode("parts: [&a {name: x}, *a, *a]", "c.yaml", Outer).parts == (Inner(name="x"),) * 3
    bomb = "anything:\n- &l0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"- &l{i + 1} [{', '.join([f'*l{i}'] * 10)}]\n" for i in range(8)
    )
    with pytest.raises(ConfigError, match="200000 values"):
        decode(bomb, "c.yaml", Outer)


def test_a_null_is_an_absent_field() -> None:
    assert decode("blockSizeTokens:\nlabel: ~\ninner: null", "c.yaml", Outer) == Outer()


def test_a_section_can_be_read_later_and_knows_its_place() -> None:
    section = decode("label: x\nlater:\n  name: [1]", "c.yaml", Outer).later
    assert section is not None
    with pytest.raises(ConfigError, match=r"^c\.yaml:3: later\.name: expected a string, got a list$"):
        read(section, Inner)


def test_a_record_can_know_its_place() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Placed:
        name: str
        at: Here

    placed = read(parse("\nname: x", "c.yaml"), Placed)
    assert str(placed.at.at("name").error("is odd")) == "c.yaml:2: name: is odd"
    with pytest.raises(ConfigError, match="at: unknown field"):
        decode("at: 1", "c.yaml", Placed)


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("2s", 2.0),
        ("500ms", 0.5),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("100us", 1e-4),
        ("100µs", 1e-4),
        ("7ns", 7e-9),
        ("-2s", -2.0),
        ("0", 0.0),
        ("0s", 0.0),
        ("", None),
        ("2", None),
        ("s", None),
        ("2 s", None),
        ("2d", None),
        ("1e3s", None),
        ("٣s", None),
        ("9" * 100 + "s", None),
    ],
)
def test_durations_are_gos(text: str, seconds: float | None) -> None:
    assert duration(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "text, value",
    [
        ("5", 5),
        ("1G", 10**9),
        ("1k", 1000),
        ("512Mi", 512 << 20),
        ("1.5Gi", 3 << 29),
        ("1e3", 1000),
        ("1E3", 1000),
        ("2E", 2 * 10**18),
        ("100m", 1),
        ("2500m", 3),
        ("-1", -1),
        ("", None),
        ("G", None),
        ("1GB", None),
        ("1e99", None),
        ("1e999999999", None),
        ("99E", None),
        (".", None),
    ],
)
def test_quantities_are_kubernetes(text: str, value: int | None) -> None:
    assert quantity(text) == value


PIECES = st.sampled_from(
    [
        "&a ",
        "*a",
        "!!int ",
        "!!str ",
        "!!map ",
        "!!seq ",
        "!!null ",
        "!!bool ",
        "!!float ",
        "! ",
        "<<: ",
        "---\n",
        "...\n",
        "- ",
        ": ",
        "[",
        "]",
        "{",
        "}",
        '"',
        "'",
        "|\n",
        "\n  ",
        "null",
        "~",
        "1e999",
        ".nan",
        "0b1",
        "9" * 30,
        "1:30",
        "2026-01-01",
        "\t",
        "\x00",
        "�",
        "é",
        "%YAML 9\n",
    ]
)


@settings(max_examples=300)
@example(edits=[(131, 1, "!!int ")])
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(GOOD)), st.integers(0, 6), PIECES | st.text(max_size=3)), max_size=4
    )
)
def test_any_mutation_decodes_or_is_a_config_error(edits: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for place, removed, inserted in edits:
        text = text[:place] + inserted + text[place + removed :]
    try:
        assert isinstance(decode(text, "c.yaml", Outer), Outer)
    except ConfigError as error:
        message = str(error)
    else:
        return
    assert message.startswith("c.yaml") and "\n" not in message


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    several: tuple[int, ...] | Mapping[str, Inner] | str = ()


class TestValuesThatMayHaveSeveralShapes:
    @pytest.mark.parametrize(
        "text, value",
        [
            ("several: [1, 2]", (1, 2)),
            ("several: {a: {name: b}}", {"a": Inner(name="b")}),
            ("several: a", "a"),
        ],
    )
    def test_each_is_read(self, text: str, value: Any) -> None:
        assert decode(text, "f", Shapes).several == value

    @pytest.mark.parametrize(
        "text, message",
        [
            ("several: [a]", 'f:1: several[0]: expected an integer, got "a"'),
            ("several: {a: {nmae: b}}", 'f:1: several.a.nmae: unknown field, did you mean "name"?'),
            ("several: 1", "f:1: several: expected a string, got 1, put it in quotes"),
        ],
    )
    def test_a_mistake_is_told_of_the_shape_that_was_written(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError) as fault:
            decode(text, "f", Shapes)
        assert str(fault.value) == message


class TestValuesOfElsewhere:
    JSON = st.recursive(
        st.text()
        | st.integers(-(2**62), 2**62)
        | st.booleans()
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    )

    @given(value=JSON)
    def test_what_goes_in_comes_out(self, value: Any) -> None:
        assert plain(decoding.section(value, "f")) == value

    def test_a_mistake_names_the_field(self) -> None:
        with pytest.raises(ConfigError) as fault:
            read(decoding.section({"inner": {"nmae": 1}}, "f"), Outer)
        assert (fault.value.path, fault.value.said) == ("inner.nmae", 'unknown field, did you mean "name"?')


def test_several_documents_each_know_their_line() -> None:
    found = parse_all("---\n---\na: 1\n---\n# none\n---\nb: 2\n", "f")
    assert [(one.line, plain(one)) for one in found] == [(3, {"a": 1}), (7, {"b": 2})]


def test_a_fault_in_one_of_several_documents_is_one_of_the_text() -> None:
    with pytest.raises(ConfigError, match=r'f:3: a: "b" is there twice'):
        parse_all("x: 1\n---\na: {b: 1, b: 2}\n", "f")
