"""A process of its own tries what a limit forbids: the effect, and not the number, is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Dict, List, Optional

from . import cgroups
from .errors import AgentError


def ask_another(verb: str, told: List[Any], within_s: Optional[float] = None) -> Dict[str, Any]:
    """What a process of our own program finds, which holds nothing and traces nobody."""
    words = [sys.executable, "-I", "-S", sys.argv[0], verb, json.dumps(told)]
    pipes: Dict[str, Any] = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(words, check=False, timeout=within_s, **pipes)
    except subprocess.TimeoutExpired:
        raise AgentError(f"who was to {verb} did not end within {within_s} s") from None
    if done.returncode:
        raise AgentError(f"who was to {verb} did not start, or failed: is the host out of memory?")
    answer: Dict[str, Any] = json.loads(done.stdout)
    return answer


def fork_in(path: str, count: int) -> Dict[str, Any]:
    """How many processes could be begun in a cgroup, as one that goes there for it sees.

    `begun`, at most `count`, with the one that tries; `said`: what the kernel said to the next.
    """
    return ask_another("fork", [str(cgroups.find("pids", path).folder), count])


def main(told: str) -> None:
    """Go there, which no limit forbids, and fork; the children wait for our end."""
    folder, count = json.loads(told)
    children: List[int] = []
    said = ""
    ours, theirs = os.pipe()
    try:
        cgroups.join([folder])
        while len(children) < count:
            child = os.fork()
            if not child:
                os.close(theirs)
                os.read(ours, 1)
                os._exit(0)
            children.append(child)
    except OSError as error:
        said = os.strerror(error.errno or 0)
    os.close(theirs)
    for child in children:
        os.waitpid(child, 0)
    print(json.dumps({"begun": len(children), "said": said}))
