"""Helm for tests, and the plain manifests out of the chart.

    python -m tests.system.helm     # writes deploy/kubernetes (`make manifests`)

The program is built once from a Go module (tools/helm, which names its version and hashes) into the user's
cache; one on the PATH is as good. It asks no cluster: which Kubernetes and which CRDs there are it is told.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.rig.go_programs import GoPrograms

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tools" / "helm"
CHART = ROOT / "deploy" / "helm" / "fleet-epp"
MANIFESTS = ROOT / "deploy" / "kubernetes"
MISSING = (
    "no helm is here (needs Go 1.26, or helm on the PATH): the chart and deploy/kubernetes stay untested"
)
KUBERNETES = "1.34.0"
"""Helm renders for one; without the flag it takes that of its own libraries, which `go build` leaves out."""
CONTROLLER = "controller"
"""The folder of its templates, and of its manifests."""
RELEASE, NAMESPACE = "fleet", "models"
HEADER = "# Rendered from deploy/helm/fleet-epp with values.yaml, beside this file (make manifests).\n"


class Refused(Exception):
    """What helm says of values or of the chart."""


PROGRAM = GoPrograms(source=SOURCE, packages={"helm": "helm.sh/helm/v3/cmd/helm"}, takes="1 to 3 minutes")


def _find() -> Path | None:
    on_path = shutil.which("helm")
    folders = [PROGRAM.cache, Path(on_path).parent if on_path else None]
    return next((one for one in folders if one and PROGRAM.are_in(one)), None)


def is_possible() -> bool:
    """It is here, or a Go that can build it."""
    return PROGRAM.is_possible(_find)


def run(*arguments: str, values: Mapping[str, Any] | Path, cluster: Path | None = None) -> str:
    """What it prints; Refused with what it says instead. ``cluster``: the kubeconfig of one to act on."""
    given = "-" if isinstance(values, Mapping) else str(values)
    where = ["--kube-version", KUBERNETES] if cluster is None else ["--kubeconfig", str(cluster)]
    done = subprocess.run(
        [str(PROGRAM.build(_find) / "helm"), *arguments, *where, "--values", given],
        input=yaml.safe_dump(dict(values)) if isinstance(values, Mapping) else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def template(
    values: Mapping[str, Any] | Path,
    *,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    kinds: Sequence[str] = (),
) -> str:
    """The chart's manifests. ``kinds``: what the cluster is said to know, as ``group/version/Kind``."""
    known = [word for kind in kinds for word in ("--api-versions", kind)]
    return run("template", release, str(CHART), "--namespace", namespace, *known, values=values)


def documents(text: str) -> list[dict[str, Any]]:
    """The objects in a YAML text."""
    return [one for one in yaml.safe_load_all(text) if one]


def manifests() -> dict[str, str]:
    """By file name, what deploy/kubernetes is to hold: the picker, and in a folder below the controller."""
    files: dict[str, list[str]] = {}
    for values in (MANIFESTS / "values.yaml", MANIFESTS / CONTROLLER / "values.yaml"):
        for part in re.split(r"^---\n", template(values), flags=re.MULTILINE):
            source = re.match(r"# Source: fleet-epp/templates/(\S+)\n", part)
            if source and documents(part):
                files.setdefault(source[1], []).append(part[source.end() :].strip() + "\n")
    return {name: HEADER + "---\n".join(parts) for name, parts in sorted(files.items())}


def write() -> None:
    """Bring deploy/kubernetes up to date."""
    for name, text in manifests().items():
        (MANIFESTS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        write()
    except (Refused, RuntimeError) as fault:
        sys.exit(str(fault))
