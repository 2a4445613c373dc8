"""Recorded requests, read line by line, and what is said of broken files."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.workloads import traces
from bench.workloads.sessions import Piece, Session
from bench.workloads.traces import Request
from epp.config.decode import ConfigError

COMMON = "46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57"
LINE = '{{"timestamp": {}, "input_length": {}, "output_length": {}, "hash_ids": [{}]}}\n'
GOOD = LINE.format(27482, 6955, 52, f"{COMMON}, 2353, 2354")
NEXT = LINE.format(30535, 6472, 26, f"{COMMON}, 2366")


def read(folder: Path, text: str | bytes, form: str = "mooncake") -> list[Session]:
    file = folder / "trace"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(traces.read(str(file), form))  # type: ignore[arg-type]


def refused(folder: Path, text: str | bytes, form: str = "mooncake") -> str:
    with pytest.raises(ConfigError) as raised:
        read(folder, text, form)
    said = str(raised.value)
    assert "\n" not in said and said.startswith(f"{folder}/trace")
    return said.removeprefix(f"{folder}/")


def test_prompts_begin_alike_where_their_blocks_do(tmp_path: Path) -> None:
    first, second = read(tmp_path, GOOD + NEXT)
    assert (first.at, second.at) == (27.482, 30.535)
    a, b = first.turns[0].pieces, second.turns[0].pieces
    assert a[:12] == b[:12] == tuple(Piece(name, 512) for name in range(46, 58))
    assert a[12:] == (Piece(2353, 512), Piece(2354, 6955 - 13 * 512)) and b[12:] == (
        Piece(2366, 6472 - 12 * 512),
    )
    assert [session.turns[0].output_tokens for session in (first, second)] == [52, 26]


def test_a_tail_without_an_id_is_a_text_of_its_own(tmp_path: Path) -> None:
    first, second = read(tmp_path, 2 * LINE.format(0, 600, 1, 7))
    (block, tail), (same, other) = first.turns[0].pieces, second.turns[0].pieces
    assert block == same == Piece(7, 512) and tail.tokens == other.tokens == 88 and tail.name != other.name
    (alone,) = read(tmp_path, LINE.format(0, 88, 1, ""))
    assert [piece.tokens for piece in alone.turns[0].pieces] == [88]


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "trace: holds no request: is it the right file?"),
        ("\n  \n", "trace: holds no request: is it the right file?"),
        (GOOD + NEXT[:-30], "trace:2: the last line is cut off: remove it, or get the file again"),
        ("{\n" + GOOD, "trace:1: is not JSON (Expecting property name"),
        ("[" * 100_000 + "\n", "trace:1: is not JSON (nested or long beyond reason): a trace has one object"),
        ("[1]\n", "trace:1: is not a JSON object: a trace has one on each line"),
        (
            GOOD.replace("27482", "-1"),
            "trace:1: timestamp: -1 is not milliseconds since the first request, 0 or more",
        ),
        (GOOD.replace("27482", "NaN"), "trace:1: timestamp: NaN is not milliseconds"),
        (
            GOOD.replace('"timestamp"', '"time"'),
            'trace:1: the field "timestamp" is missing: milliseconds since',
        ),
        (
            NEXT + GOOD,
            "trace:2: is at 27.482 s, before the request above it (30.535 s): sort the file by time",
        ),
        (GOOD.replace("6955", "0"), "trace:1: input_length: 0 is not a number of tokens, 1 to 10,000,000"),
        (GOOD.replace("6955", '"6955 t"'), 'trace:1: input_length: "6955 t" is not a number of tokens'),
        (GOOD.replace("52,", "5.5,", 1), "trace:1: output_length: 5.5 is not a number of tokens"),
        (GOOD.replace("52,", "true,", 1), "trace:1: output_length: true is not a number of tokens"),
        (GOOD.replace("[46", "[-46"), "trace:1: hash_ids: [-46, 47, 48"),
        (GOOD.replace("57, 2353, 2354", "57"), "of 512: is the trace one of other blocks?"),
        (GOOD.replace("6955", "95"), "trace:1: hash_ids: has 14 blocks, but 95 tokens make 1 of 512"),
        (
            GOOD.replace("hash_ids", "hashes"),
            'trace:1: the field "hash_ids" is missing: a list of whole numbers',
        ),
        (b"\xff\n", "trace: is not UTF-8 text"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.jsonl: cannot be read: No such file or directory"):
        next(traces.read(str(tmp_path / "nothing.jsonl"), "mooncake"))


def test_what_is_before_a_broken_line_has_been_given_out(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(GOOD + "{\n")
    found: Iterator[Session] = traces.read(str(tmp_path / "trace"), "mooncake")
    assert next(found).at == 27.482
    with pytest.raises(ConfigError, match="trace:2: is not JSON"):
        next(found)


AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,1396,109
"""
BURST = """\
Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,1,2.5,ChatGPT,472,18,490,Conversation log
45,1,0.1,ChatGPT,1087,0,1087,Conversation log
118.5,2,9.0,GPT-4,417,276,693,API log
"""


