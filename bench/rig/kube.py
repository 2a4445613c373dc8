"""A real Kubernetes API: etcd and kube-apiserver on loopback, and nothing else.

Nothing runs that would act on objects: no scheduler, no kubelet, no controllers. Whoever uses it writes what
those would write. The programs are built once from Go modules (``tools/kube-plane``) into the user's cache;
whoever has some already names their folder in KUBEBUILDER_ASSETS, or has them on the PATH. ``python -m
bench.rig.kube`` builds them.

Rule: the API server stops before etcd; without it, it hangs for long.
"""

import json
import os
import re
import shutil
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from bench.rig.go_programs import GoPrograms
from bench.rig.process import Process, answers_ok, free_port, wait_until

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tools" / "kube-plane"
NEEDED = "no Kubernetes API is here (needs Go 1.26, or KUBEBUILDER_ASSETS)"
ADMIN = "admin-token"
"""Of its administrator, who may do everything."""


def _version() -> str:
    """The API server says who it is by what the linker puts in."""
    (line,) = [one for one in (SOURCE / "go.mod").read_text().splitlines() if "k8s.io/kubernetes " in one]
    version = line.split()[-1]
    where, minor = "k8s.io/component-base/version", version.split(".")[1]
    parts = {"gitVersion": version, "gitMajor": "1", "gitMinor": minor}
    return " ".join(f"-X {where}.{name}={value}" for name, value in parts.items())


PROGRAMS = GoPrograms(
    source=SOURCE,
    packages={"kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver", "etcd": "go.etcd.io/etcd/server/v3"},
    takes="4 to 8 minutes",
    linked=_version(),
)


def find() -> Path | None:
    """The folder with both programs, if they are there already."""
    on_path, named = shutil.which("kube-apiserver"), os.environ.get("KUBEBUILDER_ASSETS")
    folders = [Path(named) if named else None, Path(on_path).parent if on_path else None, PROGRAMS.cache]
    return next((one for one in folders if one and PROGRAMS.are_in(one)), None)


def is_possible() -> bool:
    """The programs are here, or a Go that can build them."""
    return PROGRAMS.is_possible(find)


class _Etcd(Process):
    def __init__(self, folder: Path, program: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        peers = f"http://127.0.0.1:{free_port()}"
        command = [program, "--data-dir", folder / "etcd", "--unsafe-no-fsync"]
        command += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        command += ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]
        command += ["--initial-cluster", f"default={peers}"]
        super().__init__("etcd", [str(word) for word in command], log=folder / "etcd.log")

    def is_ready(self) -> bool:
        return answers_ok(f"{self.url}/health")


class ApiServer(Process):
    """Comes back on its port, with its certificate and all its objects."""

    def __init__(self, folder: Path, program: Path, etcd: str, tokens: Path) -> None:
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        certificates = folder / "certs"
        self.ca = certificates / "apiserver.crt"
        key = certificates / "apiserver.key"  # made by the server itself, before it reads the flags below
        command = [program, "--etcd-servers", etcd, "--cert-dir", certificates, "--secure-port", self.port]
        command += ["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"]
        command += ["--endpoint-reconciler-type", "none", "--service-cluster-ip-range", "10.0.0.0/24"]
        command += ["--service-account-issuer", "https://kubernetes.default.svc"]
        command += ["--service-account-key-file", key, "--service-account-signing-key-file", key]
        command += ["--authorization-mode", "RBAC", "--token-auth-file", tokens]
        command += ["--disable-admission-plugins", "ServiceAccount", "--watch-cache=true"]
        super().__init__("kube-apiserver", [str(word) for word in command], log=folder / "kube-apiserver.log")

    def is_ready(self) -> bool:
        try:
            return bool(self.ask("GET", "/readyz", raw=True) == b"ok")
        except (OSError, urllib.error.URLError):
            return False

    def ask(
        self, method: str, path: str, body: object = None, *, kind: str = "json", raw: bool = False
    ) -> Any:
        """One call as administrator; urllib's HTTPError when it refuses. ``kind``: of the body."""
        request = urllib.request.Request(  # noqa: S310
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {ADMIN}", "content-type": f"application/{kind}"},
        )
        context = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:  # noqa: S310
            text = answer.read()
        return text if raw else json.loads(text)


