from bench import pools
from bench.cluster import pod, pool
from bench.pools import Process


def a_process(count: int, pods: int, *, cores: float = 0.1) -> Process:
    return Process(
        pools=count,
        pods=pods,
        start_seconds=0.5,
        rest_cores=cores,
        rest_rss_bytes=60_000_000,
        one_cpu_us=[100.0, 120.0, 110.0],
        all_cpu_us=[110.0, 126.0, 132.0],
        load_rss_bytes=70_000_000,
    )


def test_one_pool_and_many_stand_side_by_side() -> None:
    goals, table = pools.tables([a_process(1, 10, cores=0.003), a_process(100, 1_000, cores=0.3)])
    assert goals.rows == [["1,000 pods of 100 pools at rest: CPU", "≤ 0.25 cores", "0.30 cores", "**no**"]]
    assert table.rows == [
        ["1 pool, 10 pods", "0.50", "0.0030", "60", "70", "110", "126", "1.10"],
        ["100 pools, 1,000 pods", "0.50", "0.3000", "60", "70", "110", "126", "1.10"],
    ]


def test_a_smaller_run_promises_nothing() -> None:
    goals, _ = pools.tables([a_process(1, 2), a_process(2, 4)])
    assert goals.rows[0][2:] == ["n/a", "not measured"]


def test_objects_are_those_of_a_cluster() -> None:
    made = pool("qwen", target=8_000, port=9_102)
    assert made["spec"]["endpointPickerRef"] == {"name": "fleet-epp", "port": {"number": 9_102}}
    assert made["spec"]["selector"]["matchLabels"] == pod("a", "127.0.0.9", app="qwen")["metadata"]["labels"]
    waiting = pod("a", "127.0.0.9", app="qwen", ready=False)["status"]
    assert (waiting["conditions"][0]["status"], waiting["podIP"]) == ("False", "127.0.0.9")
