"""Are answers as good as before the fault? Golden prompts, compared with the same run's baseline.

Whether an answer came at all is judged elsewhere; here counts what it says. Pure functions.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from itertools import combinations
from math import comb, inf
from typing import Any

from aftershock.load.answers import repeated
from aftershock.load.golden import PROMPTS

Scorer = Callable[[str, Sequence[str], str], float]  # prompt, the baseline's answers, an answer
PHASES = ("before", "during", "after")
FEWEST = 8  # samples of a phase that something can be told from
_ENOUGH = 0.5  # of a user's score
_UNLIKE, _MARGIN = 0.3, 0.2  # less alike is another answer; so much less than the baseline's own
_SHORT = 0.5  # of the baseline's shortest answer
_MOST_KNOWN = 20  # different answers to a prompt
_RARE = 0.001  # so seldom chance alone has so few right answers
_CHANCE = 0.02  # of a phase's answers may be bad beyond the baseline's share
_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "LATIN", "CYRILLIC", "ARABIC", "GREEK")


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to the golden prompt of that number. `kind`: why there is none, "" if there is."""

    at: float
    prompt: int
    replica: str
    text: str
    kind: str = ""


def script_of(text: str) -> str:
    """The script of most of a text's letters, "" without any; Japanese has its own letters."""
    counts: Counter[str] = Counter()
    for letter in text:
        if letter.isalpha():
            word = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
            counts[word if word in _SCRIPTS else "OTHER"] += 1
    if counts["HIRAGANA"] + counts["KATAKANA"] > 0.1 * counts.total():
        return "JAPANESE"
    return counts.most_common(1)[0][0] if counts else ""


def alike(one: str, other: str) -> float:
    """How much of two texts is the same in the same order, 0 to 1: by words, or by letters."""
    first, second = (text.split() if " " in text.strip() else list(text) for text in (one, other))
    return float(SequenceMatcher(None, first, second, autojunk=False).ratio())


@dataclass(frozen=True)
class Baseline:
    """What was answered to one prompt before the fault. `exact`: the engine promises the same."""

    texts: tuple[str, ...]
    exact: bool
    answered: bool  # the known answer was in all of them

    @cached_property
    def least_alike(self) -> float:
        """How unlike two answers of the baseline are at most."""
        return min((alike(one, other) for one, other in combinations(self.texts, 2)), default=1.0)

    def odd(self) -> int:
        """How many of its answers would be bad by the others."""
        others = ((text, tuple(t for t in self.texts if t != text)) for text in self.texts)
        return sum(
            bool(rest) and max(alike(text, other) for other in rest) < _UNLIKE
            for text, rest in others
        )

    def wrong(self, prompt: int, text: str, scorer: Scorer | None) -> str:
        """What is wrong with an answer, "" if nothing is."""
        if text in self.texts:
            return ""
        return self._broken(prompt, text) or self._worse(prompt, text, scorer)

    def _broken(self, prompt: int, text: str) -> str:
        """What no answer to this prompt is."""
        scripts = {script_of(known) for known in self.texts}
        checks = (
            ("empty", not text.strip()),
            ("garbled", "�" in text.rstrip("�")),
            ("repetition", repeated(text) and not any(map(repeated, self.texts))),
            ("wrong language", script_of(text) not in scripts),
            ("wrong answer", self.answered and PROMPTS[prompt].answer not in text),
            ("shortened", len(text) < _SHORT * min(map(len, self.texts))),
        )
        return next((name for name, found in checks if found), "")

    def _worse(self, prompt: int, text: str, scorer: Scorer | None) -> str:
        if scorer is not None:
            low = float(scorer(PROMPTS[prompt].text, self.texts, text)) < _ENOUGH
            return "low score" if low else ""
        if self.exact:
            return "not the same"
        likest = max(alike(text, known) for known in self.texts)
        return "another answer" if likest < max(_UNLIKE, self.least_alike - _MARGIN) else ""


def baselines(samples: Sequence[Sample], until: float, exact: bool) -> dict[int, Baseline]:
    """What each prompt was answered before a moment."""
    texts: dict[int, dict[str, None]] = defaultdict(dict)
    for sample in samples:
        known = texts[sample.prompt]
        usable = sample.at < until and not sample.kind and sample.text.strip()
        if usable and len(known) < _MOST_KNOWN:
            known[sample.text] = None
    return {
        prompt: Baseline(
            tuple(found),
            # Who gave two answers before can't be held to one.
            exact and len(found) == 1,
            bool(PROMPTS[prompt].answer) and all(PROMPTS[prompt].answer in t for t in found),
        )
        for prompt, found in texts.items()
        if found
    }


