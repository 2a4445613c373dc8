"""What a fleet file says of servers, as an intent has it.

Place:   used by site.py.
Rule:    what is wrong is a ValueError that names the field first.
"""

import re
from collections.abc import Mapping

from epp.compiler.findings import Origin
from epp.compiler.inputs.fleet.file import HostEntry, twice
from epp.compiler.inputs.fleet.file import Servers as Entry
from epp.compiler.inputs.fleet.providers import PROVIDERS
from epp.compiler.intent import Host, Pool, Servers, Upstream
from epp.compiler.names import name_of
from epp.core.addresses import read_host, read_port, read_target

_URL = re.compile(r"(https?)://(\[[^]/?#]*\]|[^][:/?#@]*)(?::([^/?#@]*))?(/.*)?", re.DOTALL)
_MOST_HOSTS = 256
"""More than any pool has had, and less than an EndpointSlice takes (1,000)."""


def is_local(entry: Entry) -> bool:
    """Whether what is sent there stays in the house."""
    return not (entry.provider or entry.url) if entry.local is None else entry.local


def servers(entry: Entry, name: str, namespace: str, port: int, origin: Origin) -> Servers:
    """``port``: of pods and hosts that say none."""
    if entry.provider and not entry.url:
        return _provided(entry, origin)
    if entry.url:
        return _asked(entry, origin)
    if entry.pool:
        where, _, own = entry.pool.rpartition("/")
        return Pool(own, where or namespace, origin, exists=True)
    if entry.service and not entry.pods:
        return _service(entry, namespace, origin)
    return Pool(
        name,
        namespace,
        origin,
        selector=entry.pods,
        ports=entry.numbers or (port,),
        hosts=_hosts(entry, (entry.numbers or (port,))[0]),
        service=_in_front(entry.service, namespace),
    )


def _in_front(service: str, namespace: str) -> str:
    where, slash, own = service.rpartition("/")
    if slash and where != namespace:
        raise ValueError(f"service: must be in {namespace}, where the pods are")
    return own


def _service(entry: Entry, namespace: str, origin: Origin) -> Upstream:
    named, _, port = entry.service.rpartition(":")
    where, _, own = named.rpartition("/")
    host = f"{own}.{where or namespace}.svc.cluster.local"
    return Upstream(host, int(port), origin, secret=entry.secret)


def _provided(entry: Entry, origin: Origin) -> Upstream:
    assert entry.provider is not None
    provider = PROVIDERS[entry.provider]
    if not provider.host:
        raise ValueError(f'provider: {entry.provider} has no address of its own, add your "url"')
    if provider.needs_region and not entry.region:
        raise ValueError(f'provider: {entry.provider} has an address in each region, add "region"')
    if not entry.secret and not provider.has_own_login:
        raise ValueError(f'provider: {entry.provider} wants a key, add "secret"')
    if entry.local:
        raise ValueError(f"local: {entry.provider} is not in the house")
    return Upstream(
        provider.host.format(region=entry.region),
        443,
        origin,
        tls=True,
        schema=provider.schema,
        prefix=provider.prefix,
        secret=entry.secret,
        region=entry.region,
    )


def _asked(entry: Entry, origin: Origin) -> Upstream:
    provider = PROVIDERS[entry.provider or "openai"]
    found = _URL.fullmatch(entry.url)
    if found is None:
        raise ValueError("url: must be one such as https://llm.example.com/v1, without user and password")
    scheme, host, port, path = found.groups()
    if path and re.search("[?#]", path):
        raise ValueError("url: must end with its path")
    try:
        return Upstream(
            read_host(host)[0],
            read_port(port) if port is not None else 443 if scheme == "https" else 80,
            origin,
            tls=scheme == "https",
            schema=provider.schema,
            prefix=read_target(path).rstrip("/") if path else provider.prefix,
            secret=entry.secret,
            region=entry.region,
        )
    except ValueError as fault:
        raise ValueError(f"url: {fault}") from None


def _hosts(entry: Entry, port: int) -> tuple[Host, ...]:
    if len(entry.hosts) > _MOST_HOSTS:
        raise ValueError(f"hosts: must be at most {_MOST_HOSTS}, got {len(entry.hosts)}")
    found: dict[tuple[str, int], Host] = {}
    for written in entry.hosts:
        one = _host(written, port)
        if (one.address, one.port) in found:
            raise ValueError(f"hosts: {one.address}:{one.port} is there twice")
        found[one.address, one.port] = one
    if repeated := twice([one.name for one in found.values()]):
        raise ValueError(f'hosts: two have the name "{repeated}", give one of them another')
    return tuple(found.values())


def _host(written: str | HostEntry, port: int) -> Host:
    if isinstance(written, HostEntry):
        address, _ = read_host(written.address)
        number, labels = written.port or port, written.labels
        return Host(written.name or _name(address, number, port), address, number, labels)
    host, number = _split(written, port)
    try:
        address, _ = read_host(host)
    except ValueError as fault:
        raise ValueError(f"hosts: {fault}") from None
    return Host(_name(address, number, port), address, number, _NO_LABELS)


_NO_LABELS: Mapping[str, str] = {}


def _split(written: str, port: int) -> tuple[str, int]:
    """``host``, ``host:port``, ``[v6]:port``, ``v6``."""
    host, colon, number = written.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return written, port
    try:
        return host, read_port(number)
    except ValueError as fault:
        raise ValueError(f"hosts: the port of {written[:60]} {fault}") from None


def _name(address: str, number: int, port: int) -> str:
    plain = address.replace(".", "-").replace(":", "-")
    return name_of(plain) if number == port else name_of(f"{plain}-{number}")
