"""The Kubernetes API as three questions: show these objects, tell what changes, write this one.

Place:   asked by epp.runtime.kubernetes.following, .lease and .access.
Ignores: what objects mean and how often anybody asks.
Rule:    the official client finds the API, our credentials and its certificate, and renews them; what it
         transfers stays bytes. It is imported here and only here, when the API is opened: that takes
         0.5 s of CPU and 28 MB.
Source:  where the configuration is looked for: controller-runtime, as upstream does.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml

from epp.runtime.errors import StartError
from epp.runtime.kubernetes.store import ApiFault, Expired, Status

logger = logging.getLogger("epp.kubernetes")

LIST_TIMEOUT = aiohttp.ClientTimeout(total=30.0, sock_connect=5.0)
WRITE_TIMEOUT = aiohttp.ClientTimeout(total=5.0, sock_connect=5.0)
"""Half of a lease's deadline, as controller-runtime has it; who waits for a page does not wait longer."""
_ODD_CONTENT = (TypeError, AttributeError, LookupError)
"""What the client makes of a kubeconfig with, for example, a text where a list should be."""
SILENCE = 100.0
"""[s] A watch that says nothing for so long is begun anew: its connection may be dead, and the API marks a
living one with a bookmark every minute, at rest not always."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of objects, as the API's paths name it."""

    plural: str
    group: str
    version: str

    @property
    def name(self) -> str:
        """For people; those of v1alpha2 are in two groups."""
        return f"{self.plural}.{self.group}" if self.version == "v1alpha2" else self.plural

    @property
    def home(self) -> str:
        """Where the API lists the kinds of this group."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str) -> str:
        """Of its objects in ``namespace``; empty: in all of them, or the kind is in none."""
        return (
            f"{self.home}/namespaces/{namespace}/{self.plural}" if namespace else f"{self.home}/{self.plural}"
        )


class KubernetesApi:
    """``open`` first. ``environment``: where KUBECONFIG and a pod's variables are looked up.

    ``flag``: who asks for it; empty: what asks needs one anyhow. ``otherwise``: what to do without one.
    ``kubeconfig``: counts before what the environment says. ``context``: of it; empty: its current one.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        flag: str = "pool-name",
        otherwise: str = "list the servers with --endpoints-file",
        kubeconfig: str = "",
        context: str = "",
    ) -> None:
        self._prefix = f"--{flag}: " if flag else ""
        self._kubeconfig = kubeconfig
        self._context = context
        self._otherwise = otherwise
        self.address = ""
        self._environment = environment
        self._client: Any = None
        self._faults: tuple[type[Exception], ...] = ()
        """What the client is known to raise."""
        self._defect = ""
        """As last told."""
        self._renewing = asyncio.Lock()
        self._renewals = 0

    async def open(self) -> None:
        """Find the API; StartError when nothing says where it is."""
        from kubernetes.aio import client, config  # noqa: PLC0415 (see the rule)

        found = await self._configuration()
        self._faults = (aiohttp.ClientError, OSError, config.ConfigException)
        self._client, self.address = client.ApiClient(found), found.host
        self._client.user_agent = "fleet-epp"

    async def close(self) -> None:
        """Let go of all connections."""
        if self._client is not None:
            await self._client.close()

    async def _configuration(self) -> Any:
        from kubernetes.aio import client, config  # noqa: PLC0415 (see the rule)

        found = client.Configuration()
        # Python 3.13 wants extensions in certificates that no other client asks for and many clusters lack
        found.disable_strict_ssl_verification = True
        found.connection_pool_maxsize = 0  # a watch has a connection of its own, and pools are many
        named = self._kubeconfig or self._environment.get("KUBECONFIG", "")
        usual = Path(self._environment.get("HOME", "/")) / ".kube" / "config"
        said_by = "the service account"
        try:
            if named or (not self._environment.get("KUBERNETES_SERVICE_HOST") and usual.exists()):
                said_by = f"KUBECONFIG={named}" if named else str(usual)
                said_by = f"--kubeconfig {named}" if self._kubeconfig else said_by
                _check(named or str(usual))
                await config.load_kube_config(
                    config_file=named or str(usual),
                    context=self._context or None,
                    client_configuration=found,
                    persist_config=False,
                )
            elif self._environment.get("KUBERNETES_SERVICE_HOST"):
                config.load_incluster_config(client_configuration=found)
            else:
                raise StartError(
                    f"{self._prefix}there is no Kubernetes API: run in a pod, set KUBECONFIG, write"
                    f" ~/.kube/config, or {self._otherwise}"
                )
        except _ODD_CONTENT as fault:
            raise StartError(f"{self._prefix}{said_by}: is no kubeconfig: {fault!r}") from fault
        except (config.ConfigException, OSError, ValueError, yaml.YAMLError) as fault:
            raise StartError(" ".join(f"{self._prefix}{said_by}: {fault}".split())) from fault
        return found

    async def fetch(
        self, path: str, query: Mapping[str, str], *, timeout: aiohttp.ClientTimeout = LIST_TIMEOUT
    ) -> bytes:
        """A list or an object, as it comes; Expired or ApiFault."""
        return await self._body(await self._ask("GET", path, query, timeout))

    async def write(
        self,
        method: str,
        path: str,
        document: Mapping[str, Any],
        *,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> bytes:
        """Create (POST), replace (PUT), change (PATCH) or DELETE an object; what became of it, or ApiFault.

        ``content``: the type of the document, by which the API tells kinds of patches apart.
        """
        return await self._body(
            await self._ask(method, path, query or {}, WRITE_TIMEOUT, document, content=content)
        )

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        try:
            body = await response.read()
        except Exception as fault:
            raise self._away(fault) from fault
        finally:
            response.release()
        self._defect = ""
        return body

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[list[bytes], None]:
        """Events, a line each, as many as came together; none at first, when the API has begun.

        Ends when the API ends it or the connection breaks: the next try tells whether the API is away.
        Expired or ApiFault when it does not begin.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=SILENCE)
        response = await self._ask("GET", path, {**query, "watch": "true"}, timeout)
        rest = b""
        try:
            yield []
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                if lines:
                    yield [line for line in lines if line]
        except Exception as fault:  # noqa: BLE001 (the client's own ones are told)
            logger.debug("a watch broke", extra={"fields": {"path": path, "error": str(self._away(fault))}})
        finally:
            response.close()

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        document: Mapping[str, Any] | None = None,
        *,
        content: str = "application/json",
    ) -> aiohttp.ClientResponse:
        client, renewals = self._client, self._renewals
        try:
            _, url, headers, body, *_ = await client.param_serialize(
                *(method, path),
                query_params=list(query.items()),
                header_params={"Accept": "application/json", "Content-Type": content},
                body=document,
                auth_settings=["BearerToken"],
            )
            answer = await client.call_api(method, url, headers, body=body, _request_timeout=timeout)
            response: aiohttp.ClientResponse = answer.response
            if response.status in {200, 201}:
                return response
            with_reason = await response.read()
            response.release()
        except Exception as fault:
            raise self._away(fault) from fault
        if response.status == 401:
            await self._renew(renewals)
        raise _refusal(response.status, with_reason)

    async def _renew(self, renewals: int) -> None:
        """We are not accepted any more: a token has run out, a file has changed.

        The client stays: others have requests on their way, and aiohttp breaks them with an AssertionError
        when its session is closed meanwhile.
        """
        async with self._renewing:
            if renewals != self._renewals:
                return  # another request has done it
            own, trust = self._client.configuration, self._client.rest_client.ssl_context
            try:
                found = await self._configuration()
                if found.cert_file:
                    trust.load_cert_chain(found.cert_file, keyfile=found.key_file)
                if found.ssl_ca_cert or found.ca_cert_data:
                    trust.load_verify_locations(cafile=found.ssl_ca_cert, cadata=found.ca_cert_data)
            except (StartError, OSError) as fault:
                raise ApiFault(401, str(fault)) from fault
            except Exception as fault:
                raise self._away(fault) from fault
            self._renewals += 1
            own.host = self.address = found.host
            own.api_key, own.refresh_api_key_hook = found.api_key, found.refresh_api_key_hook

    def _away(self, fault: Exception) -> ApiFault:
        """Why there is no answer. A defect of the client ends one question; told until it is over, once."""
        defect = "" if isinstance(fault, self._faults) else f"defect: {type(fault).__name__}"
        if defect and defect != self._defect:
            logger.error("defect while asking the Kubernetes API", exc_info=fault)
        self._defect = defect
        return ApiFault(0, f"no answer from {self.address}: {defect or _words(fault)}")


def _check(paths: str) -> None:
    """ValueError where the client would only write a log line, or several."""
    files = [Path(path).expanduser() for path in paths.split(os.pathsep) if path]
    there = [file for file in files if file.exists()]
    for file in there or files[:1]:  # of several some may be missing, as for kubectl
        try:
            content = yaml.safe_load(file.read_bytes())
        except OSError as fault:
            raise ValueError(f"cannot be read ({fault.strerror}): check the path") from fault
        except yaml.YAMLError as fault:
            mark, problem = getattr(fault, "problem_mark", None), getattr(fault, "problem", None)
            what = f"line {mark.line + 1}: {problem}" if mark else str(fault)
            raise ValueError(f"{file} is no YAML: {what}") from fault
        if not isinstance(content, dict):
            what = f"{file} is no kubeconfig: it has no clusters, users and contexts"
            raise ValueError(what)  # noqa: TRY004 (the value is the file)


def _refusal(status: int, body: bytes) -> Exception:
    try:
        message = msgspec.json.decode(body, type=Status).message
    except msgspec.DecodeError:
        message = ""  # a proxy before the API, or the API on its way up
    message = message or body.decode(errors="replace").strip()[:200]
    if status == 410:
        return Expired(message)
    return ApiFault(
        status, f"the API answers {status}: {message}" if message else f"the API answers {status}"
    )


def _words(fault: Exception) -> str:
    """The same fault in the same words, every time: aiohttp's have addresses of objects in them."""
    if isinstance(fault, aiohttp.ClientConnectorCertificateError):
        return str(fault.certificate_error)
    if isinstance(fault, aiohttp.ClientConnectorError) and not isinstance(fault.os_error, ssl.SSLError):
        number = fault.os_error.errno or 0
        return os.strerror(number) if number > 0 else str(fault.os_error)  # below 0: of a name's lookup
    if isinstance(fault, TimeoutError):
        return "it does not answer in time"
    return str(fault) or type(fault).__name__