def judge(
    samples: Sequence[Sample],
    t_effect: float | None,
    t_healed: float | None,
    *,
    exact: bool,
    scorer: Scorer | None = None,
) -> dict[str, Any]:
    """Counts by phase, and `dropped`: one sentence when answers got worse, else "".

    `unmeasured`: why nothing can be told. Empty without samples.
    """
    if not samples:
        return {}
    effect = inf if t_effect is None else t_effect
    healed = inf if t_healed is None else t_healed
    known = baselines(samples, effect, exact)
    rows: dict[str, list[tuple[Sample, str]]] = {phase: [] for phase in PHASES}
    unanswered = 0
    for sample in samples:
        if sample.kind or sample.prompt not in known:
            unanswered += 1
            continue
        phase = "before" if sample.at < effect else "during" if sample.at < healed else "after"
        wrong = known[sample.prompt].wrong(sample.prompt, sample.text, scorer)
        rows[phase].append((sample, wrong))
    found: dict[str, Any] = {phase: _counted(rows[phase]) for phase in PHASES}
    found |= {"exact": exact, "prompts": len(known), "unanswered": unanswered}
    found["dropped"] = _dropped(rows, known)
    found["unmeasured"] = _unmeasured(rows, t_effect)
    found["worst"] = [
        {
            "replica": s.replica,
            "prompt": PROMPTS[s.prompt].text,
            "wrong": wrong,
            "text": s.text[:200],
        }
        for phase in ("during", "after")
        for s, wrong in rows[phase]
        if wrong
    ][:20]
    return found


def _counted(rows: Sequence[tuple[Sample, str]]) -> dict[str, Any]:
    bad = [(sample, wrong) for sample, wrong in rows if wrong]
    known = ((PROMPTS[sample.prompt].answer, sample.text) for sample, _ in rows)
    right = [answer in text for answer, text in known if answer]
    return {
        "answers": len(rows),
        "bad": len(bad),
        "questions": len(right),
        "right": sum(right),
        "kinds": dict(Counter(wrong for _, wrong in bad)),
        "by_replica": dict(Counter(sample.replica or "?" for sample, _ in bad)),
        "by_family": dict(Counter(PROMPTS[sample.prompt].family for sample, _ in bad)),
    }


def _dropped(
    rows: Mapping[str, Sequence[tuple[Sample, str]]], known: Mapping[int, Baseline]
) -> str:
    """Where no exact answers are promised, as much is allowed as was odd in the baseline."""
    before = len(rows["before"])
    odd = sum(base.odd() for base in known.values())
    allowed = _CHANCE
    if not all(base.exact for base in known.values()):
        allowed += (odd + 1) / (before + 2)
    for phase in ("during", "after"):
        told = _counted(rows[phase])
        if told["bad"] >= 2 and told["bad"] > allowed * told["answers"]:
            kinds = ", ".join(f"{kind} {count}" for kind, count in told["kinds"].items())
            where = ", ".join(f"{name} {count}" for name, count in told["by_replica"].items())
            return (
                f"answers got worse {phase} the fault: {told['bad']} of {told['answers']} "
                f"({kinds}; by {where}), compared with {before} before it"
            )
    return _fewer_right({phase: _counted(rows[phase]) for phase in PHASES})


def _fewer_right(told: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether fewer questions were answered right than can be chance, however many were before."""
    before, asked = told["before"]["right"], told["before"]["questions"]
    for phase in ("during", "after"):
        right, questions = told[phase]["right"], told[phase]["questions"]
        if _as_few(right, questions, before, asked) < _RARE:
            return (
                f"fewer right answers {phase} the fault: {right} of {questions}, "
                f"{before} of {asked} before it"
            )
    return ""


def _as_few(right: int, questions: int, before: int, asked: int) -> float:
    """The chance of so few right ones, if they fall alike to both (Fisher's exact test)."""
    total, hits = questions + asked, right + before
    fewest = max(0, hits - asked)
    ways = sum(comb(hits, n) * comb(total - hits, questions - n) for n in range(fewest, right + 1))
    return ways / comb(total, questions)


def _unmeasured(rows: Mapping[str, Sequence[tuple[Sample, str]]], t_effect: float | None) -> str:
    if len(rows["before"]) < FEWEST:
        return f"{len(rows['before'])} golden answers before the fault: {FEWEST} are needed"
    later = len(rows["during"]) + len(rows["after"])
    if t_effect is not None and later < FEWEST:
        return f"{later} golden answers since the fault: {FEWEST} are needed"
    return ""
