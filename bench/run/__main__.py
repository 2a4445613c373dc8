"""`epp bench run`: a workload sent to any server that speaks OpenAI's chat completions.

    epp bench run --url URL [--versus URL] [--workload NAME|FILE] [--rate 5] [--seconds 60] [--seed 1]
                  [--requests N] [--rounds 5] [--warm-up 0s] [--slo-ttft 2s] [--slo-itl 100ms]
                  [--model NAME] [--api-key-file FILE] [--header 'name: value' ...] [--out DIR] [--force]

Exit status: 0 played, whatever the figures; 1 nobody was there, or the run was broken off; 2 wrong arguments;
130 interrupted. What was measured until then is in the report, marked.
"""

import argparse
import importlib.metadata
import secrets
import signal
import ssl
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from bench.demo.interrupt import run as interruptible
from bench.demo.interrupt import terminate_is_interrupt
from bench.load import MAX_CONCURRENCY, MAX_REQUESTS, MAX_SECONDS, Options
from bench.pages import claim
from bench.rig.envoy import SENT_TO, SERVED_BY
from bench.run import report as reports
from bench.run.report import Report
from bench.run.server import Server, Unreachable, greeted, header, server
from bench.run.turns import Settings, Turns
from bench.sim.statistics import Objective
from bench.workloads.spec import Trace, Workload, find
from epp.config.decode import ConfigError
from epp.core.durations import duration

SERVED_BY_HEADERS = (SERVED_BY, "x-inference-pod", SENT_TO)
"""Where servers and gateways name who answered: our own Envoys, llm-d's simulator, our Envoys again."""
DEFAULT_SECONDS = 60.0
REST_SECONDS = 0.1
"""Of a connection: 3 of 88 requests failed without, straight to a llama.cpp server."""
DEFAULT_OBJECTIVE = Objective()


def main(arguments: Sequence[str] | None = None, prog: str = "python -m bench.run") -> int:
    """The exit status."""
    given = _arguments(arguments, prog)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate_is_interrupt()
    try:
        workload = _workload(given)
        servers = _servers(given)
        if given.out is not None:
            claim(given.out, force=given.force)
        made = _planned(given, servers, workload)
    except ConfigError as problem:
        print(f"{prog}: {problem}", file=sys.stderr)
        return 2
    status = _carry_out(made, prog)
    if any(stretch.requests for each in made.played for stretch in each):
        _show(_report(made, given, workload), given.out)
    elif made.stopped:
        print(f"{prog}: {made.stopped}", file=sys.stderr)
    return status


def _planned(given: argparse.Namespace, servers: Sequence[Server], workload: Workload) -> Turns:
    names = [one.url for one in servers]
    if len(names) == 2 and names[0] == names[1]:
        names[1] += " (again)"
    return Turns(
        names=names,
        servers=servers,
        workload=workload,
        settings=Settings(
            seconds=given.seconds or workload.duration or DEFAULT_SECONDS,
            salt=given.salt or secrets.token_hex(4),
            rate=given.rate,
            requests=given.requests,
            in_flight=given.in_flight,
            seed=given.seed,
            rounds=given.rounds,
            warm_up=given.warm_up,
            ignore_eos=given.ignore_eos,
        ),
        options=Options(
            timeout_seconds=given.timeout,
            rest_seconds=REST_SECONDS,
            served_by_header=(given.served_by,) if given.served_by else SERVED_BY_HEADERS,
        ),
    )


async def _greet_and_play(made: Turns) -> None:
    made.servers = [await greeted(one) for one in made.servers]
    await made.play()


def _carry_out(made: Turns, prog: str) -> int:
    try:
        interruptible(_greet_and_play(made))
    except KeyboardInterrupt:
        made.stopped = "interrupted"
        return 130
    except Unreachable as problem:
        print(f"{prog}: {problem}", file=sys.stderr)
        return 1
    return 1 if made.stopped else 0


