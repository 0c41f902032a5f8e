"""`chaos run` exits 0 for PASS and for nothing else, wherever Chaos Toolkit itself would.

One test for each way in which Chaos Toolkit's own exit status says more than is known; whatever the
way, what was injected is healed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, ChaosRun, Outcome

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SHORT = {"lease_s": 45, "sentinel_rps": 50}
Experiment = dict[str, Any]
Edited = Callable[..., Outcome]


def python(module: str, func: str, /, kind: str = "action", **more: Any) -> dict[str, Any]:
    """An activity that calls a Python function; `more`: arguments, and Chaos Toolkit's own keys."""
    provider = {"type": "python", "module": module, "func": func}
    provider["arguments"] = more.pop("arguments", {})
    return {"type": kind, "name": more.pop("name", func), "provider": provider, **more}


def mischief(func: str, kind: str = "action", **more: Any) -> dict[str, Any]:
    return python("mischief", func, kind, **more)


FAIL_ZONE = python(
    "aftershock.actions.zone", "fail_zone", arguments={"zone": "az-a", "lease_s": 60}
)


@pytest.fixture
def run_of(chaos_run: ChaosRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edited:
    """Run the main experiment with something changed, briefly."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def run(change: Callable[[Experiment], None], *options: str, **variables: Any) -> Outcome:
        experiment = json.loads((ROOT / "experiments/az-failure.json").read_text())
        change(experiment)
        if not any(one["provider"].get("func") == "failed_back" for one in experiment["method"]):
            # Of six, two stay pending for as long as the zone is lost; to start them costs most.
            experiment["configuration"]["replicas"] = 3
        path = tmp_path / "edited.json"
        path.write_text(json.dumps(experiment))
        return chaos_run(path, options=options, **{**SHORT, **variables})

    return run


def refused(outcome: Outcome, word: str = "INCONCLUSIVE", injected: int = 4) -> Outcome:
    """What holds of every run here: no PASS, exit status 1, and nothing left on the hosts."""
    assert outcome.status == 1, outcome.printed
    assert outcome.verdict["verdict"] == word, outcome.printed
    healed(outcome, injected)
    return outcome


def healed(outcome: Outcome, injected: int = 4) -> None:
    found = outcome.verdict["injections"]
    assert len(found) == injected, outcome.printed
    for injection in found:
        assert injection["reverted"] and injection["clean"], injection


@pytest.mark.whole
def test_a_timeout_and_a_background_action_are_no_reason_against_a_pass(run_of: Edited) -> None:
    """Chaos Toolkit ignores a Python activity's timeout, and waits for what runs beside it."""

    def change(experiment: Experiment) -> None:
        experiment["method"][1]["timeout"] = 1
        beside = mischief("wait", arguments={"duration_s": 4}, background=True)
        experiment["method"].insert(1, beside)

    outcome = run_of(change)
    assert (outcome.status, outcome.verdict["verdict"]) == (0, "PASS"), outcome.printed
    healed(outcome)
    assert {one["status"] for one in outcome.journal["run"]} == {"succeeded"}
    assert outcome.journal["status"] == "completed"


@pytest.mark.whole
def test_actions_that_raise_beside_a_fault_in_the_background(run_of: Edited) -> None:
    def change(experiment: Experiment) -> None:
        slow = {"type": "process", "path": "sleep", "arguments": "4", "timeout": 1}
        experiment["method"] = [
            {**FAIL_ZONE, "background": True},
            mischief("stumble"),
            {"type": "action", "name": "slow", "provider": slow},
        ]

    outcome = refused(run_of(change))
    assert "stumble: " in outcome.reasons and "the action stumbled" in outcome.reasons
    assert "slow: " in outcome.reasons
    ended = {one["activity"]["name"]: one["status"] for one in outcome.journal["run"]}
    assert ended == {"fail_zone": "succeeded", "stumble": "failed", "slow": "failed"}
    assert [one["status"] for one in outcome.journal["rollbacks"]] == ["succeeded"]


@pytest.mark.whole
def test_terminate_pods_that_matches_nothing(run_of: Edited) -> None:
    """As the only fault, through chaostoolkit-kubernetes, on the run's own cluster."""

    def change(experiment: Experiment) -> None:
        count = python(
            "chaosk8s.pod.probes",
            "count_pods",
            "probe",
            arguments={"label_selector": "app=model", "ns": "inference"},
        )
        kill = {"label_selector": "app=nobody", "all": True, "ns": "inference"}
        experiment["method"] = [
            count,
            python("chaosk8s.pod.actions", "terminate_pods", arguments=kill),
        ]

    outcome = refused(run_of(change), injected=0)
    counted, killed = outcome.journal["run"]
    assert counted["output"] == 3, counted
    assert (killed["status"], killed["output"]) == ("succeeded", [])
    assert "no fault was injected" in outcome.reasons


def look_away(experiment: Experiment) -> None:
    """Leave a steady state that an outage doesn't touch, whenever it is looked at."""
    hypothesis = experiment["steady-state-hypothesis"]
    hypothesis["probes"] = [one for one in hypothesis["probes"] if "GPU" in one["name"]]


@pytest.mark.whole
def test_a_hypothesis_that_does_not_notice(run_of: Edited) -> None:
    """It looks too early, or, as here, at what an outage doesn't touch."""

    def change(experiment: Experiment) -> None:
        experiment["method"] = [FAIL_ZONE]
        look_away(experiment)

    outcome = refused(run_of(change))
    assert outcome.journal["steady_states"]["after"]["steady_state_met"] is True
    assert outcome.codes >= {"not_held"}
    assert outcome.verdict["service_rto_s"] != 0


def test_a_probe_that_raises_after_the_method(run_of: Edited) -> None:
    """With Chaos Toolkit's default strategy, which then skips the rollbacks."""

    def change(experiment: Experiment) -> None:
        experiment["runtime"]["rollbacks"]["strategy"] = "default"
        stumble = mischief("fail_after_the_first_time", "probe", tolerance=True)
        look_away(experiment)
        experiment["steady-state-hypothesis"]["probes"].append(stumble)
        experiment["method"] = [FAIL_ZONE]

    outcome = refused(run_of(change))
    assert outcome.journal["rollbacks"] == []
    assert "not met afterwards: fail_after_the_first_time" in outcome.reasons


@pytest.mark.whole
def test_a_deviation_while_the_hypothesis_is_watched_continuously(run_of: Edited) -> None:
    """The service is back in time; but it was away, and that is what the strategy asks about."""

    options = ("--hypothesis-strategy=continuously", "--hypothesis-frequency=1")
    outcome = refused(run_of(lambda experiment: None, *options), "FAIL")
    met = [state["steady_state_met"] for state in outcome.journal["steady_states"]["during"]]
    assert False in met and True in met
    assert outcome.codes == {"activity_failed"}
    assert f"missed {met.count(False)} times during the method" in outcome.reasons


@pytest.mark.whole
def test_a_range_over_what_cannot_be_measured(run_of: Edited) -> None:
    """The probe raises a named error; None would end in a traceback without journal."""

    def change(experiment: Experiment) -> None:
        for name in ("p99_latency_ms", "error_rate_percent", "throughput_rps"):
            look = python("aftershock.probes.slo", name, "probe", arguments={"window_s": 1e-6})
            experiment["method"].append(look)
        unmeasured = {**experiment["method"][-3], "tolerance": [0, 10_000]}
        experiment["steady-state-hypothesis"]["probes"].append(unmeasured)
        experiment["method"] = [FAIL_ZONE, *experiment["method"][-3:]]

    outcome = refused(run_of(change), injected=0)
    before = outcome.journal["steady_states"]["before"]
    assert before["steady_state_met"] is False
    assert "NoMeasurement: " in "".join(before["probes"][-1]["exception"])
    assert [one["status"] for one in outcome.journal["rollbacks"]] == ["succeeded"]
    assert "Traceback" not in outcome.printed


@pytest.mark.whole
def test_a_range_over_nothing_after_the_fault(run_of: Edited) -> None:
    """Another extension's probe gives None: Chaos Toolkit dies without journal and rollbacks."""

    def change(experiment: Experiment) -> None:
        probe = mischief("nothing", "probe", tolerance=[0, 1])
        experiment["steady-state-hypothesis"]["probes"] = [probe]
        experiment["method"] = [FAIL_ZONE]

    outcome = refused(run_of(change, "--hypothesis-strategy=after-method-only"))
    assert "TypeError" in outcome.printed
    assert len(outcome.journal["run"]) == 1
    assert outcome.codes >= {"no_steady_state", "not_held"}


@pytest.mark.whole
def test_sigterm_inside_a_python_action(run_of: Edited) -> None:
    def change(experiment: Experiment) -> None:
        experiment["method"] = [FAIL_ZONE, mischief("terminate_this_process"), FAIL_ZONE]

    outcome = refused(run_of(change))
    assert "the run was interrupted by SIGTERM" in outcome.reasons
    assert len(outcome.journal["run"]) == 2, "the method went on"
    assert outcome.journal["status"] == "interrupted"
    assert [one["status"] for one in outcome.journal["rollbacks"]] == ["succeeded"]


@pytest.mark.whole
def test_a_control_that_failed_for_a_while(run_of: Edited) -> None:
    """Chaos Toolkit swallows what a control raises; a run that was not kept is not a PASS."""

    def change(experiment: Experiment) -> None:
        block = mischief("obstruct_the_journal", arguments={"obstructed": True})
        free = mischief("obstruct_the_journal", arguments={"obstructed": False})
        experiment["method"].insert(1, block)
        experiment["method"].append(free)

    outcome = refused(run_of(change))
    assert outcome.codes == {"control_failed"}
    assert ".journal.json.new" in outcome.reasons
    assert len(outcome.journal["run"]) == 6


@pytest.mark.whole
def test_a_journal_that_is_deleted_in_the_middle(run_of: Edited, journal: Path) -> None:
    def change(experiment: Experiment) -> None:
        experiment["method"] = [FAIL_ZONE, mischief("delete_the_journal")]

    outcome = run_of(change)
    assert outcome.status == 1, outcome.printed
    assert "\nINCONCLUSIVE" in outcome.printed and "\nPASS" not in outcome.printed
    assert "own control failed: verdict.json: " in outcome.printed
    assert "Traceback" not in outcome.printed
    kept = json.loads((journal.parent / "journal.json").read_text())
    found = kept["rollbacks"][0]["output"]["injections"]
    assert [injection["clean"] for injection in found] == [True] * 4


@pytest.mark.whole
def test_a_killed_run_leaves_its_journal_so_far(run_of: Edited) -> None:
    def change(experiment: Experiment) -> None:
        experiment["method"] = [
            mischief("wait", arguments={"duration_s": 0.1}),
            FAIL_ZONE,
            mischief("kill_chaos"),
        ]

    outcome = run_of(change)
    assert outcome.status == -9
    assert [one["activity"]["name"] for one in outcome.journal["run"]] == ["wait", "fail_zone"]
    assert outcome.journal["run"][1]["output"]["injections"][0]["bit"] is True
    assert outcome.journal["steady_states"]["before"]["steady_state_met"] is True


@pytest.mark.parametrize("strategy", ["default", "during-method-only"])
def test_a_control_that_cannot_be_loaded(run_of: Edited, strategy: str) -> None:
    """Also where no hypothesis is there to stop the method."""

    def change(experiment: Experiment) -> None:
        experiment["controls"][0]["provider"]["module"] = "aftershock.no_such_control"

    outcome = run_of(change, f"--hypothesis-strategy={strategy}")
    assert outcome.status == 1, outcome.printed
    assert outcome.folder is None
    assert "no run is being recorded" in outcome.printed


@pytest.mark.parametrize("dry", ["actions", "probes", "activities"])
def test_a_dry_run_that_could_do_nothing(run_of: Edited, dry: str) -> None:
    """Only where nothing at all was to be done is there nothing that could have failed."""
    outcome = run_of(lambda experiment: None, f"--dry={dry}")
    assert outcome.status == (0 if dry == "activities" else 1), outcome.printed
    assert outcome.folder is None
