"""Debian's packages by name, unpacked and not installed: of this machine's release, or another.

Of another release only the lists are fetched, into a folder of ours, from where this machine's own
come from and by the same keys: nothing that the machine has or would install changes by it.
"""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_WHERE = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(CODENAME)|$(REPO_URI)"


class Missing(Exception):
    """Something that a guest needs and that can't be had here."""


class Package(NamedTuple):
    """A package and where it is: in this machine's own release unless another is named."""

    name: str
    release: str = ""

    def __str__(self) -> str:
        return f"{self.name} of {self.release}" if self.release else self.name


class Release:
    """One release's packages."""

    def __init__(self, name: str, folder: Path) -> None:
        self._options: list[str] = []
        if name:
            self._options = _options(name, folder)
            run("apt-get", *self._options, "update", "-qq")

    def version_of(self, asked: str) -> tuple[str, str]:
        """The package that brings what is asked for, or that this depends on, and its version."""
        said = [self._ask(word, asked) for word in ("depends", "policy")]
        if found := re.search(r"Depends: (linux-image-(\d\S+))", said[0]):
            return found[1], found[2]
        if found := re.search(r"Candidate: (\d[\d.]+)", said[1]):
            return asked, found[1]
        raise Missing("there is no such package")

    def unpack(self, package: str, folder: Path) -> Path:
        """Download a package and unpack it; where its files are then."""
        run("apt-get", *self._options, "download", "-qq", package, cwd=folder)
        (archive,) = folder.glob(f"{package}_*.deb")
        tree = folder / package
        run("dpkg", "-x", str(archive), str(tree))
        archive.unlink()
        return tree

    def _ask(self, word: str, package: str) -> str:
        return run("apt-cache", *self._options, word, package)


def _options(name: str, folder: Path) -> list[str]:
    """What makes apt look at another release, in a folder of ours."""
    listed = run("apt-get", "indextargets", "--format", _WHERE, "Created-By: Packages")
    rows = [line.split("|") for line in listed.splitlines()]
    found = [row[4] for row in rows if row[:3] == ["Debian"] * 2 + ["main"] and "-" not in row[3]]
    if not found or not Path(_KEYS).exists():
        raise Missing("this machine has no source of Debian's, or no keys of it")
    (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (folder / "sources").write_text(f"deb [signed-by={_KEYS}] {found[0]} {name} main\n")
    ways = {
        "Dir::Etc::sourcelist": folder / "sources",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder,
    }
    return [word for key, value in ways.items() for word in ("-o", f"{key}={value}")]


def install(packages: list[str]) -> None:
    """Install packages of this machine's own release."""
    print(f"installing from Debian: {' '.join(packages)}", flush=True)
    run("apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages)


def run(*words: str, cwd: Path | None = None) -> str:
    """What a command says; Missing, with its last line, when it fails."""
    done = subprocess.run(
        words,
        check=False,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    if done.returncode:
        said = done.stdout.strip().splitlines()
        raise Missing(f"{' '.join(words)}: {said[-1] if said else f'ended {done.returncode}'}")
    return done.stdout