def _report(made: Turns, given: argparse.Namespace, workload: Workload) -> Report:
    found = Report(
        command=_said(given),
        version=importlib.metadata.version("fleet-epp"),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        workload=workload.name,
        about=workload.about,
        asked=_asked(made, given, workload),
        asked_rate=given.rate,
        rounds=given.rounds,
        warm_up=given.warm_up,
        seed=given.seed,
        salt=made.settings.salt,
        objective=Objective(ttft=given.slo_ttft, inter_token=given.slo_itl),
        contenders=made.contenders(),
        stopped=made.stopped.replace(given.workload, Path(given.workload).name),
    )
    found.count()
    return found


def _asked(made: Turns, given: argparse.Namespace, workload: Workload) -> str:
    users = workload.arrivals.users
    if users is not None:
        return f"{users} users for {made.settings.seconds:g} s"
    rate = "its own rate" if given.rate is None else f"{given.rate:g} requests/s"
    return f"{rate} for {made.settings.seconds:g} s" + (" each" if given.versus else "")


def _show(found: Report, folder: Path | None) -> None:
    names = [path.name for path in reports.write(found, folder)] if folder is not None else []
    console = Console()
    if console.is_terminal:
        for paragraph in reports.head(found):
            console.print(paragraph, markup=False, highlight=False)
        for table in reports.tables(found):
            console.print(table.rich())
    else:
        print(reports.markdown(found))
    if folder is not None:
        print(f"in {folder}: {', '.join(names)}", file=sys.stderr)
    if found.is_partial:
        print(f"PARTIAL: {found.stopped}", file=sys.stderr)


# --- arguments -----------------------------------------------------------------------------------


def _workload(given: argparse.Namespace) -> Workload:
    """Of the catalogue, a file, or a trace in Mooncake's format. Raises ConfigError."""
    if given.workload.endswith(".jsonl"):
        path = Path(given.workload)
        if not path.is_file():
            raise ConfigError(f"--workload: {path} is no file")
        return Workload(name="trace", about=path.name, trace=Trace(file=str(path), format="mooncake"))
    return find(given.workload)


def _servers(given: argparse.Namespace) -> list[Server]:
    """Those that are named; nobody has been asked. Raises ConfigError."""
    headers = tuple(header(text) for text in given.header)
    if given.api_key_file is not None:
        headers = (("authorization", f"Bearer {_secret(given.api_key_file)}"), *headers)
    made = partial(server, headers=headers, model=given.model, tls=_tls(given))
    return [made(given.url)] + ([made(given.versus, flag="--versus")] if given.versus else [])


def _secret(path: Path) -> str:
    try:
        key = path.read_text(encoding="ascii").strip()
    except OSError as problem:
        raise ConfigError(f"--api-key-file: {path} cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--api-key-file: {path} is not ASCII text") from None
    if not key or any(not sign.isprintable() or sign.isspace() for sign in key):
        raise ConfigError(f"--api-key-file: {path} must hold one key, on one line")
    return key


def _tls(given: argparse.Namespace) -> ssl.SSLContext | None:
    try:
        context = ssl.create_default_context(cafile=given.ca_file)
    except OSError as problem:
        raise ConfigError(f"--ca-file: {given.ca_file} cannot be used: {problem}") from None
    if given.insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _said(given: argparse.Namespace) -> str:
    """The command as a reader may repeat it: without what headers say, and where files lie."""
    words = [f"epp bench run --url {given.url}"]
    words += [f"--versus {given.versus}"] if given.versus else []
    words += [f"--workload {Path(given.workload).name}"]
    words += [f"--rate {given.rate:g}"] if given.rate is not None else []
    words += [f"--seconds {given.seconds:g}"] if given.seconds is not None else []
    words += [f"--requests {given.requests}"] if given.requests != MAX_REQUESTS else []
    words += [f"--seed {given.seed}"]
    words += [f"--rounds {given.rounds}"] if given.rounds != DEFAULT_ROUNDS else []
    words += [f"--warm-up {given.warm_up:g}s"] if given.warm_up else []
    words += [f"--slo-ttft {given.slo_ttft * 1e3:g}ms --slo-itl {given.slo_itl * 1e3:g}ms"]
    words += [f"--model {given.model}"] if given.model else []
    words += ["--api-key-file ..."] if given.api_key_file else []
    words += [f"--header '{text.partition(':')[0]}: ...'" for text in given.header]
    words += ["--ignore-eos"] if given.ignore_eos else []
    return " ".join(words)


