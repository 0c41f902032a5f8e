"""The documentation holds: its links, the commands it tells, and the figures it defines."""

import ast
import json
import random
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from chaoslib.experiment import ensure_experiment_is_valid

from aftershock.cli import commands
from aftershock.history.claims import clean_runs_needed
from aftershock.report.forms import FORMS, PICTURES
from aftershock.run.settings import Settings
from aftershock.slo import verdict
from aftershock.slo.changepoint import Outcomes, locate
from aftershock.slo.document import FIELDS
from aftershock.slo.levels import INDICATORS

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ENGLISH, CHINESE, ROOT / "ARCHITECTURE.md", *DOCS]
ONE_SCREEN = 66  # lines
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_RUN = re.compile(r"chaos (?:run|validate) (experiments/\S+\.json)(.*)")
_VARIABLE = re.compile(r"--var (\w+)=")
_ONES_OWN = {"experiments/zone-at-peak.json"}  # what a guide has its reader write


def links(page: Path) -> list[str]:
    return _LINK.findall(page.read_text(encoding="utf-8"))


def code(text: str) -> set[str]:
    """Every word that stands in code font."""
    return {word for said in _CODE.findall(text) for word in re.findall(r"[\w.-]+", said)}


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in links(page):
            if not link.startswith(("http://", "https://", "#")):
                assert (page.parent / link.partition("#")[0]).exists(), f"{page.name}: {link}"


def test_experiments_and_variables_that_are_told_exist() -> None:
    seen = 0
    for page in PAGES:
        text = re.sub(r" \\\n\s*", " ", page.read_text(encoding="utf-8"))  # lines that go on
        for path, rest in _RUN.findall(text):
            if path in _ONES_OWN:
                continue
            known = json.loads((ROOT / path).read_text())["configuration"]
            for variable in _VARIABLE.findall(rest):
                assert variable in known, f"{page.name}: {path} lists no {variable}: it is ignored"
            seen += 1
    assert seen > 20


def test_subcommands_and_options_that_are_told_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, rest in re.findall(r"(?:bin/|`|\$ )aftershock ([a-z]+)([^`\n#]*)", text):
            command: Any = commands.commands[name]
            deeper = getattr(command, "commands", {}).get(next(iter(rest.split()), ""))
            known = {option for one in (deeper or command).params for option in one.opts}
            for option in re.findall(r"--[a-z-]+", rest):
                assert option in known, f"{page.name}: aftershock {name} knows no {option}"


def test_the_readmes_are_one_screen_and_tell_the_same() -> None:
    english, chinese = (page.read_text(encoding="utf-8") for page in (ENGLISH, CHINESE))
    assert links(ENGLISH)[0] == CHINESE.name and links(CHINESE)[0] == ENGLISH.name
    assert links(ENGLISH)[1:] == links(CHINESE)[1:]
    plain = [
        [
            line.split("#")[0].strip()
            for _, block in _BLOCK.findall(text)
            for line in block.split("\n")
        ]
        for text in (english, chinese)
    ]
    assert plain[0] == plain[1] and len(plain[0]) > 10
    assert _heads(english) == _heads(chinese)
    for text in (english, chinese):
        assert len(text.splitlines()) <= ONE_SCREEN
    picture = ROOT / "docs/report.png"
    assert 20_000 < picture.stat().st_size < 200_000 and "docs/report.png" in links(ENGLISH)


def _heads(text: str) -> list[int]:
    return [len(line.split()[0]) for line in text.splitlines() if line.startswith("#")]


def test_every_page_is_found_from_the_readme() -> None:
    found, ahead = set(), [ENGLISH]
    while ahead:
        page = ahead.pop()
        found.add(page)
        text = page.read_text(encoding="utf-8")
        told = {ROOT / "docs" / name for name in re.findall(r"\b([\w-]+\.md)\b", text)}
        ahead += [one for one in told if one in DOCS and one not in found]
    assert not set(DOCS) - found


def test_every_experiment_and_every_variable_is_told() -> None:
    told = code("\n".join(page.read_text(encoding="utf-8") for page in DOCS))
    for path in sorted((ROOT / "experiments").rglob("*.json")):
        if path.name in _ONES_OWN:
            continue
        assert path.name in told, f"nothing tells what {path.name} is"
        for variable in json.loads(path.read_text())["configuration"]:
            assert variable in told, f"{path.name}: nothing tells what {variable} is"
    for setting in Settings.__dataclass_fields__:
        assert setting in told, f"nothing tells what the setting {setting} is"


