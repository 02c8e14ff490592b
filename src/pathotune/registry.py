"""Tables of things that can be chosen by name: listing is free, importing happens on first use."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pathotune.errors import UnknownName


@dataclass(frozen=True)
class Entry:
    """One row of a table: its name, the facts to show, and where its code lies ("package.module:attribute")."""

    name: str
    target: str
    title: str = ""
    facts: Mapping[str, Any] | None = None

    def load(self) -> Any:
        """Import and return the object the entry points at."""
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


class Table:
    """Names to entries, in the order they were added.

    Parameters
    ----------
    kind : what a row is ("method", "slide reader"), used in error sentences.
    """

    def __init__(self, kind: str, entries: tuple[Entry, ...] = ()) -> None:
        self.kind = kind
        self._entries = {entry.name: entry for entry in entries}

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Entry:
        """The entry of that name; raises `UnknownName` with the known ones."""
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries)
        return self._entries[name]

    def add(self, entry: Entry) -> None:
        """Add one entry; the same name replaces."""
        self._entries[entry.name] = entry

    def entries(self) -> tuple[Entry, ...]:
        """All entries."""
        return tuple(self._entries.values())

    def load(self, name: str) -> Any:
        """Import and return the object called `name`."""
        return self[name].load()
