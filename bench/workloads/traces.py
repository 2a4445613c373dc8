"""Recorded requests as sessions, line by line.

Place:   bench.workloads.generate replays them; bench.workloads.mooncake writes what is read here.
Ignores: who asked: no published trace says which requests are one conversation's, so each is a session of its
         own, and a conversation shows as common blocks.
Rule:    a wrong line is an error that names file, line, field and remedy; the requests before it have been
         given out by then. Prompts begin alike exactly where their block ids do.
Source:  Mooncake, FAST25-release/README.md: JSON lines of timestamp [ms], input_length, output_length and the
         hash_ids of the prompt's blocks of 512 tokens. Azure Public Dataset, LLM inference traces: CSV of
         TIMESTAMP, ContextTokens, GeneratedTokens. BurstGPT: CSV of Timestamp [s], Request tokens, Response
         tokens and others, where requests that failed have no response tokens.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from bench.workloads.sessions import Piece, Session, Turn
from epp.config.decode import ConfigError

BLOCK_TOKENS = 512
MAX_TOKENS = 10_000_000
MAX_ID = 1 << 62
_MAX_SECONDS = 1e9


@dataclass(frozen=True, slots=True)
class Request:
    """One line. ``blocks``: names of the prompt's blocks, the last one perhaps not full."""

    at: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