def test_defaults_in_the_table_are_those_of_the_code() -> None:
    text = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `?([^|`]*)`? \| ", text, re.MULTILINE)
    held = {name: said.strip() for name, said in rows if name in Settings.__dataclass_fields__}
    assert len(held) > 20
    for name, said in held.items():
        default = getattr(Settings(), name)
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        assert said == shown.removesuffix(".0"), f"{name}: {said!r} is told, {default!r} is so"


def test_every_field_of_a_verdict_is_defined() -> None:
    told = code((ROOT / "docs/definitions.md").read_text(encoding="utf-8"))
    assert not set(FIELDS) - told
    assert not set(INDICATORS) - told


def table(text: str, head: str) -> list[list[str]]:
    """The rows of the table that begins with this, cell by cell."""
    lines = text.partition(head)[2].splitlines()[2:]
    rows = takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_claims_that_are_told_are_those_of_the_code() -> None:
    text = (ROOT / "docs/definitions.md").read_text(encoding="utf-8")
    rows = table(text, "| claim | clean runs from nothing | with one miss, in all |")
    assert len(rows) == 3
    for claim, none, one in rows:
        share, confidence = (int(percent) / 100 for percent in re.findall(r"(\d+) %", claim))
        assert clean_runs_needed(0, 0, share, confidence) == int(none), claim
        assert 1 + (clean_runs_needed(0, 1, share, confidence) or 0) == int(one), claim


def test_the_errors_that_are_told_are_those_of_the_model() -> None:
    text = (ROOT / "docs/definitions.md").read_text(encoding="utf-8")
    rows = table(text, "| samples a second | all requests fail | a third | a tenth |")
    assert len(rows) == 2
    for rate, *told in rows:
        for share, said in zip((1.0, 1 / 3, 0.1), told, strict=True):
            claimed = float(re.findall(r"[\d.]+", said)[0])
            assert median(_errors_s(int(rate), share)) == pytest.approx(claimed, rel=0.25), said


def _errors_s(rate: int, share: float) -> Iterator[float]:
    """Of the ends of outages of two to three seconds, in which a share of requests fails."""
    chance = random.Random(7)
    times = [n / rate for n in range(10 * rate)]
    for _ in range(25):
        end = 2 + chance.random()
        bad = [int(at < end and chance.random() < share) for at in times]
        if sum(bad) > 1:
            seen = Outcomes(times, [1] * len(times), bad)
            yield locate(seen, (0, 60 * rate), 0, 10).ended.error


def test_every_reason_code_is_told_with_its_stage_and_word() -> None:
    """All that the verdict's stages may yield as a code, by the stage that yields it; no other."""
    functions = {}
    for module, prefix in (("verdict", ""), ("enduring", "enduring.")):
        tree = ast.parse((ROOT / f"src/aftershock/slo/{module}.py").read_text())
        found = (one for one in tree.body if isinstance(one, ast.FunctionDef))
        functions |= {prefix + one.name: one for one in found}

    def codes(name: str) -> Iterator[str]:
        for node in ast.walk(functions[name]):
            if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
                yield ast.literal_eval(node.value.elts[0])
            elif isinstance(node, ast.YieldFrom) and isinstance(node.value, ast.Call):
                yield from codes(ast.unparse(node.value.func))

    held = {
        (number, word, code)
        for number, (word, stage) in enumerate(verdict._STAGES, 1)
        for code in codes(stage.__name__)
    }
    assert len(held) > 25
    told, number, word = set(), "", ""
    text = (ROOT / "docs/definitions.md").read_text(encoding="utf-8")
    for row in table(text, "| stage | word | code | when |"):
        number, word = row[0] or number, row[1] or word
        told |= {(int(number), word, code) for code in _CODE.findall(row[2])}
    assert told == held


def test_the_guides_experiment_is_valid() -> None:
    """az-failure.json with what the guide changes is what Chaos Toolkit accepts."""
    text = (ROOT / "docs/write-an-experiment.md").read_text(encoding="utf-8")
    pieces = [json.loads(block.strip().rstrip(",")) for kind, block in _whole(text) if kind]
    experiment = json.loads((ROOT / "experiments/az-failure.json").read_text())
    known = set(experiment["configuration"])
    for piece in pieces:
        if "method" in piece or "title" in piece:
            experiment |= piece
        else:
            experiment["configuration"] |= piece
    assert len(experiment["method"]) == 6 and "peak" in experiment["title"]
    assert set(experiment["configuration"]) - known == {"add_rps"}
    used = set(re.findall(r"\$\{(\w+)\}", json.dumps(experiment["method"])))
    assert used <= set(experiment["configuration"])
    ensure_experiment_is_valid(experiment)


def _whole(text: str) -> list[tuple[str, str]]:
    """JSON blocks as values; lines of an object without its braces get them."""
    found = [(kind, block) for kind, block in _BLOCK.findall(text) if kind == "json"]
    return [(k, b if b.startswith("{") else f"{{{b.strip().rstrip(',')}}}") for k, b in found]


def test_the_page_on_reports_names_every_form() -> None:
    told = code((ROOT / "docs/reports.md").read_text(encoding="utf-8"))
    assert set(FORMS) | set(PICTURES) <= told


def test_both_readmes_lead_to_every_page() -> None:
    found = [{link for link in links(page) if link.endswith(".md")} for page in (ENGLISH, CHINESE)]
    assert found[0] - {CHINESE.name} == found[1] - {ENGLISH.name}
    assert {f"docs/{page.name}" for page in DOCS} <= found[0]
