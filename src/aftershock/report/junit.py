"""`junit.xml`: the verdict as CI systems read it. What isn't a PASS is red there, never skipped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from aftershock.report.sentences import summary
from aftershock.slo.verdict import FAIL

# What a run promises, and the codes of the reasons that break it; other codes are the run's own.
CASES = {
    "the steady state holds before the fault": ("no_steady_state",),
    "every fault bites, stays until ordered, and leaves nothing": (
        "no_effect", "not_felt", "healed_early", "leftover", "cleanness_unknown",
    ),
    "the service is back within its objective and stays back": (
        "rto_missed", "not_measured", "few_samples", "gap", "straddles", "not_held", "relapse",
    ),
    "golden levels return after the heal": ("failback_unmeasured", "failback_failed"),
    "capacity meets its objective, if it has one": (
        "capacity_missed", "capacity_gap", "capacity_unmeasured", "capacity_unsure",
        "capacity_straddles",
    ),
    "answers are as good as before": ("quality_dropped", "quality_unmeasured"),
    "the load at which it breaks, and what it does over hours, are as wanted": (
        "knee_missed", "knee_straddles", "cliff_unmeasured",
        "drift", "drift_unmeasured", "drift_unsure", "soak_cut_short",
    ),
    "the load keeps its schedule": ("no_load", "off_schedule", "worker_lost"),
}  # fmt: skip
THE_RUN = "the run goes to its end as planned"
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0


def junit(document: Mapping[str, Any]) -> str:
    """The file's text. FAIL reasons are `failure`, INCONCLUSIVE ones `error`."""
    run = document["run"]
    name = str(run.get("experiment") or document["title"] or "aftershock")
    known = {code: case for case, codes in CASES.items() for code in codes}
    broken: dict[str, list[Mapping[str, Any]]] = {case: [] for case in (*CASES, THE_RUN)}
    for reason in document["reasons"]:
        broken[known.get(reason["code"], THE_RUN)].append(reason)
    suite = ElementTree.Element("testsuite", name=_text(name), tests=str(len(broken)))
    _properties(suite, document)
    counts = {"failure": 0, "error": 0}
    for case, reasons in broken.items():
        place = f"aftershock.{name}"
        element = ElementTree.SubElement(suite, "testcase", classname=_text(place), name=case)
        element.set("time", f"{_seconds(case, document):.3f}")
        if reasons:
            counts[_complain(element, reasons)] += 1
    told = ElementTree.SubElement(suite, "system-out")
    told.text = _text("\n".join([str(document["verdict"]), *summary(document)]))
    suite.attrib |= {"failures": str(counts["failure"]), "errors": str(counts["error"])}
    suite.attrib |= {"skipped": "0", "time": f"{document['service_rto_s'] or 0:.3f}"}
    if run.get("started_at"):
        suite.set("timestamp", str(run["started_at"])[:19])
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, "unicode")}\n'


def _complain(case: ElementTree.Element, reasons: list[Mapping[str, Any]]) -> str:
    """One element, since many readers take no more than one a case."""
    kind = "failure" if any(reason["word"] == FAIL for reason in reasons) else "error"
    first = reasons[0]
    said = ElementTree.SubElement(case, kind, type=str(first["code"]), message=_text(first["text"]))
    said.text = _text("\n".join(f"{one['word']} {one['code']}: {one['text']}" for one in reasons))
    return kind


def _properties(suite: ElementTree.Element, document: Mapping[str, Any]) -> None:
    found = {
        "verdict": document["verdict"],
        "target": document["target"],
        "service_rto_s": document["service_rto_s"],
        "rto_objective_s": document["rto_objective_s"],
        "seed": document["seed"],
        "command": document["run"].get("command"),
        **{f"version.{name}": version for name, version in document["versions"].items()},
    }
    holder = ElementTree.SubElement(suite, "properties")
    for name, value in found.items():
        if value is not None:
            ElementTree.SubElement(holder, "property", name=_text(name), value=_text(value))


def _seconds(case: str, document: Mapping[str, Any]) -> float:
    """What a case took: the time that it is about, where there is one."""
    if "within its objective" in case:
        return float(document["service_rto_s"] or document["service_rto_censored_s"] or 0)
    if "golden levels return" in case:
        return float(document["failback_rto_s"] or 0)
    return 0.0


def _text(value: Any) -> str:
    return _FORBIDDEN.sub("�", str(value))
