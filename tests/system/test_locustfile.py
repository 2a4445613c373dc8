"""bench/locustfile.py under the real locust."""

import csv
import os
import subprocess
import sys
from pathlib import Path

from bench.rig.process import Process, answers_ok, free_port

ROOT = Path(__file__).parents[2]
LOCUST = Path(sys.executable).with_name("locust")


class Engine(Process):
    def __init__(self, logs: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "bench.engine", "--port", str(port), "--chunk-interval", "0.002"]
        super().__init__("engine", command, log=logs / "engine.log")

    def is_ready(self) -> bool:
        return answers_ok(f"{self.url}/health")


def test_users_talk_and_the_first_token_is_a_metric_of_its_own(tmp_path: Path) -> None:
    with Engine(tmp_path) as engine:
        # gevent counts the run's time from before its imports, which take some seconds of it.
        flags = ["--headless", "-u", "4", "-r", "4", "-t", "12s", "--host", engine.url, "--workload", "small"]
        done = subprocess.run(
            [LOCUST, "-f", str(ROOT / "bench" / "locustfile.py"), *flags, "--csv", str(tmp_path / "out")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    assert {"turn 1", "later turns", "TTFT", "between tokens"} <= rows.keys()
    assert all(row["Failure Count"] == "0" for row in rows.values())
    assert 0 < float(rows["TTFT"]["50%"]) < float(rows["turn 1"]["50%"])