class ControlPlane:
    """``with ControlPlane(...) as plane``: ready. ``users``: names by token, beside the administrator's."""

    def __init__(self, logs: Path, *, users: Mapping[str, str]) -> None:
        programs = PROGRAMS.build(find)
        self._folder = Path(tempfile.mkdtemp(prefix="kube-plane-", dir=logs))
        tokens = self._folder / "tokens.csv"
        rows = [f'{ADMIN},admin,admin,"system:masters"', *(f"{t},{name},{name}" for t, name in users.items())]
        tokens.touch(mode=0o600)
        tokens.write_text("\n".join(rows) + "\n")
        self._etcd = _Etcd(self._folder, programs / "etcd")
        self.api = ApiServer(self._folder, programs / "kube-apiserver", self._etcd.url, tokens)
        self._parts = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as parts:
            for part in (self._etcd, self.api):
                parts.callback(part.stop)
                part.start(timeout=120)
            self._parts = parts.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.api.kill()
        self._parts.close()

    def kubeconfig(self, token: str, *, namespace: str = "default") -> Path:
        """As a person would have it, for ``token``."""
        cluster = {"server": self.api.url, "certificate-authority": str(self.api.ca)}
        context = {"cluster": "plane", "user": "picker", "namespace": namespace}
        path = self._folder / f"kubeconfig-{token}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "plane", "cluster": cluster}],
            "users": [{"name": "picker", "user": {"token": token}}],
            "contexts": [{"name": "plane", "context": context}],
            "current-context": "plane",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    # --- objects

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """As ``kubectl apply --server-side`` does, and what a controller would write into their status."""
        for document in documents:
            path = path_of(document)
            self.api.ask("PATCH", f"{path}?fieldManager=tests&force=true", document, kind="apply-patch+yaml")
            if "status" in document:
                self.patch(f"{path}/status", {"status": document["status"]})

    def patch(self, path: str, change: Mapping[str, Any]) -> None:
        self.api.ask("PATCH", path, change, kind="merge-patch+json")

    def delete(self, document: Mapping[str, Any], *, grace: int = 0) -> None:
        """``grace`` [s]: a pod stays until a kubelet takes it away, which nobody does here."""
        self.api.ask("DELETE", f"{path_of(document)}?gracePeriodSeconds={grace}")

    def define(self, crd: Path, *, checked: bool = True) -> None:
        """A new kind, ready for objects. Not ``checked``: their spec may be anything."""
        document = yaml.load(crd.read_text(), Loader=_LOADER)  # noqa: S506 - a safe one
        if not checked:
            for version in document["spec"]["versions"]:
                version["schema"]["openAPIV3Schema"]["properties"]["spec"] = ANYTHING
        self.apply({key: value for key, value in document.items() if key != "status"})
        path = path_of(document)

        def is_served() -> bool:
            conditions = self.api.ask("GET", path).get("status", {}).get("conditions") or ()
            return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

        wait_until(is_served, what=f"{crd.name} established")
        spec = document["spec"]
        objects = [
            f"/apis/{spec['group']}/{one['name']}/{spec['names']['plural']}"
            for one in spec["versions"]
            if one["served"]
        ]
        wait_until(lambda: not any(map(self._is_gone, objects)), what=f"{crd.name} listed")

    def undefine(self, *crds: Path) -> None:
        """Kinds that were there before, or were not, are not there, nor any of their objects."""
        for crd in crds:
            document = yaml.safe_load(crd.read_text())
            with suppress(urllib.error.HTTPError):  # 404: it was not there
                self.delete(document)
            wait_until(partial(self._is_gone, path_of(document)), what=f"{crd.name} gone")

    def _is_gone(self, path: str) -> bool:
        try:
            self.api.ask("GET", path)
        except urllib.error.HTTPError as refusal:
            return refusal.code == 404
        return False


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Some CRDs have half a megabyte, which takes Python's own 0.5 s."""
ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
CLUSTER_WIDE = {
    *("Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "GatewayClass"),
    *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
}


def path_of(document: Mapping[str, Any]) -> str:
    """Where an object is."""
    group, kind, meta = document["apiVersion"], document["kind"], document["metadata"]
    root = f"/apis/{group}" if "/" in group else f"/api/{group}"
    inside = "" if kind in CLUSTER_WIDE else f"/namespaces/{meta['namespace']}"
    return f"{root}{inside}/{plural(kind)}/{meta['name']}"


def plural(kind: str) -> str:
    """As in paths: gateways, policies, gatewayclasses."""
    name = kind.lower()
    if re.search(r"[^aeiou]y$", name):
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith("s") else f"{name}s"


def main(missing: str = NEEDED) -> None:
    """Build the programs, or say loudly what is ``missing``."""
    if not is_possible():
        sys.stderr.write(f"{missing}\n")
        return
    try:
        PROGRAMS.build(find)
    except RuntimeError as fault:
        sys.exit(str(fault))


if __name__ == "__main__":
    main()
