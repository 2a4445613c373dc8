"""One endpoint's answers about itself: which engine it is, whether it is ready, and how loaded.

Place:   used by epp.runtime.scrape, one Probe for each endpoint; reads with epp.core.engines.
Ignores: when to look, what becomes of a reading, the fleet.
Rule:    only the serving port can fail: metrics that are dead, slow or elsewhere are an unknown load. What
         was found out by looking is forgotten when the server is lost: another process may listen there
         next.
"""

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from epp.core.engines import (
    ENGINE_LABELS,
    ENGINES,
    Adapter,
    asleep,
    detect,
    impossible,
    read_busy_slots,
    read_load,
    read_slots,
    read_work,
)
from epp.core.fleet import Endpoint, Load
from epp.core.rates import Work
from epp.runtime import files
from epp.runtime.files import FileFault
from epp.runtime.http_client import Connection, Failure, FetchError, Response, Server

T = TypeVar("T")
_log = logging.getLogger("epp.scrape")

_PLAIN_TO_TLS = frozenset({Failure.CLOSED, Failure.NOT_HTTP})
"""How a server that speaks TLS takes plain text: OpenSSL closes without a word, others send an alert."""
_TLS_TO_PLAIN = frozenset({Failure.CLOSED, Failure.TLS, Failure.TIMEOUT})
"""And the other way round: in a TLS hello, llama.cpp waits for the end of a line."""
_PROXY_ERRORS = frozenset({502, 503, 504})
"""Of a server of which nothing else is known: it cannot serve, or a proxy cannot reach it."""
_REMEDIES = {
    401: "give it the endpoint's API key",
    403: "give it an API key that may read metrics",
    501: "start it with --metrics",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """How to ask. None: as the endpoint and its engine say."""

    files_timeout: float = 1.0
    """Seconds in which keys and certificates must be read."""
    max_page: int = 4 << 20
    """Bytes: eighty times the page of a vLLM."""
    other_scheme_again: float = 10.0
    """Seconds between two attempts to ask a server that does not answer with TLS instead of without, or the
    other way round: it is told when that is the mistake."""
    work_again: float = 1.0
    """Seconds between two readings of what an engine has counted: speeds change in seconds, and these are the
    dearer half of vLLM's page."""
    metrics_again: float = 4.0
    """Seconds until a server that did not tell its load is asked for it again: until then only whether it is
    ready."""
    scheme: str | None = None
    port: int | None = None
    path: str | None = None
    verify_tls: bool = True
    """Upstream's ``insecureSkipVerify``, the other way round. With a CA file a server is always verified."""
    ca_file: str | None = None
    """For endpoints without one of their own."""
    client_certificate: tuple[str, str] | None = None
    """Files with our certificate and its key, where servers ask for one."""
    engines: Mapping[str, Adapter] = field(default_factory=lambda: ENGINES)
    engine_labels: Sequence[str] = ENGINE_LABELS
    """Labels that name an endpoint's engine, best first."""
    default_engine: str | None = None
    """For endpoints without an engine label; None: find out by looking."""


@dataclass(slots=True)
class ScrapeStats:
    """What happened so far, for metrics."""

    results: Counter[str] = field(default_factory=Counter)
    """Looks by result: ``ok``, ``no metrics``, ``unknown engine``, ``unavailable``, ``defect`` or a Failure's
    value; of these ``too large`` is a server that answers, ``ours`` says nothing of it."""
    seconds: float = 0.0
    """How long all of them took together."""
    poll_errors: int = 0
    """Looks without a metrics page (``datalayer_poll_errors_total``)."""
    extract_errors: int = 0
    """Pages without the engine's series (``datalayer_extract_errors_total``)."""


class Unavailable(Exception):
    """The server answers that it cannot serve now."""


class TlsContexts:
    """One context for each CA file, until a server cannot be verified: the file may have changed."""

    def __init__(self, settings: ProbeSettings) -> None:
        self._settings = settings
        self._contexts: dict[str | None, ssl.SSLContext] = {}

    async def get(self, ca_file: str | None) -> ssl.SSLContext:
        """For a server whose certificate ``ca_file`` has signed; None: as the settings say."""
        field, ca_file = ("caFile", ca_file) if ca_file else ("caCertPath", self._settings.ca_file)
        context = self._contexts.get(ca_file)
        if context is None:
            try:
                made = _aside(lambda: _context(self._settings, field, ca_file), self._settings.files_timeout)
                context = self._contexts[ca_file] = await made
            except FileFault as fault:
                raise FetchError(Failure.TLS, str(fault)) from fault
        return context

    def forget(self, ca_file: str | None) -> None:
        """Read the files anew for the next connection."""
        self._contexts.pop(ca_file or self._settings.ca_file, None)


def check_files(settings: ProbeSettings) -> None:
    """FileFault: with a file that is named for all endpoints nobody could be asked."""
    if settings.ca_file or settings.client_certificate:
        _context(settings, "caCertPath", settings.ca_file)


def _context(settings: ProbeSettings, field: str, ca_file: str | None) -> ssl.SSLContext:
    authorities = _read(files.read_authorities, field, ca_file) if ca_file else None
    context = ssl.create_default_context(cadata=authorities)
    if settings.client_certificate is not None:
        certificate, key = settings.client_certificate
        for name, file in (("clientCertPath", certificate), ("clientKeyPath", key)):
            _read(files.read_pem, name, file)
        try:
            context.load_cert_chain(certificate, key, password="")  # without one it would ask for it
        except OSError as error:  # ssl.SSLError is one
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            message = f"clientCertPath {certificate} with clientKeyPath {key} cannot be used ({reason})"
            raise FileFault(f"{message}: give a certificate and its own key, not encrypted") from error
    if not settings.verify_tls and ca_file is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _read(reader: Callable[[Path], T], field: str, file: str) -> T:
    try:
        return reader(Path(file))
    except FileFault as fault:
        raise FileFault(f"{field} {file} {fault}") from fault


async def _aside(work: Callable[[], T], timeout: float) -> T:
    """``work``, which reads files; FileFault when they cannot be read in time."""
    try:
        async with asyncio.timeout(timeout):
            return await files.aside(work, name="probe's files")
    except TimeoutError as fault:
        raise FileFault(
            f"its files cannot be read (their file system is silent for {timeout:g} s)"
        ) from fault


async def read_key(file: str, timeout: float) -> str:
    """An endpoint's API key. FileFault: there is none."""
    content, _ = await _aside(lambda: _read(files.read, "apiKeyFile", file), timeout)
    key = content.decode(errors="replace").strip()
    if not (key.isascii() and key.isprintable()):
        raise FileFault(f"apiKeyFile {file} must hold one line of ASCII")
    return key


class Probe:
    """What is known about how to ask one endpoint, and the connection to it."""

    def __init__(
        self,
        endpoint: Endpoint,
        settings: ProbeSettings,
        *,
        stats: ScrapeStats,
        contexts: TlsContexts,
        clock: Callable[[], float],
        unix_clock: Callable[[], float],
        on_idle_close: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._stats = stats
        self._contexts = contexts
        self._clock = clock
        self._unix_clock = unix_clock
        self._on_idle_close = on_idle_close
        self._connection: Connection | None = None
        self._serving: Connection | None = None
        """To the serving port, where metrics are elsewhere."""
        self._timeout = 0.0
        self._remarks: set[str] = set()
        self._declared = self._declared_engine()
        self._is_apart = self._metrics_are_apart()
        self._other_scheme_asked_at = float("-inf")
        self._other_scheme_answers = False
        self._last_engine: Adapter | None = None
        """What it was before it was lost. Whatever listens there now may be asked the
        same: anything else that it answers says that it is there."""
        self.has_heard = False
        """The serving port has answered during this look: whoever begins one clears it."""
        self._forget()

    def _forget(self) -> None:
        self._engine = self._declared
        self._path: str | None = None
        """Where the engine was recognised."""
        self._started_at: float | None = None
        self._slots: int | None = None
        self._slots_asked = False
        self._metrics_due = float("-inf")
        self._work_due = float("-inf")
        self._was_at_work = True
        self._is_doubtful = False
        """Metrics alone prove nothing: it said that it is not ready, or its page did not come."""
        self._answered: set[str] = set()
        """Addresses that have answered."""
        self._unknown: tuple[bool, ...] = ()
        """Which figures of the load the last page did not tell."""
        self._remarks.clear()

    @property
    def engine(self) -> str | None:
        """Whose answers they are read as; None: not known."""
        return self._engine.name if self._engine is not None else None

    async def read(self, timeout: float) -> Load | None:
        """What the server tells about its load; None when it is ready but does not tell.

        Each answer must come within ``timeout`` [s]. FetchError: the serving port cannot be talked to.
        Unavailable: it says that it cannot serve.
        """
        self._timeout = timeout
        try:
            load = await self._read()
        except FetchError as error:
            asked = self._connection if self.has_heard or not self._is_apart else self._serving
            error = await self._explained(error, asked)
            is_refused = error.kind is Failure.REFUSED and not self._is_apart
            if is_refused or not (self.has_heard or error.kind is Failure.TOO_LARGE):
                raise error from None
            self._stats.results[error.kind.value] += 1
            self._stats.poll_errors += 1
            self.distrust_metrics(error)
            return None
        if load is not None:
            self._is_doubtful = False
        return load

    async def check(self, timeout: float) -> None:
        """Ask only whether the server is ready, on a new connection, within ``timeout`` [s].

        FetchError and Unavailable as in ``read``.
        """
        self._timeout = timeout
        connection = Connection(await self._serving_port())
        try:
            await self._ask_whether_ready(connection, timeout)
        except FetchError as error:
            raise await self._explained(error, connection) from None
        finally:
            await connection.aclose()
        self.has_heard = True

    def distrust_metrics(self, error: Exception) -> None:
        """The server is there, its metrics cannot be read: ask for them only now and then."""
        self._is_doubtful = True
        self._metrics_due = self._clock() + self._settings.metrics_again
        if isinstance(error, FetchError) and error.kind is Failure.TOO_LARGE:
            most = self._settings.max_page >> 20
            self._remark(
                f"its page is larger than {most} MiB, so its load is unknown: give a smaller one's URL"
            )
        else:
            self._remark(f"its metrics cannot be read, so its load is unknown: {error}", "metrics")

    async def _read(self) -> Load | None:
        engine, is_due = self._engine, self._clock() >= self._metrics_due
        slots = engine is not None and bool(engine.slots_path)
        if engine is not None and not engine.metrics_path:
            is_due = False
        if self._is_apart or self._is_doubtful or not (is_due or slots):
            await self._ask_whether_ready(await self._serving_connection(), self._timeout)
            self.has_heard = True
        if is_due:
            return await self._read_metrics()
        self._stats.results["no metrics"] += 1
        return await self._read_slots(engine) if engine is not None and slots else None

    async def _read_metrics(self) -> Load | None:
        page = await self._find_metrics()
        engine = self._engine
        if page.status != 200:
            return await self._without_metrics(engine, page)
        if engine is None:
            self._stats.results["unknown engine"] += 1
            self._stats.extract_errors += 1
            self._metrics_due = self._clock() + self._settings.metrics_again
            label = self._settings.engine_labels[0] if self._settings.engine_labels else "engine"
            self._remark(f"its metrics are of no known engine, so its load is unknown: label it {label}=NAME")
            return None
        if sleeping := asleep(engine, page.body):
            raise Unavailable(sleeping)
        return await self._read_page(engine, page)

    async def lose(self) -> None:
        """The server is lost: forget what it said and close the connections."""
        self._forget()
        await self.close()

    async def close(self) -> None:
        """Close the connections; the next ``read`` opens others, with keys and certificates read anew."""
        connections = self._connection, self._serving
        self._connection = self._serving = None
        for connection in filter(None, connections):
            await connection.aclose()

    def abort(self) -> None:
        """As ``lose``, without waiting for it."""
        self._forget()
        connections = self._connection, self._serving
        self._connection = self._serving = None
        for connection in filter(None, connections):
            connection.abort()

    # --- metrics

    async def _find_metrics(self) -> Response:
        """The metrics page. While the engine is unknown, of each path where some engine has one."""
        paths = self._paths()
        page = await self._try(paths[0])
        for path in paths[1:]:
            if self._engine is not None:
                break
            page = await self._try(path)
        return page

    async def _try(self, path: str) -> Response:
        page = await self._get(path)
        if self._engine is None and self._recognise(page):
            self._path = path
        if not self._is_apart:
            self._judge(page, path, _PROXY_ERRORS if self._engine is None else frozenset())
        self._last_engine = self._engine or self._last_engine
        return page

    def _paths(self) -> Sequence[str]:
        settings, url = self._settings, self._endpoint.spec.metrics_url
        if self._path is not None:
            return (self._path,)
        if url is not None:
            return (url.target,)
        if settings.path is not None:
            return (settings.path,)
        if self._engine is not None:
            return (self._engine.metrics_path,)
        paths = dict.fromkeys(engine.metrics_path for engine in settings.engines.values())
        return tuple(filter(None, paths))

    def _recognise(self, page: Response) -> bool:
        name = detect(page.body if page.status == 200 else b"", page.headers, self._settings.engines)
        if name is not None:
            self._engine = self._settings.engines[name]
        return name is not None

    async def _read_page(self, engine: Adapter, page: Response) -> Load:
        load = read_load(engine, page.body, page.headers, self._unix_clock())
        if load.waiting is None and load.running is None:
            if self._declared is None and self._recognise(page) and self._engine is not None:
                engine = self._engine  # another engine may have taken the place of the last one
                load = read_load(engine, page.body, page.headers, self._unix_clock())
            if engine.waiting and load.waiting is None and load.running is None and load.kv_usage is None:
                self._stats.extract_errors += 1
                self._remark(f"its metrics have none of the series of {engine.name}: is that its engine?")
        unknown = (load.waiting is None, load.running is None, load.kv_usage is None)
        if unknown != self._unknown:
            self._unknown = unknown
            for name, value in impossible(engine, page.body).items():
                self._remark(f"its metrics say {name} {value:g}, which cannot be: taken as unknown", name)
        if load.started_at != self._started_at:
            self._started_at = load.started_at
            self._slots_asked = False
        self._stats.results["ok"] += 1
        if engine.props_path and not self._slots_asked:
            self._slots = await self._count_slots(engine)
            self._slots_asked = True
        work = self._read_work(engine, page, load)
        if work is None and not engine.props_path:
            return load
        return replace(load, slots=self._slots if engine.props_path else None, work=work)

    def _read_work(self, engine: Adapter, page: Response, load: Load) -> Work | None:
        """What it has counted, now and then while it works, and once more behind that."""
        now, was_at_work = self._clock(), self._was_at_work
        is_at_work = bool(load.running or load.waiting)
        if now < self._work_due or not (is_at_work or was_at_work):
            return None
        self._work_due, self._was_at_work = now + self._settings.work_again, is_at_work
        return read_work(engine, page.body)

    # --- without metrics

    async def _without_metrics(self, engine: Adapter | None, page: Response) -> Load | None:
        status = page.status
        self._stats.results["no metrics"] += 1
        self._stats.poll_errors += 1
        self._metrics_due = self._clock() + self._settings.metrics_again
        remedy = _REMEDIES.get(status, "see whether it has metrics, and give their URL")
        if status == 400 and b"https" in page.body.lower():  # Go's and NGINX's answer to plain text
            remedy = self._set_scheme("https")
        self._remark(f"it answers {status} when asked for metrics: {remedy}")
        if status in (401, 403):
            await self.close()  # the key may have been changed: read it again
        if status >= 500 and status != 501 and engine is not None and not self._is_apart:
            await self._ask_whether_ready(await self._serving_connection(), self._timeout)
        return await self._read_slots(engine) if engine is not None and engine.slots_path else None

    async def _read_slots(self, engine: Adapter) -> Load | None:
        """The next best thing: how many slots there are and how many are taken."""
        page = await self._get(engine.slots_path)
        slots = read_slots(page.body) if page.status == 200 else None
        if slots is not None:
            return Load(running=read_busy_slots(page.body), slots=slots)
        slots = await self._count_slots(engine)
        return Load(slots=slots) if slots is not None else None

    async def _count_slots(self, engine: Adapter) -> int | None:
        for path in (engine.props_path, engine.slots_path):
            page = await self._get(path)
            slots = read_slots(page.body) if page.status == 200 else None
            if slots is not None:
                return slots
        return None

    # --- whether it is ready

    async def _ask_whether_ready(self, connection: Connection, timeout: float) -> None:
        """Nothing when it is; FetchError and Unavailable as in ``read``."""
        engine = self._engine or self._last_engine
        if engine is not None:
            path, not_ready = engine.health_path, engine.not_ready
        else:
            path, not_ready = "" if self._is_apart else self._paths()[0], _PROXY_ERRORS
        if path:
            self._judge(await self._ask(connection, path, timeout), path, not_ready)
        else:  # nobody knows what may be asked there
            await connection.reach(timeout)
            await connection.aclose()

    def _judge(self, page: Response, path: str, not_ready: frozenset[int]) -> None:
        """Unavailable: the server says in ``page`` that it is not ready."""
        is_loading = page.status == 503 and b"loading model" in page.body.lower()
        if is_loading or page.status in not_ready:
            self._is_doubtful = True
            raise Unavailable("loading model" if is_loading else f"it answers {page.status} to {path}")

    # --- the connections

    async def _get(self, path: str) -> Response:
        page = await self._ask(await self._metrics_connection(), path, self._timeout)
        self.has_heard = True
        return page

    async def _ask(self, connection: Connection, path: str, timeout: float) -> Response:
        page = await connection.get(path, timeout)
        self._answered.add(connection.server.address)
        self._other_scheme_answers = False
        return page

    async def _metrics_connection(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(
                await self._metrics_port(),
                max_body=self._settings.max_page,
                on_idle_close=self._on_idle_close,
            )
        return self._connection

    async def _serving_connection(self) -> Connection:
        if not self._is_apart:
            return await self._metrics_connection()
        if self._serving is None:
            self._serving = Connection(await self._serving_port(), on_idle_close=self._on_idle_close)
        return self._serving

    async def _explained(self, error: FetchError, connection: Connection | None) -> FetchError:
        """``error``, or that the server is asked without TLS and speaks it, or the other way round.

        Not of a server that has answered until now: it is lost first, requests wait for that.
        """
        if error.kind is Failure.TLS:
            self._contexts.forget(self._endpoint.spec.ca_file)
        if connection is None or connection.server.address in self._answered:
            return error
        server, now = connection.server, self._clock()
        if error.kind not in (_TLS_TO_PLAIN if server.tls else _PLAIN_TO_TLS):
            return error
        if now - self._other_scheme_asked_at >= self._settings.other_scheme_again:
            self._other_scheme_asked_at = now
            self._other_scheme_answers = await self._answers(server.with_other_scheme())
        if not self._other_scheme_answers:
            return error
        said, scheme = ("does not speak TLS", "http") if server.tls else ("answers TLS", "https")
        return FetchError(Failure.TLS, f"{server.address} {said}: {self._set_scheme(scheme)}")

    async def _answers(self, server: Server) -> bool:
        connection = Connection(server, max_body=self._settings.max_page)
        try:
            await connection.get(self._paths()[0], self._timeout)
        except FetchError as error:
            return error.kind is Failure.TOO_LARGE
        finally:
            await connection.aclose()
        return True

    def _set_scheme(self, scheme: str) -> str:
        """The remedy for a wrong one, where it is written."""
        if self._endpoint.spec.metrics_url is not None:
            return f"write {scheme}:// in metricsURL"
        return f"set scheme: {scheme}" + (" of metrics-data-source" if self._settings.scheme else "")

    def _metrics_are_apart(self) -> bool:
        """Whether metrics are read elsewhere than where requests go."""
        spec, url = self._endpoint.spec, self._endpoint.spec.metrics_url
        if url is not None:
            return url.port != spec.port or url.host not in (spec.ip, spec.host_name)
        return self._settings.port not in (None, spec.port)

    async def _metrics_port(self) -> Server:
        spec, settings = self._endpoint.spec, self._settings
        if (url := spec.metrics_url) is not None:
            return await self._server(url.scheme, url.host, url.port, "")
        return await self._server(
            settings.scheme or spec.scheme, spec.ip, settings.port or spec.port, spec.host_name
        )

    async def _serving_port(self) -> Server:
        if not self._is_apart:
            return await self._metrics_port()
        spec = self._endpoint.spec
        return await self._server(spec.scheme, spec.ip, spec.port, spec.host_name)

    async def _server(self, scheme: str, host: str, port: int, host_name: str) -> Server:
        return Server(
            host=host,
            port=port,
            host_header=f"{host_name}:{port}" if host_name else "",
            tls=await self._contexts.get(self._endpoint.spec.ca_file) if scheme == "https" else None,
            server_name=host_name,
            bearer=await self._api_key(),
        )

    async def _api_key(self) -> str:
        file = self._endpoint.spec.api_key_file
        if file is None:
            return ""
        try:
            return await read_key(file, self._settings.files_timeout)
        except FileFault as fault:
            self._remark(f"{fault}; asking without a key")
            return ""

    # --- words

    def _declared_engine(self) -> Adapter | None:
        settings, endpoint = self._settings, self._endpoint
        labels = (endpoint.labels.get(key) for key in settings.engine_labels)
        name = endpoint.spec.engine or next(filter(None, labels), None) or settings.default_engine
        if name is None:
            return None
        engine = settings.engines.get(name)
        if engine is None:
            known = ", ".join(settings.engines)
            self._remark(f'no engine is called "{name}", known are {known}: finding out by looking')
        return engine

    def _remark(self, text: str, about: str = "") -> None:
        """Tell the operator, once until the server is lost: each text, or only one ``about`` a thing."""
        if (about or text) not in self._remarks:
            self._remarks.add(about or text)
            who = {"endpoint": self._endpoint.name, "address": self._endpoint.address}
            _log.warning("endpoint needs attention", extra={"fields": who | {"remark": text}})
