"""A YAML file's text as mappings whose values know their lines: errors name file and line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aftershock.errors import InvalidInput


@dataclass(frozen=True)
class Said:
    """A value of the file, and where it stands."""

    value: Any
    line: int


class File:
    """A file's text as mappings whose values know their lines.

    `what` it is, `mend`: what to give when it can't be read, `guide`: where an example is.
    """

    def __init__(
        self,
        path: Path,
        what: str = "target",
        mend: str = "give 'lab' or the path of an inventory file",
        guide: str = "docs/inventory.md",
    ) -> None:
        self.path, self._what, self._mend, self._guide = path, what, mend, guide

    def wrong(self, line: int, sentence: str) -> InvalidInput:
        """One sentence, with the place in front."""
        return InvalidInput(f"{self.path}, line {line}: {sentence}")

    def read(self) -> Said:
        """The whole file."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it isn't UTF-8 text"
            raise InvalidInput(f"{self._what} {str(self.path)!r}: {reason}; {self._mend}") from None
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            raise self._garbled(error, text) from None
        if root is None:
            raise self.wrong(1, f"the file is empty: see {self._guide} for an example")
        return self._said(root)

    def _garbled(self, error: yaml.MarkedYAMLError, text: str) -> InvalidInput:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        lines = text.splitlines()
        if "\t" in (lines[line - 1] if line <= len(lines) else ""):
            return self.wrong(line, "a tab: YAML indents with spaces only, so replace it by some")
        return self.wrong(line, f"not YAML: {error.problem}: check quotes and indentation here")

    def _said(self, node: yaml.Node) -> Said:
        line = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return Said(dict(self._pairs(node)), line)
        if isinstance(node, yaml.SequenceNode):
            return Said([self._said(item) for item in node.value], line)
        loader = yaml.SafeLoader("")
        try:
            return Said(loader.construct_object(node), line)
        except (yaml.YAMLError, ValueError):
            raise self.wrong(line, f"{node.value!r} can't be read: put it in quotes") from None
        finally:
            loader.dispose()

    def _pairs(self, node: yaml.MappingNode) -> Iterator[tuple[str, Said]]:
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise self.wrong(line, "a key is a word: check the indentation")
            if key.value in seen:
                raise self.wrong(line, f"{key.value!r} is in line {seen[key.value]} already")
            seen[key.value] = line
            yield key.value, self._said(value)


class Block:
    """One mapping of the file; what is asked for is checked, what is left over is refused."""

    def __init__(self, file: File, said: Said, what: str, known: tuple[str, ...]) -> None:
        if not isinstance(said.value, Mapping):
            raise file.wrong(said.line, f"{what} is a mapping of keys: {', '.join(known)}")
        self.file, self.line, self.what = file, said.line, what
        self._said: dict[str, Said] = {k: v for k, v in said.value.items() if v.value is not None}
        for name, value in said.value.items():
            if name not in known:
                raise file.wrong(value.line, f"{what}: {unknown_key(name, known)}")

    def __contains__(self, name: str) -> bool:
        return name in self._said

    def at(self, name: str) -> int:
        """The line of a key."""
        return self._said[name].line if name in self._said else self.line

    def wrong(self, name: str, sentence: str) -> InvalidInput:
        """What is wrong with a key."""
        return self.file.wrong(self.at(name), f"{self.what}: {sentence}")

    def raw(self, name: str) -> Said | None:
        """A value as it stands."""
        return self._said.get(name)

    def word(self, name: str) -> str | None:
        """A text; an empty one says nothing."""
        if (said := self.raw(name)) is None or said.value == "":
            return None
        if not isinstance(said.value, str) or not said.value.strip():
            raise self.wrong(name, f"{name} is {said.value!r}: give a text (in quotes, if need be)")
        return said.value.strip()

    def needed(self, name: str, mend: str) -> str:
        """A text that must be there."""
        if (word := self.word(name)) is None:
            raise self.wrong(name, f"no {name}: {mend}")
        return word

    def number(self, name: str, low: float, high: float, kind: type = int) -> Any:
        """A number within a range."""
        if (said := self.raw(name)) is None:
            return None
        fits = isinstance(said.value, (int, kind)) and not isinstance(said.value, bool)
        if not fits or not low <= said.value <= high:
            raise self.wrong(name, f"{name} is {said.value!r}: give {low:g} to {high:g}")
        return kind(said.value)

    def truth(self, name: str) -> bool | None:
        """true or false."""
        said = self.raw(name)
        if said is not None and not isinstance(said.value, bool):
            raise self.wrong(name, f"{name} is {said.value!r}: give true or false")
        return said.value if said else None

    def words(self, name: str) -> tuple[str, ...]:
        """Texts: one, or a list of them."""
        if (said := self.raw(name)) is None:
            return ()
        values = said.value if isinstance(said.value, list) else [said]
        for one in values:
            if not isinstance(one.value, str) or not one.value.strip():
                raise self.file.wrong(
                    one.line, f"{self.what}: {name} has {one.value!r}: give texts (in quotes)"
                )
        return tuple(one.value.strip() for one in values)

    def path(self, name: str) -> str | None:
        """A file that is there; relative to the inventory's own folder."""
        if (word := self.word(name)) is None:
            return None
        path = self.file.path.absolute().parent / Path(word).expanduser()
        if not path.is_file():
            raise self.wrong(name, f"{name}: there is no file {path}: give the path of one")
        return str(path)


def unknown_key(name: str, known: tuple[str, ...]) -> str:
    """What is wrong with a key that nobody knows."""
    if name == "password":
        return "a password has no place in a file: name a variable of the environment, password_env"
    near = difflib.get_close_matches(name, known, 1)
    mend = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {name!r}: {mend}"
