"""A rate that this machine can't send is told at once, and the target hears nothing of it."""

from __future__ import annotations

import resource
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock.errors import InvalidInput
from aftershock.load import calibration
from aftershock.load.calibration import FULL, check_rate, judge_rate, request_cost_s
from aftershock.load.lengths import Lengths
from aftershock.load.settings import LoadSettings


def test_what_any_machine_can_send_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[LoadSettings] = []
    monkeypatch.setattr(calibration, "request_cost_s", asked.append)
    check_rate(LoadSettings("http://127.0.0.1"), 500)
    check_rate(LoadSettings("http://127.0.0.1", processes=4), 2000)
    assert not asked
    check_rate(LoadSettings("http://127.0.0.1"), 5000)
    long = {"ignore_eos": True, "output_tokens": Lengths("uniform", low=64, high=2048)}
    check_rate(LoadSettings("http://127.0.0.1", **long), 100)  # half of them are long streams
    assert len(asked) == 2


def test_what_a_request_costs_is_measured_without_the_target() -> None:
    with socket.socket() as target:
        target.bind(("127.0.0.1", 0))
        target.listen()
        target.setblocking(False)
        settings = LoadSettings(f"http://127.0.0.1:{target.getsockname()[1]}")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        cost = request_cost_s(settings)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        with pytest.raises(BlockingIOError):
            target.accept()
    assert cost is not None and 10e-6 < cost < 10e-3
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 3, "it was to take well under a second"


def test_long_streams_that_are_sure_to_come_cost_more() -> None:
    told = {"stream_share": 1.0, "output_tokens": Lengths("fixed", low=500)}
    may_end, goes_on = (
        request_cost_s(LoadSettings("http://127.0.0.1", ignore_eos=ignore, **told))
        for ignore in (False, True)
    )
    assert may_end and goes_on and goes_on > 4 * may_end


@given(st.floats(1, 1e5), st.integers(1, 64), st.floats(1e-5, 1e-2), st.integers(1, 64))
def test_what_it_says_to_give_is_enough(
    rate: float, processes: int, cost_s: float, cpus: int
) -> None:
    cores = rate * cost_s
    try:
        judge_rate(rate, processes, cost_s, cpus)
    except InvalidInput as error:
        said = str(error)
        assert "\n" not in said and f"can't send {rate:g} requests/s" in said
        assert cores > FULL * min(processes, cpus) * 0.999
        if "give it" in said:
            judge_rate(rate, int(said.rsplit(" ", 1)[1]), cost_s, cpus)
        elif (most := float(said.split("at most ")[1].split(maxsplit=1)[0])) > 1:
            judge_rate(most - 1, 64, cost_s, cpus)
    else:
        assert cores <= FULL * min(processes, cpus) * 1.001