def test_azures_tables_begin_at_0_and_share_nothing(tmp_path: Path) -> None:
    first, second = read(tmp_path, AZURE, "azure")
    assert first.at == 0 and second.at == pytest.approx(4.314579)
    assert [sum(piece.tokens for piece in each.turns[0].pieces) for each in (first, second)] == [374, 1396]
    assert [each.turns[0].output_tokens for each in (first, second)] == [44, 109]
    assert not {piece.name for piece in first.turns[0].pieces} & {
        piece.name for piece in second.turns[0].pieces
    }


def test_burstgpts_failed_requests_are_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, BURST, "burstgpt")
    assert [(session.at, session.turns[0].output_tokens) for session in found] == [(5, 18), (118.5, 276)]


@pytest.mark.parametrize(
    "text, form, said",
    [
        ("", "azure", "trace: holds no request"),
        (AZURE[:40], "azure", "trace: holds no request"),
        (AZURE[:-30], "azure", "trace:3: is cut off, 3 columns are needed: remove the line"),
        (
            AZURE.replace("46.68", "99.68"),
            "azure",
            'trace:2: TIMESTAMP: "2023-11-16 18:15:99.6805900" is not a time',
        ),
        (
            AZURE.replace(":50.", ":40."),
            "azure",
            "trace:3: TIMESTAMP: 2023-11-16 18:15:40.9951690 is before the first",
        ),
        (AZURE.replace("374", "-374"), "azure", 'trace:2: ContextTokens: "-374" is not a number of tokens'),
        (AZURE, "burstgpt", 'trace:1: the column "Timestamp" is missing, there are TIMESTAMP, ContextTokens'),
        (
            BURST.replace("\n5,", "\n-5,"),
            "burstgpt",
            'trace:2: Timestamp: "-5" is not seconds since the first',
        ),
        (
            BURST.replace(",472,", ",many,"),
            "burstgpt",
            'trace:2: Request tokens: "many" is not a number of tokens',
        ),
        (
            BURST.replace("\n118.5", "\n4"),
            "burstgpt",
            "trace:4: is at 4 s, before the request above it (5 s)",
        ),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, text: str, form: str, said: str) -> None:
    assert said in refused(tmp_path, text, form)


@st.composite
def recorded(draw: st.DrawFn) -> list[Request]:
    moments = sorted(draw(st.lists(st.integers(0, 10**7), min_size=1, max_size=10)))
    requests = []
    for moment in moments:
        blocks = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=8))
        tokens = 512 * (len(blocks) - 1) + draw(st.integers(1, 512))
        requests.append(Request(moment / 1_000, tokens, draw(st.integers(1, 10**5)), tuple(blocks)))
    return requests


@given(requests=recorded())
def test_what_is_written_is_read_again(requests: list[Request]) -> None:
    out = io.StringIO()
    traces.write(requests, out)
    lines = out.getvalue().splitlines(keepends=True)
    assert [request for _, request in traces.mooncake(lines, "t")] == requests
    for request, session in zip(requests, traces.sessions(requests), strict=True):
        assert sum(piece.tokens for piece in session.turns[0].pieces) == request.input_tokens


def outcome(lines: list[str], form: str) -> str:
    readers = {"mooncake": traces.mooncake, "azure": traces.azure, "burstgpt": traces.burstgpt}
    try:
        list(readers[form](lines, "t"))
    except ConfigError as error:
        return str(error)
    return ""


@given(
    form=st.sampled_from(["mooncake", "azure", "burstgpt"]),
    text=st.one_of(
        st.text(max_size=60),
        st.sampled_from([GOOD, AZURE, BURST]).flatmap(
            lambda good: st.tuples(
                st.integers(0, len(good)), st.integers(0, len(good)), st.text(max_size=3)
            ).map(lambda cut: good[: cut[0]] + cut[2] + good[cut[1] :])
        ),
        st.dictionaries(
            st.sampled_from(["timestamp", "input_length", "output_length", "hash_ids"]),
            st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=3),
        ).map(lambda fields: json.dumps(fields) + "\n"),
    ),
)
def test_anything_is_read_or_refused_in_one_line(form: str, text: str) -> None:
    said = outcome(text.splitlines(keepends=True), form)
    assert not said or (said.startswith("t:") and "\n" not in said)
