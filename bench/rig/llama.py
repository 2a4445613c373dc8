"""A real llama.cpp server with a generated model."""

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.rig.model import TINY, Size, model_file
from bench.rig.process import Process, answers_ok, free_port, http_get


class LlamaServer(Process):
    """One server. ``kill`` is its sudden death, ``start`` or ``restart`` its return.

    ``inside`` is put before its command: a program that starts it in a place of its own. ``cache`` [MiB]
    holds the prompts of earlier requests; full of prompts that never come again, it costs ever more time.
    """

    def __init__(
        self,
        *,
        logs: Path,
        name: str = "llama",
        size: Size = TINY,
        host: str = "127.0.0.1",
        port: int | None = None,
        slots: int = 2,
        context: int = 2048,
        threads: int = 1,
        http_threads: int = 64,
        cache: int = 256,
        metrics: bool = True,
        api_key: str | None = None,
        inside: Sequence[str] = (),
    ) -> None:
        self.port = port or free_port()
        self.address = f"{host}:{self.port}"
        self.url = f"http://{self.address}"
        command = [*inside, sys.executable, "-m", "bench.rig.llama_server", "--model", str(model_file(size))]
        command += ["--host", host, "--port", str(self.port)]
        command += ["--slots", str(slots), "--context", str(context)]
        command += ["--threads", str(threads), "--http-threads", str(http_threads)]
        command += ["--cache", str(cache)]
        command += [] if metrics else ["--no-metrics"]
        command += ["--api-key", api_key] if api_key else []
        super().__init__(name, command, log=logs / f"{name}.log", environment=_importable())

    def is_ready(self) -> bool:
        """The model is loaded: /health is 503 before that."""
        return answers_ok(f"{self.url}/health")

    def metrics(self) -> dict[str, float]:
        """The series of /metrics by name; llama.cpp's have no labels."""
        page = http_get(f"{self.url}/metrics")[1].decode()
        lines = (line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in lines}


def _importable() -> dict[str, str]:
    """The environment in which a child finds this package, wherever it was started from."""
    return {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
