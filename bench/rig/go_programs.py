"""Programs that are built once, from a Go module of ours that names their versions and hashes.

Place:   bench.rig.kube and tests.system.helm say which they are, and where else they may be.
Rule:    they are kept in the user's cache, by their go.mod; of two runs one builds.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class GoPrograms:
    """Those of one module. ``find``: the folder that has them all already, here or elsewhere."""

    source: Path
    packages: Mapping[str, str]
    """By the program's name."""
    takes: str
    """How long building takes, for people."""
    linked: str = ""
    """More for the linker."""

    @property
    def cache(self) -> Path:
        """Where they are once they are built."""
        key = hashlib.sha256((self.source / "go.mod").read_bytes()).hexdigest()[:16]
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return base / "fleet-epp" / f"{self.source.name}-{key}"

    def are_in(self, folder: Path) -> bool:
        return all((folder / name).is_file() for name in self.packages)

    def is_possible(self, find: Callable[[], Path | None]) -> bool:
        """They are here, or a Go that can build them."""
        if find():
            return True
        go = shutil.which("go")
        asked = [go or "", "list", "-m"]
        return (
            go is not None
            and not subprocess.run(asked, cwd=self.source, capture_output=True, check=False).returncode
        )

    def build(self, find: Callable[[], Path | None]) -> Path:
        """The folder that has them, built if need be; RuntimeError if that does not succeed."""
        if found := find():
            return found
        folder = self.cache
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be at it
            if found := find():
                return found
            sys.stderr.write(f"building {' and '.join(self.packages)}: {self.takes}, once\n")
            for name, package in self.packages.items():
                self._build(name, package, folder)
        return folder

    def _build(self, name: str, package: str, folder: Path) -> None:
        beside = folder / f"{name}.new"
        command = ["go", "build", "-mod=readonly", "-trimpath", "-o", str(beside)]
        command += ["-ldflags", f"-s -w {self.linked}".strip(), package]
        environment = {**os.environ, "CGO_ENABLED": "0"}
        built = subprocess.run(
            command, cwd=self.source, env=environment, capture_output=True, text=True, check=False
        )
        if built.returncode:
            raise RuntimeError(f"{name} cannot be built (go build in {self.source}):\n{built.stderr}")
        beside.rename(folder / name)
