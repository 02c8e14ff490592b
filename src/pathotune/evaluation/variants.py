"""Methods as one word each, with settings in brackets, so that ablations and controls stand beside what they ask of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from pathotune.errors import UsageError
from pathotune.methods import METHODS, load_config
from pathotune.methods.options import options_of, parse_settings

if TYPE_CHECKING:
    from pathotune.methods.base import MethodConfig

# Stands for every combination of PathoTune's prompt groups (Figure 4 of its paper).
EVERY = "*"
OFF = {"tvp": ("tvp_tokens", 0), "ttp": ("ttp", False), "ivp": ("ivp", "off")}
CONTROLS = {"random": "random vectors", "permuted": "permuted sentences"}


class Variant(NamedTuple):
    """A method with settings of its own."""

    name: str
    config: MethodConfig


def names_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Comma-separated names as a tuple without repeats; commas in brackets part settings, not names."""
    found: list[str] = []
    for text in texts:
        depth, word = 0, ""
        for letter in f"{text},":
            depth += {"[": 1, "]": -1}.get(letter, 0)
            if letter == "," and depth <= 0:
                found.append(word.strip())
                word = ""
            else:
                word += letter
        if word.strip():
            raise UsageError(f"{text!r} opens a bracket that it does not close.")
    return tuple(dict.fromkeys(word for word in found if word))


def expanded(words: Sequence[str]) -> tuple[str, ...]:
    """The words with every ``pathotune[*]`` replaced by its eight combinations of prompt groups.

    Settings beside the star hold for all eight.
    """
    found: list[str] = []
    for word in words:
        name, settings = _parts(word)
        if EVERY not in settings:
            found.append(word)
            continue
        if name != "pathotune":
            raise UsageError(f"{word!r}: * stands for PathoTune's prompt groups, which {name} does not have.")
        others = [setting for setting in settings if setting != EVERY]
        for on in product((True, False), repeat=len(OFF)):
            off = [f"{key}={_said(value)}" for (key, value), is_on in zip(OFF.values(), on, strict=True) if not is_on]
            found.append(_word(name, [*others, *off]))
    return tuple(dict.fromkeys(found))


def _said(value: Any) -> str:
    return "off" if value is False else str(value)


def _word(name: str, settings: Sequence[str]) -> str:
    return f"{name}[{','.join(settings)}]" if settings else name


def _parts(word: str) -> tuple[str, list[str]]:
    """ "cite[text=random]" or "cite:text=random" as the name and its settings."""
    name, bracket, rest = word.partition("[")
    if bracket:
        if not rest.endswith("]"):
            raise UsageError(f"{word!r} does not end with the bracket it opens.")
        return name.strip(), [part.strip() for part in rest[:-1].split(",") if part.strip()]
    name, *settings = (part.strip() for part in word.split(":"))
    return name, settings


def read_method(word: str) -> Variant:
    """ "pathotune[ivp=off,ttp=off]" as the method's name and its config.

    Any field of the config can stand there; "off" is also 0 for a number that switches something off.

    Raises
    ------
    UnknownName : no such method or setting.
    UsageError : a value that cannot be used.
    """
    name, settings = _parts(word)
    METHODS[name]  # an unknown name is told before its settings
    values: dict[str, Any] = dict(parse_settings(settings))
    known = options_of(type(load_config(name)))
    for key, value in values.items():
        if str(value).lower() == "off" and key in known and known[key].kind is int and known[key].minimum == 0:
            values[key] = 0
    return Variant(name, load_config(name, values))


def groups_on(config: MethodConfig) -> tuple[str, ...] | None:
    """Which of PathoTune's prompt groups are on; None for another method."""
    if not all(hasattr(config, key) for key, _ in OFF.values()):
        return None
    return tuple(group for group, (key, off) in OFF.items() if getattr(config, key) != off)


def with_own_text(variant: Variant) -> Variant | None:
    """The same with its sentences as they are, for a variant whose text is a control; None for another."""
    if getattr(variant.config, "text", "own") not in CONTROLS:
        return None
    return variant._replace(config=replace(variant.config, text="own"))  # type: ignore[call-arg]


def control_pairs(words: Sequence[str]) -> list[tuple[str, str, str]]:
    """Words that differ in their text alone: (with the true sentences, with a control, what the control has)."""
    variants: Mapping[str, Variant] = {word: read_method(word) for word in words}
    found = []
    for word, variant in variants.items():
        own = with_own_text(variant)
        if own is None:
            continue
        twin = next((other for other, one in variants.items() if one == own), None)
        if twin is not None:
            found.append((twin, word, CONTROLS[variant.config.text]))  # type: ignore[attr-defined]
    return found
