"""A config's fields as options: from `key=value` text and from plain dicts, checked against type, choices and range."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pathotune.errors import UnknownName, UsageError

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Option:
    """One field of a config: its type, choices, range, default and the sentence that explains it."""

    name: str
    kind: type
    default: Any
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    tooltip: str = ""


def options_of(config_class: type) -> dict[str, Option]:
    """The fields of a config dataclass, in order."""
    hints = get_type_hints(config_class, include_extras=True)
    found = {}
    for field in dataclasses.fields(config_class):
        hint, facts = hints[field.name], {}
        if get_origin(hint) is Annotated:
            hint, facts = get_args(hint)[0], get_args(hint)[1]
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        kind = type(choices[0]) if choices else hint
        found[field.name] = Option(
            field.name,
            kind,
            field.default,
            choices,
            facts.get("min"),
            facts.get("max"),
            facts.get("tooltip", ""),
        )
    return found


def parse_settings(pairs: Iterable[str]) -> dict[str, str]:
    """`["tvp_tokens=5", …]` as a dict; raises UsageError for one without "="."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes key=value, not {pair!r}.")
        settings[key.strip()] = value.strip()
    return settings


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """A copy of the config with fields replaced; text is turned into the field's type.

    Raises
    ------
    UnknownName
        No such field; lists the known ones.
    UsageError
        A value of the wrong type, not among the choices, or out of range; says what would do.
    """
    known = options_of(type(config))
    changes = {}
    for name, value in settings.items():
        if name not in known:
            raise UnknownName("setting", name, known)
        changes[name] = _converted(known[name], value)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _converted(option: Option, value: Any) -> Any:
    if option.kind is bool:
        return _as_bool(option, value)
    if option.kind in (int, float) and not isinstance(value, bool):
        return _as_number(option, value)
    value = option.kind(value)
    if option.choices and value not in option.choices:
        raise UsageError(f"{option.name} can be {', '.join(map(str, option.choices))}, not {value!r}.")
    return value


def _as_bool(option: Option, value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    word = str(value).strip().lower()
    if word not in words:
        raise UsageError(f"{option.name} is a switch: true or false, not {value!r}.")
    return words[word]


def _as_number(option: Option, value: Any) -> int | float:
    kind = "whole number" if option.kind is int else "number"
    try:
        number = option.kind(value) if not isinstance(value, float) else option.kind(_whole(option, value))
    except (TypeError, ValueError):
        raise UsageError(f"{option.name} is a {kind}, not {value!r}.") from None
    low, high = option.minimum, option.maximum
    if number != number or (low is not None and number < low) or (high is not None and number > high):
        nearest = high if high is not None and number > high else low
        bounds = f"between {low} and {high}" if low is not None and high is not None else f"at least {low}"
        raise UsageError(f"{option.name} must be {bounds}, not {value!r}. The nearest that will do is {nearest}.")
    return number  # type: ignore[no-any-return]


def _whole(option: Option, value: float) -> float:
    """The value itself; a fraction where a whole number is wanted raises ValueError."""
    if option.kind is int and value != int(value):
        raise ValueError(value)
    return value


def as_plain(config: Any) -> dict[str, Any]:
    """The config as a JSON-ready dict."""
    return dataclasses.asdict(config)
