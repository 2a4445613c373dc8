"""What the command line means for how the process runs."""

from epp.config import flags
from epp.config.operation import Drain, drain, metrics_source
from scorers.metrics_data_source import MetricsDataSource


def given(*arguments: str) -> flags.ServeFlags:
    return flags.parse(["--pool-name=qwen", *arguments], {})


def test_how_servers_are_read_is_said_by_flags_where_the_configuration_says_nothing() -> None:
    """KServe's words, and those of GIE's chart for trtllm-serve, whose quotes YAML leaves in."""
    written = given(
        "--model-server-metrics-scheme=https",
        "--model-server-metrics-https-insecure-skip-verify=false",
        '--model-server-metrics-path="/prometheus/metrics"',
        "--model-server-metrics-port=9400",
    )
    found = metrics_source(written, MetricsDataSource())
    assert found == MetricsDataSource(
        scheme="https", path="/prometheus/metrics", port=9400, insecure_skip_verify=False
    )
    own = MetricsDataSource(scheme="http", path="/m", port=1, insecure_skip_verify=False)
    assert metrics_source(written, own) == own


def test_upstreams_defaults_change_nothing() -> None:
    written = given("--model-server-metrics-scheme=http", "--model-server-metrics-path=/metrics")
    assert metrics_source(written, MetricsDataSource()) == MetricsDataSource()


def test_in_kubernetes_requests_are_still_taken_after_sigterm() -> None:
    written = given("--drain-timeout=20s")
    assert drain(written, in_kubernetes=True) == Drain(serve_for=20.0, grace=86_400.0, last_call=0.0)
    assert drain(written, in_kubernetes=False) == Drain(serve_for=0.0, grace=20.0, last_call=19.0)
    assert drain(given("--drain-timeout=1s"), in_kubernetes=False).last_call == 0.5
