"""What is read of GPUs: by unmodified pynvml on the mock, from dcgm-exporter's page, by PromQL."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cards import Cards

from aftershock.errors import InvalidInput, Unsupported
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Inventory
from aftershock.run import gpulooks
from aftershock.slo.levels import load_levels
from aftershock.slo.objectives import NoMeasurement

DCGM = """\
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-b"} 91
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a"} 12
"""
HOW: dict[str, Any] = {"over_s": 0.5, "over_time": "mean", "over_gpus": "max", "source": "nvml"}
ALL = {"where": "all", "gpus": "all"}


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    return Cards(tmp_path)


@pytest.fixture
def run(cards: Cards, fleet: Fleet) -> Any:
    inventory = Inventory("cards", (cards.node,), "", "")
    target = SimpleNamespace(inventory=inventory, agents=fleet)
    return SimpleNamespace(target=target, levels=load_levels("owner"))


@pytest.fixture
def page() -> Iterator[str]:
    """A server of dcgm-exporter's page, and of Prometheus' API; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query).get("query", [""])[0]
            result = [{"value": [0, "7"]}, {"value": [0, "93"]}] if "{a=" in query else []
            told = json.dumps({"data": {"result": result}}) if query else DCGM
            self.send_response(200 if self.path.startswith(("/metrics", "/api")) else 404)
            self.end_headers()
            self.wfile.write(told.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_window_tells_which_gpu_is_busy_and_with_whom(cards: Cards, run: Any) -> None:
    assert gpulooks.within(run, "golden", ALL, 0.0)
    with cards.user(10_000, index=1) as worker:
        assert worker.stdin
        until = time.monotonic() + 1.5
        while time.monotonic() < until:  # kernels all the time
            time.sleep(0.1)
            worker.stdin.write("100000000\n")
            worker.stdin.flush()
        idle, busy = gpulooks.look(run, "all", "all", 0.3)
    assert idle["window"]["utilisation_percent"]["max"] < 5
    window = busy["window"]["utilisation_percent"]
    assert 50 < window["min"] <= window["mean"] <= window["max"] <= 100 and window["count"] >= 2
    assert (busy["power_w"] > 300) and idle["power_w"] < 100
    assert (idle["sm_clock_mhz"], busy["sm_clock_mhz"]) == (345, 1980)
    (user,) = busy["processes"]
    assert (user["pid"], user["used_mib"]) == (worker.pid, 10_000) and not idle["processes"]
    assert (busy["level"], busy["compute_mode"], busy["mig"]) == ("emulated", "default", False)
    assert (busy["node"], busy["lost"], busy["ecc_uncorrected"]) == ("gpu-host", False, 0)


def test_figures_over_several_gpus(cards: Cards, run: Any) -> None:
    with cards.user(40_960):
        read = {
            over: gpulooks.figure(run, "memory_used_percent", ALL, {**HOW, "over_gpus": over})
            for over in ("min", "mean", "max")
        }
        only = gpulooks.figure(run, "memory_used_mib", {**ALL, "gpus": "1"}, {**HOW, "over_s": 0})
    assert read["min"] < 1 and 50 < read["max"] < 51
    assert read["mean"] == pytest.approx((read["min"] + read["max"]) / 2) and only == 600


def test_what_a_sick_gpu_tells(cards: Cards, run: Any) -> None:
    """Throttling, ECC, an Xid that comes within the window, and a GPU that is lost."""
    cards.control(1, throttled=0x40, uncorrected=3)
    seen = threading.Event()

    def again() -> None:  # whenever the window opens, one comes within it
        while not seen.wait(0.4):
            cards.control(1, xid=79)

    late = threading.Thread(target=again)
    late.start()
    sound, sick = gpulooks.look(run, "all", "all", 2.0)
    seen.set()
    late.join()
    assert (sound["xids"], set(sick["xids"])) == ([], {79})
    assert (sick["throttled_by"], sick["ecc_uncorrected"]) == (["thermal, by hardware"], 3)
    assert gpulooks.look(run, "all", "1", 0.0)[0]["xids"] == [], "it was before this window"
    cards.control(1, lost=1)
    assert [one["lost"] for one in gpulooks.look(run, "all", "all", 0.0)] == [False, True]
    with pytest.raises(gpulooks.GpuLost, match="GPU 1 of gpu-host is lost"):
        gpulooks.figure(run, "power_w", ALL, HOW)
    assert gpulooks.figure(run, "power_w", {**ALL, "gpus": "0"}, HOW) == 70


def test_other_sources(run: Any, page: str) -> None:
    def ask(what: str, source: str, over: str = "max") -> float:
        return gpulooks.figure(run, what, ALL, {**HOW, "source": source, "over_gpus": over})

    exporter, prometheus = f"dcgm:{page}/metrics", f"prometheus:{page}"
    assert ask("utilisation_percent", exporter) == 91
    assert ask("utilisation_percent", exporter, "mean") == 51.5
    assert ask("utilisation_percent", prometheus + '{a="b"}') == 93
    with pytest.raises(NoMeasurement, match="has no sample for avg_over_time"):
        ask("power_w", prometheus)
    with pytest.raises(Unsupported, match="doesn't tell its power_w"):
        ask("power_w", exporter)
    with pytest.raises(Unsupported, match=r"no dcgm-exporter at .*nothing .status 404"):
        ask("power_w", f"dcgm:{page}/nothing")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"over_time": "median"}, "over_time is 'median': one of mean, min, max"),
        ({"over_gpus": "each"}, "over_gpus is 'each': one of mean, min, max"),
        ({"over_s": 600}, "over_s 600: 0 to 60"),
        ({"source": "nvidia-smi"}, "nvml, dcgm:URL or prometheus:URL"),
    ],
)
def test_nonsense_is_refused(run: Any, change: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        gpulooks.figure(run, "power_w", ALL, {**HOW, **change})
    with pytest.raises(InvalidInput, match="figure is 'fan': one of utilisation_percent"):
        gpulooks.figure(run, "fan", ALL, HOW)
    with pytest.raises(InvalidInput, match="gpu-host: no such GPU among '5': there is 0, 1"):
        gpulooks.look(run, "all", "5", 0.0)
