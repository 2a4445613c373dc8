"""Rewriting one value of a JSON object."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from epp.core.json_edit import replace_string


@pytest.mark.parametrize(
    "body, expected",
    [
        pytest.param(b'{"model":"a"}', b'{"model":"new"}', id="alone"),
        pytest.param(
            b' {\n "model" :\t"a" , "n": 1.50 }\n', b' {\n "model" :\t"new" , "n": 1.50 }\n', id="spaces"
        ),
        pytest.param(
            b'{"b":1e2,"model":"a","a":1}', b'{"b":1e2,"model":"new","a":1}', id="order-and-numbers"
        ),
        pytest.param(b'{"mod\\u0065l":"a"}', b'{"mod\\u0065l":"new"}', id="escaped-key"),
        pytest.param(
            b'{"\\u006D\\u006fdel":"a"}', b'{"\\u006D\\u006fdel":"new"}', id="escaped-key-in-capitals"
        ),
        pytest.param(b'{"model":"a\\"b\\\\"}', b'{"model":"new"}', id="escapes-in-the-old-value"),
        pytest.param(
            b'{"x":{"model":"a"},"model":"b"}', b'{"x":{"model":"a"},"model":"new"}', id="nested-key"
        ),
        pytest.param(
            b'{"x":[{"model":"a"}],"model":"b"}', b'{"x":[{"model":"a"}],"model":"new"}', id="key-in-array"
        ),
        pytest.param(b'{"x":"model","model":"b"}', b'{"x":"model","model":"new"}', id="value-like-the-key"),
        pytest.param(
            b'{"x":"\\"model\\":\\"a\\"","model":"b"}',
            b'{"x":"\\"model\\":\\"a\\"","model":"new"}',
            id="key-quoted-in-a-string",
        ),
        pytest.param(
            b'{"a\\"model":1,"model":"b"}', b'{"a\\"model":1,"model":"new"}', id="key-ends-like-the-key"
        ),
        pytest.param(
            b'{"a\\"model":{"b":"{"},"x":["{","{"],"model":"b"}',
            b'{"a\\"model":{"b":"{"},"x":["{","{"],"model":"new"}',
            id="brackets-after-such-a-key",
        ),
        pytest.param(
            b'{"model":"b","a\\"model":"c"}', b'{"model":"new","a\\"model":"c"}', id="such-a-key-comes-last"
        ),
        pytest.param(b'{"x":"}]{","model":"b"}', b'{"x":"}]{","model":"new"}', id="brackets-in-a-string"),
        pytest.param(
            b'{"x":"\\\\","model":"b"}', b'{"x":"\\\\","model":"new"}', id="string-ends-in-backslash"
        ),
        pytest.param(
            b'{"model":"a","model":"b"}', b'{"model":"a","model":"new"}', id="the-last-of-two-counts"
        ),
        pytest.param('{"x":"ü","model":"ä"}'.encode(), '{"x":"ü","model":"new"}'.encode(), id="utf-8"),
    ],
)
def test_only_the_value_changes(body: bytes, expected: bytes) -> None:
    assert replace_string(body, "model", "new") == expected


@pytest.mark.parametrize(
    "body, error",
    [
        pytest.param(b'{"x":{"model":"a"}}', KeyError, id="only-nested"),
        pytest.param(b"{}", KeyError, id="empty"),
        pytest.param(b'["model"]', ValueError, id="array"),
        pytest.param(b'[{"model":"a"}]', ValueError, id="object-in-array"),
        pytest.param(b'{"model":1}', ValueError, id="number"),
        pytest.param(b'{"model":null}', ValueError, id="null"),
        pytest.param(b'{"model":"', ValueError, id="cut-off"),
        pytest.param(b"", ValueError, id="nothing"),
    ],
)
def test_a_body_without_such_a_string_is_an_error(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        replace_string(body, "model", "new")


def test_the_new_value_is_escaped() -> None:
    assert json.loads(replace_string(b'{"model":"a"}', "model", 'a"\\\n\x00ü🙂'))["model"] == 'a"\\\n\x00ü🙂'


NASTY = st.sampled_from(
    ["model", '"model":', '\\"model":"x"', "\\", '\\\\"', "{", "]", "\u2028", "mod\\u0065l", "🙂"]
)
TEXT = st.text(max_size=8) | NASTY
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["model", "a", 'k"ey', "back\\slash", "/", "tab\t", "ü", "🙂"])


def spelled(text: str, escapes: list[bool]) -> str:
    """``text`` as a JSON string, with some characters as escapes."""
    units = json.dumps(text)[1:-1] if len(escapes) < len(text) else None
    if units is not None:
        return f'"{units}"'
    parts = []
    for character, escaped in zip(text, escapes, strict=False):
        utf16 = character.encode("utf-16-be")
        as_units = "".join(f"\\u{utf16[i]:02x}{utf16[i + 1]:02X}" for i in range(0, len(utf16), 2))
        parts.append(as_units if escaped else json.dumps(character, ensure_ascii=False)[1:-1])
    return f'"{"".join(parts)}"'


@given(
    key=KEYS,
    members=st.lists(st.tuples(TEXT | KEYS, VALUES), max_size=5),
    escapes=st.lists(st.booleans(), max_size=10),
    old=TEXT,
    new=st.text(max_size=8),
    place=st.integers(0, 5),
    compact=st.booleans(),
    ascii_only=st.booleans(),
)
@example(
    key="model",
    members=[('"model', 1)],
    escapes=[],
    old="\\",
    new="n",
    place=1,
    compact=True,
    ascii_only=True,
)
def test_every_other_byte_stays(
    *,
    key: str,
    members: list[tuple[str, Any]],
    escapes: list[bool],
    old: str,
    new: str,
    place: int,
    compact: bool,
    ascii_only: bool,
) -> None:
    comma, colon = (",", ":") if compact else (" ,\n", "\t: ")
    written = [
        f"{json.dumps(name, ensure_ascii=ascii_only)}{colon}{json.dumps(value, ensure_ascii=ascii_only)}"
        for name, value in members
        if name != key
    ]
    place = min(place, len(written))
    before = "".join(f"{member}{comma}" for member in written[:place]) + spelled(key, escapes) + colon
    after = "".join(f"{comma}{member}" for member in written[place:]) + "}"
    body = f"{{{before}{json.dumps(old)}{after}".encode("utf-8", "surrogatepass")
    edited = replace_string(body, key, new)
    assert edited == f"{{{before}{msgspec.json.encode(new).decode()}{after}".encode("utf-8", "surrogatepass")
    assert json.loads(edited) == {**json.loads(body), key: new}


@given(values=st.lists(st.text("ab", max_size=2), min_size=1, max_size=4))
def test_of_several_the_decoder_and_the_editor_mean_the_same_one(values: list[str]) -> None:
    body = ("{" + ",".join(f'"model":{json.dumps(value)}' for value in values) + "}").encode()
    assert msgspec.json.decode(replace_string(body, "model", "new"))["model"] == "new"


@given(body=st.binary(max_size=60) | st.text('{}[]":,\\ mode', max_size=40).map(str.encode))
def test_no_body_makes_it_fail_in_another_way(body: bytes) -> None:
    try:
        replace_string(body, "model", "new")
    except (KeyError, ValueError):
        pass