def read(file: str, form: Literal["mooncake", "azure", "burstgpt"]) -> Iterator[Session]:
    """The sessions of a file, ordered by ``at``. Raises ConfigError on the way."""
    readers = {"mooncake": mooncake, "azure": azure, "burstgpt": burstgpt}
    path = Path(file)
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            yield from sessions(_in_order(readers[form](lines, file), file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not UTF-8 text") from None


def sessions(requests: Iterable[Request]) -> Iterator[Session]:
    """Each request as a session of one turn."""
    for name, request in enumerate(requests):
        turn = Turn(pieces=_pieces(request), output_tokens=request.output_tokens)
        yield Session(name=name, at=request.at, turns=(turn,))


def _pieces(request: Request) -> tuple[Piece, ...]:
    *full, last = request.blocks
    rest = request.input_tokens - BLOCK_TOKENS * len(full)
    return (*(Piece(block, BLOCK_TOKENS) for block in full), Piece(last, rest))


def _in_order(lines: "Iterable[tuple[int, Request]]", file: str) -> Iterator[Request]:
    before, empty = 0.0, True
    for number, request in lines:
        if request.at < before:
            raise ConfigError(
                f"{file}:{number}: is at {request.at:g} s, before the request above it ({before:g} s):"
                " sort the file by time"
            )
        before, empty = request.at, False
        yield request
    if empty:
        raise ConfigError(f"{file}: holds no request: is it the right file?")


# --- Mooncake ------------------------------------------------------------------------------------


def mooncake(lines: Iterable[str], file: str) -> Iterator[tuple[int, Request]]:
    """With the number of its line."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _mooncake(_object(line, file, number), _own_names(number), f"{file}:{number}")


def _object(line: str, file: str, number: int) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        if not line.endswith("\n"):
            raise ConfigError(
                f"{file}:{number}: the last line is cut off: remove it, or get the file again"
            ) from None
        problem = error.msg if isinstance(error, json.JSONDecodeError) else "nested or long beyond reason"
        raise ConfigError(
            f"{file}:{number}: is not JSON ({problem}): a trace has one object on each line"
        ) from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file}:{number}: is not a JSON object: a trace has one on each line")
    return value


def _mooncake(fields: Mapping[str, Any], own: int, place: str) -> Request:
    at = _number(fields, "timestamp", place, "milliseconds since the first request") / 1_000
    tokens = _whole(fields, "input_length", place)
    output = _whole(fields, "output_length", place)
    blocks = fields.get("hash_ids")
    if not isinstance(blocks, list) or not all(
        type(block) is int and 0 <= block < MAX_ID for block in blocks
    ):
        raise _wrong(fields, "hash_ids", place, "a list of whole numbers, one for each block of 512 tokens")
    wanted = -(-tokens // BLOCK_TOKENS)
    if len(blocks) == tokens // BLOCK_TOKENS:  # a tail that is no whole block has no id in some tools' traces
        blocks += range(own, own + wanted - len(blocks))
    if len(blocks) != wanted:
        raise ConfigError(
            f"{place}: hash_ids: has {len(blocks)} blocks, but {tokens} tokens make {wanted}"
            f" of {BLOCK_TOKENS}: is the trace one of other blocks?"
        )
    return Request(at, tokens, output, tuple(blocks))


def write(requests: Iterable[Request], out: TextIO) -> None:
    """As ``mooncake`` reads them."""
    for request in requests:
        line = {
            "timestamp": round(request.at * 1_000),
            "input_length": request.input_tokens,
            "output_length": request.output_tokens,
            "hash_ids": request.blocks,
        }
        out.write(json.dumps(line) + "\n")


# --- tables --------------------------------------------------------------------------------------


def azure(lines: Iterable[str], file: str) -> Iterator[tuple[int, Request]]:
    """With the number of its line; the first request is at 0."""
    first: datetime | None = None
    for number, row in _rows(lines, file, ("TIMESTAMP", "ContextTokens", "GeneratedTokens")):
        place = f"{file}:{number}"
        try:
            moment = datetime.fromisoformat(row["TIMESTAMP"])
            first = first or moment
            at = (moment - first).total_seconds()
        except (ValueError, TypeError):
            raise _wrong(row, "TIMESTAMP", place, 'a time such as "2023-11-16 18:15:46.68"') from None
        if at < 0:
            raise ConfigError(
                f"{place}: TIMESTAMP: {row['TIMESTAMP']} is before the first: sort the file by time"
            )
        tokens, output = _whole(row, "ContextTokens", place), _whole(row, "GeneratedTokens", place)
        yield number, _unshared(number, at, tokens, output)


def burstgpt(lines: Iterable[str], file: str) -> Iterator[tuple[int, Request]]:
    """With the number of its line, without requests that failed."""
    for number, row in _rows(lines, file, ("Timestamp", "Request tokens", "Response tokens")):
        place = f"{file}:{number}"
        at = _number(row, "Timestamp", place, "seconds since the first request")
        if _parsed(row["Response tokens"]) != 0:
            tokens, output = _whole(row, "Request tokens", place), _whole(row, "Response tokens", place)
            yield number, _unshared(number, at, tokens, output)


def _own_names(line: int) -> int:
    """Where the names of a line's own texts begin: beyond all recorded ones."""
    return MAX_ID + (line << 20)


def _unshared(number: int, at: float, tokens: int, output: int) -> Request:
    """A prompt like no other."""
    begins = _own_names(number)
    return Request(at, tokens, output, tuple(range(begins, begins + -(-tokens // BLOCK_TOKENS))))


def _rows(
    lines: Iterable[str], file: str, wanted: tuple[str, ...]
) -> Iterator[tuple[int, Mapping[str, str]]]:
    table = csv.DictReader(lines, restval="")
    try:
        missing = [name for name in wanted if name not in (table.fieldnames or ())]
        if missing and table.fieldnames:
            raise ConfigError(
                f'{file}:1: the column "{missing[0]}" is missing, there are {", ".join(table.fieldnames)}:'
                " is it another format?"
            )
        for row in table:
            if any(not row[name] for name in wanted):
                raise ConfigError(
                    f"{file}:{table.line_num}: is cut off, {len(wanted)} columns are needed:"
                    " remove the line, or get the file again"
                )
            yield table.line_num, row
    except csv.Error as error:
        raise ConfigError(f"{file}:{table.line_num}: is not CSV: {error}") from None


# --- fields --------------------------------------------------------------------------------------


def _number(fields: Mapping[str, Any], name: str, place: str, what: str) -> float:
    value = _parsed(fields.get(name))
    if value is None or not 0 <= value < _MAX_SECONDS * 1_000:
        raise _wrong(fields, name, place, f"{what}, 0 or more")
    return value


def _whole(fields: Mapping[str, Any], name: str, place: str) -> int:
    value = _parsed(fields.get(name))
    if value is None or not value.is_integer() or not 1 <= value <= MAX_TOKENS:
        raise _wrong(fields, name, place, f"a number of tokens, 1 to {MAX_TOKENS:,}")
    return int(value)


def _parsed(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _wrong(fields: Mapping[str, Any], name: str, place: str, what: str) -> ConfigError:
    if name not in fields:
        return ConfigError(f'{place}: the field "{name}" is missing: {what} is needed')
    found = json.dumps(fields[name], ensure_ascii=False)
    return ConfigError(f"{place}: {name}: {found[:40]} is not {what}")
