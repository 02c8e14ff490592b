"""What commonly goes wrong on a computer, each tried for real, with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "note", "trouble"]


@dataclass(frozen=True)
class Finding:
    """One thing that was tried.

    name : what.
    state : "ok"; "note" for what only some need; "trouble" for what stops work.
    text : what was found.
    fix : what to do; "" where nothing is.
    """

    name: str
    state: State
    text: str
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"name": self.name, "state": self.state, "text": self.text, "fix": self.fix}


def examine() -> Iterator[Finding]:
    """Everything that is tried, one after the other; a check that fails itself is a finding, too."""
    from pathotune.diagnosis import machine, models, reading, viewing

    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        machine.check_python,
        machine.check_packages,
        machine.check_memory,
        machine.check_folders,
        reading.check_readers,
        models.check_torch,
        models.check_devices,
        models.check_libraries,
        models.check_backbones,
        models.check_hub,
        viewing.check_viewer,
        viewing.check_screen,
        viewing.check_other_readers,
    )
    for check in checks:
        try:
            yield from map(_without_home, check())
        except Exception as error:  # whatever a broken installation throws is what one wants to know
            name = check.__name__.removeprefix("check_").replace("_", " ")
            text = f"the check itself failed ({type(error).__name__}: {error})"
            fix = "Install pathotune again in an environment of its own."
            yield _without_home(Finding(name, "trouble", text, fix))


def _without_home(finding: Finding) -> Finding:
    """The finding without the folder that says whose computer it is: a report may be passed on."""
    try:
        home = str(Path.home())
    except RuntimeError:
        return finding
    if len(home) < 2:
        return finding
    return replace(finding, text=finding.text.replace(home, "~"), fix=finding.fix.replace(home, "~"))
