"""How commands find a cluster and list its objects."""

import asyncio
from pathlib import Path

import pytest
import yaml

from epp.commands import lint, linted, listing
from epp.commands.target import Parser, parsed
from epp.runtime.errors import StartError
from epp.runtime.kubernetes.store import ApiFault
from tests.commands.model_cluster import ModelCluster


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    """Of two clusters, the first of them current."""
    names = ("east", "west")
    content = {
        "current-context": "east",
        "users": [{"name": "me", "user": {"token": "t"}}],
        "clusters": [{"name": one, "cluster": {"server": f"http://{one}.test"}} for one in names],
        "contexts": [{"name": one, "context": {"cluster": one, "user": "me"}} for one in names],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def address(*arguments: str) -> str:
    """Of the API that is found."""

    async def find() -> str:
        parser = Parser("test", "")
        listing.add_cluster(parser)
        api = listing.api_of(parsed(parser, arguments))
        await api.open()
        await api.close()
        return api.address

    return asyncio.run(find())


class TestTheCluster:
    def test_is_that_of_the_file_before_that_of_the_environment(
        self, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBECONFIG", "elsewhere")
        assert address(f"--kubeconfig={kubeconfig}") == "http://east.test"

    def test_is_that_of_the_context(self, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        assert address("--context=west") == "http://west.test"

    def test_needs_a_context_that_is_there(self, kubeconfig: Path) -> None:
        with pytest.raises(StartError, match=f"^--kubeconfig {kubeconfig}: .*north"):
            address(f"--kubeconfig={kubeconfig}", "--context=north")


class TestLintOfACluster:
    @pytest.fixture
    def cluster(self, monkeypatch: pytest.MonkeyPatch) -> ModelCluster:
        monkeypatch.setattr(listing, "FIRST_WAIT", 0)
        return ModelCluster()

    def test_asks_again_while_the_api_makes_room(self, cluster: ModelCluster) -> None:
        meta = {"name": "fleet-epp", "namespace": "llm"}
        cluster.put({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {}})
        cluster.busy = 3
        found = asyncio.run(linted.read(cluster, []))
        assert [one.name for one in found.documents] == ["fleet-epp"]
        assert found.unread == {}

    def test_names_what_could_not_be_read(self, cluster: ModelCluster) -> None:
        cluster.busy = 10_000
        with pytest.raises(ApiFault, match=r"^[a-z.]+: the API answers 429: storage is"):
            asyncio.run(linted.read(cluster, []))

    def test_goes_on_without_what_it_may_not_see(self, cluster: ModelCluster) -> None:
        cluster.closed = {"Service"}
        found = asyncio.run(linted.read(cluster, []))
        assert found.unread == {"Service": "services: the API answers 403: you may not"}
        assert "Gateway" in found.readable and "Service" not in found.readable

    def test_finds_nothing_in_what_it_may_see(
        self, cluster: ModelCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster.closed = {"Service"}
        monkeypatch.setattr(lint, "api_of", lambda *_, **__: cluster)
        assert lint.run(["--cluster"]) == 0
        assert capsys.readouterr().out == "nothing found in what may be read\n"

    def test_has_no_answer_where_it_may_see_nothing(
        self, cluster: ModelCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster.closed = {one.name for one in linted.READ}
        monkeypatch.setattr(lint, "api_of", lambda *_, **__: cluster)
        assert lint.run(["--cluster"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("epp lint: --cluster: nothing may be read of what was asked for: ")
