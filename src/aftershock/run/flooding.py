"""The engines' KV cache is filled by long requests, and then they are let go: does it come back?

The requests come from a generator beside the load, are none of the load's own, and are cut at the
end, as by clients that give up. Recovery is counted from there, what is usual from before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aftershock import run as runs
from aftershock import vllm
from aftershock.errors import InvalidFault, NotApplied
from aftershock.evidence import Piece
from aftershock.load.generator import Generator
from aftershock.load.lengths import Lengths
from aftershock.load.settings import Stage
from aftershock.run import engines, wording
from aftershock.run.judging import T_DISTURBED
from aftershock.run.surge import Surge
from aftershock.slo.timeline import Timeline

if TYPE_CHECKING:
    from aftershock.run.session import Run

KIND = "kv-cache-exhaustion"
FULL = 0.95
_LOOK_S = 0.5
_LONGEST_S = 3600.0
_WHO = "the engines"
Told = dict[str, Any]


def exhaust_kv_cache(words: Mapping[str, Any], streamed: Any) -> Told:
    """See `aftershock.actions.load.exhaust_kv_cache`."""
    run = runs.current()
    told = {name: wording.number(name, value) for name, value in words.items()}
    flood = Flood(run, told, wording.truth("streamed", streamed))
    return run.breaking.inject(lambda _: [flood], watched=True)


class Flood(Surge):
    """The life of a flood, as a run sees its injections: over as soon as it was fired."""

    def __init__(self, run: Run, told: Mapping[str, float], streamed: bool) -> None:
        super().__init__(run, told["add_rps"], told["within_s"])
        for name, least in (("prompt_tokens", 1), ("output_tokens", 1), ("hold_s", 0.5)):
            if not least <= told[name] <= 1_000_000:
                raise InvalidFault(f"{name} is {told[name]:g}: {least:g} or more")
        if told["within_s"] > _LONGEST_S:
            raise InvalidFault(f"within_s is {told['within_s']:g}: {_LONGEST_S:g} at most")
        self._told, self._streamed = dict(told), streamed
        self._own = Timeline()  # the flood's requests are the fault, not the load that is judged
        self._most = {"usage": 0.0, "waiting": 0.0, "preempted": 0.0}
        self._exhausted = False

    def touches(self) -> list[str]:
        """What it would do, in a dry run's words."""
        told = self._told
        asked = f"{told['prompt_tokens']:g} + {told['output_tokens']:g} tokens"
        longest_s = self.lease_s + told["hold_s"]
        return [
            f"the engines' KV caches: {self.add_rps:g} requests/s more of {asked}, "
            f"{longest_s:g} s at most"
        ]

    def arm(self) -> None:
        """Nothing is felt before the firing."""
        base = self._run.load.generator
        assert base is not None
        prompt, output = (
            Lengths("fixed", low=int(self._told[name]))
            for name in ("prompt_tokens", "output_tokens")
        )
        told = replace(
            base.settings,
            stages=(Stage(self.lease_s + self._told["hold_s"], self.add_rps),),
            seed=base.settings.seed + 1,
            trace="",
            prompts=("long",),
            prompt_tokens=prompt,
            output_tokens=output,
            ignore_eos=True,
            stream_share=1.0 if self._streamed else 0.0,
            processes=1,
            retries=0,
            timeout_s=_LONGEST_S,
        )
        self._generator = Generator(told)

    def fire(self) -> float:
        """Fill the caches, keep them full for a while, and let go; the moment of that."""
        assert self._generator is not None
        before = self._pages()
        self._run.timeline.mark(T_DISTURBED)
        self._run.phase("flooding")
        try:
            self._generator.start(self._own)
            self._generator.wait_until_sending()
            self._fill(before)
        finally:
            self._generator.stop()
        self.fired_at = time.monotonic()
        self.reverted = True
        return self.fired_at

    def _fill(self, before: Mapping[str, vllm.Page]) -> None:
        assert self._generator is not None
        limit, full_until = time.monotonic() + self.lease_s, None
        while time.monotonic() < (full_until or limit):
            if not self._generator.alive():
                raise NotApplied(f"the flood ended: {self._generator.said or 'it said nothing'}")
            self._run.load.check_alive()
            if self._look_at(before) and full_until is None:
                self._exhausted, full_until = True, time.monotonic() + self._told["hold_s"]
                self._run.console.say("full", "; ".join(one.seen for one in self._told_pieces()))
            time.sleep(_LOOK_S)

    def _look_at(self, before: Mapping[str, vllm.Page]) -> bool:
        """Whether a cache is full, and requests suffer from that, at the same time."""
        now = self._pages()
        usage = max(page.number("kv_cache_usage") for page in now.values())
        waiting = vllm.total("waiting", now.values())
        risen = [
            page.number("preemptions") - before[name].number("preemptions")
            for name, page in now.items()
            if name in before
        ]
        preempted = sum(max(0.0, one) for one in risen)
        for name, value in (("usage", usage), ("waiting", waiting), ("preempted", preempted)):
            self._most[name] = max(self._most[name], value)
        return usage >= FULL and (waiting > 0 or preempted > 0)

    def _pages(self) -> dict[str, vllm.Page]:
        return engines.pages(self._run, "all", 0)

    def _told_pieces(self) -> list[Piece]:
        most = self._most
        full = f"the fullest KV cache was {100 * most['usage']:.0f} % used"
        short = f"{most['waiting']:.0f} requests waited, {most['preempted']:.0f} were preempted"
        return [
            Piece("kv-full", _WHO, most["usage"] >= FULL, full),
            Piece("kv-short", _WHO, self._exhausted, short),
        ]

    def observe(self) -> Told:
        """What the engines told while it lasted."""
        self._pieces = self._told_pieces()
        return self._evidence()

    def to_dict(self) -> Told:
        """Plain data for the journal, in the words of every injection."""
        told = super().to_dict()
        return {
            **told,
            "fault": KIND,
            "parameters": {**self._told, "streamed": self._streamed},
            "momentary": True,
            "healed_early": False,
        }
