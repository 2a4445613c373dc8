import time
from tests.system.test_kubernetes_pools import *
from tests.system.cluster import STRANGER
pytestmark = [pytest.mark.default_driver]
@pytest.mark.parametrize("flag", ["--pool-service=models/picker-of-all", "--pool=models/qwen"])
@pytest.mark.parametrize("how", ["stranger", "away"])
def test_x(plane, logs, flag, how):
  with ExitStack() as parts:
    stage = Stage(plane, logs, "try", parts)
    kw = {"token": STRANGER} if how == "stranger" else {}
    picker = stage.picker(flag, by_name=False, replica=6, **kw)
    if how == "away": plane.api.kill()
    try:
        picker.launch()
        time.sleep(8)
        print(flag, how, page(picker, "/readyz"))
        print(*[l for l in picker.log.read_text().splitlines()], sep="\n")
        print([l for l in picker.series.splitlines() if "kubernetes" in l] if hasattr(picker, "series") else "")
    finally:
        if how == "away": plane.api.start(timeout=60)
