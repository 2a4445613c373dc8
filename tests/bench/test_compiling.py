from bench import compiling
from bench.compiling import ROUTERS, SERVICES, Compilation, compile_here, site
from epp.compiler.options import Target


def a_compilation(services: int = SERVICES, routers: int = ROUTERS) -> Compilation:
    return Compilation(
        target="gateway-api",
        services=services,
        routers=routers,
        cpu_seconds=1.234,
        peak_bytes=123_456_789,
        objects=5_000,
        errors=0,
    )


def test_a_large_site_has_its_goals() -> None:
    goals, table = compiling.tables([a_compilation()])
    assert [row[1:] for row in goals.rows] == [["≤ 2 s", "1.23 s", "yes"], ["≤ 300 MB", "123 MB", "yes"]]
    assert table.rows == [["gateway-api", "1,000", "200", "1.23", "123", "5,000", "0"]]


def test_a_smaller_site_promises_nothing() -> None:
    goals, _ = compiling.tables([a_compilation(services=10)])
    assert {row[3] for row in goals.rows} == {"not measured"}


def test_a_site_has_what_it_says() -> None:
    kinds = [one["kind"] for one in site(10, 3)]
    assert (kinds.count("InferenceService"), kinds.count("ModelRouter"), kinds.count("EndpointSlice")) == (
        *(10, 3),
        2,
    )


def test_every_model_of_it_is_compiled() -> None:
    for target in Target:
        found = compile_here(str(target), 10, 2)
        # a plain HTTPRoute has no order of backends, and knows no providers
        assert found.objects >= 12 and bool(found.errors) == (target is Target.GATEWAY_API), found