DEFAULT_ROUNDS = 5


def _arguments(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="A workload sent to a server that speaks chat completions, at its own pace (open loop).",
    )
    _add_servers(parser.add_argument_group("servers"))
    _add_load(parser.add_argument_group("load"))
    _add_figures(parser.add_argument_group("figures and the report"))
    given = parser.parse_args(arguments)
    for name, (least, most) in BOUNDS.items():
        value = getattr(given, name.replace("-", "_"))
        if value is not None and not least <= value <= most:
            parser.error(f"--{name} {value:g}: must be {least:g} to {most:g}")
    return given


BOUNDS: Mapping[str, tuple[float, float]] = {
    "seconds": (0.1, MAX_SECONDS),
    "requests": (1, MAX_REQUESTS),
    "rounds": (1, 1_000),
    "in-flight": (1, MAX_CONCURRENCY),
    "timeout": (0.1, MAX_SECONDS),
    "slo-ttft": (1e-6, MAX_SECONDS),
    "slo-itl": (1e-6, MAX_SECONDS),
    "warm-up": (0, MAX_SECONDS),
}
"""Of options, both ends allowed; times in seconds."""


def _add_servers(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--url", required=True, help="http:// or https://, with or without /v1")
    add("--versus", metavar="URL", help="the same sessions there too, in turns")
    add("--model", default="", help="else the first that the server lists")
    add("--api-key-file", type=Path, metavar="FILE", help="sent as a bearer token")
    help_text = "with each request; repeatable"
    add("--header", action="append", default=[], metavar="'NAME: VALUE'", help=help_text)
    add("--ca-file", type=Path, metavar="FILE", help="who signs the certificates of https")
    add("--insecure", action="store_true", help="take any certificate")
    help_text = f"of a response: who answered (else {', '.join(SERVED_BY_HEADERS)})"
    add("--served-by", default="", metavar="HEADER", help=help_text)


def _add_load(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    help_text = "of the catalogue, a YAML file or a .jsonl trace"
    add("--workload", default="interactive-chat", metavar="NAME|FILE", help=help_text)
    add("--rate", type=_above_0, metavar="N", help="requests a second in the mean; else the workload's")
    add("--seconds", type=_above_0, metavar="S", help="of load for each URL; else the workload's, or 60")
    add("--requests", type=int, default=MAX_REQUESTS, metavar="N", help="at most, for each URL")
    add("--seed", type=int, default=1, help="of lengths and times (1)")
    help_text = "of the words; else other ones in each run, so that no cache has them"
    add("--salt", default="", metavar="WORD", help=help_text)
    help_text = "answers of exactly the asked length (vLLM, SGLang, llama.cpp)"
    add("--ignore-eos", action="store_true", help=help_text)
    add("--timeout", type=_duration, default=300.0, metavar="TIME", help="for a whole answer (5m)")
    help_text = "beyond so many a request is not sent (1024)"
    add("--in-flight", type=int, default=1_024, metavar="N", help=help_text)


def _add_figures(group: argparse._ArgumentGroup) -> None:
    add, good = group.add_argument, DEFAULT_OBJECTIVE
    help_text = "turns of the two URLs, or parts of the time, for confidence (5)"
    add("--rounds", type=int, default=DEFAULT_ROUNDS, metavar="N", help=help_text)
    help_text = "at the begin (of each turn) that is not counted"
    add("--warm-up", type=_duration, default=0.0, metavar="TIME", help=help_text)
    help_text = "a good first token comes within (2s)"
    add("--slo-ttft", type=_duration, default=good.ttft, metavar="TIME", help=help_text)
    help_text = "and the others so far apart on average (100ms)"
    add("--slo-itl", type=_duration, default=good.inter_token, metavar="TIME", help=help_text)
    add("--out", type=Path, metavar="DIR", help="for the report: JSON, Markdown, HTML, pictures")
    add("--force", action="store_true", help="replace a report that is in DIR")


def _above_0(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _duration(text: str) -> float:
    value = duration(text)
    if value is None or value < 0:
        raise argparse.ArgumentTypeError(f'{text!r} is no time: write for example "500ms" or "2s"')
    return value


if __name__ == "__main__":
    sys.exit(main())
