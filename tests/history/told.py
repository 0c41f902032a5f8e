"""What runs tell of their answers and of a load that was stepped up."""

from typing import Any

QUALITY: dict[str, Any] = {
    "before": {"answers": 46, "bad": 0, "kinds": {}, "by_replica": {}, "by_family": {}},
    "during": {"answers": 73, "bad": 4, "questions": 31, "right": 30,
               "kinds": {"repeats": 3, "empty": 1}, "by_replica": {"model-b-1": 4},
               "by_family": {"chinese": 4}},
    "after": {"answers": 0, "bad": 0, "kinds": {}, "by_replica": {}, "by_family": {}},
    "exact": True, "prompts": 8, "unanswered": 2, "dropped": "", "unmeasured": "",
    "worst": [{"replica": "model-b-1", "prompt": "1+1?", "wrong": "repeats", "text": "2 2 <b>"}],
}  # fmt: skip
GOODPUT: dict[str, Any] = {
    "limits": {"ttft_ms": 250.0, "e2e_ms": 500.0},
    "before": {"requests": 474, "met": 472, "share": 0.99578, "rps": 41.34},
    "during": {"requests": 700, "met": 350, "share": 0.5, "rps": None},
    "after": {"requests": 0, "met": 0, "share": None, "rps": None},
}
CLIFF: dict[str, Any] = {
    "knee_rps": [20.0, 30.0], "knee_why": "P99 522 ms, 500 is golden", "collapse_rps": None,
    "capacity_rps": 25.47, "capacity_error_rps": 3.61, "saturated": ["queue"], "not_seen": [],
    "shedding_rps": [], "generator_ended_rps": None, "at_least_rps": 0.0,
    "steps": [{"rate_rps": rate, "good_rps": good, "p50_ms": 316.7, "p99_ms": None,
               "error_rate": 0.25, "use": {"waiting_requests": 4.0}}
              for rate, good in ((20.0, 19.2), (30.0, 25.47))],
}  # fmt: skip
REPLACEMENT: dict[str, Any] = {
    "pod": "web-2", "replaces": "web-1", "zone": "az-b", "node": "node-b", "same_pod": False,
    "deleted_s": 0.1, "scheduled_s": 0.2, "started_s": 1.0, "ready_s": None, "late": ["started"],
    "waits_for": "",
}  # fmt: skip
