"""A small phrase grammar: rules in, one of very many sentences out.

A rule is a list of alternatives written as text: `<rule>` expands another rule, `{slot}` is
filled by the caller, `(a|b|)` picks one of several parts and may be empty. Alternatives under
`held_out` are only spoken when the speaker asks for them, so an evaluation can use wording
that training never saw; those under `plain`, the few that most people type, are spoken in training
far more often than their number says. Knows nothing of airlines; refuses rules that do not parse
or refer to nothing, at load.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TypeAlias

HELD_OUT_SHARE = 0.4
"""How often a held-out speaker uses reserved wording where a rule has some."""
PLAIN_SHARE = 0.35
"""How often any other speaker says a rule the plain way where it has one."""

_TOKEN = re.compile(r"<[a-z_.0-9]+>|\{[a-z_]+\}|[()|]|[^<{}()|]+")


@dataclass(frozen=True, slots=True)
class Slot:
    """A value that the caller fills in."""

    name: str


@dataclass(frozen=True, slots=True)
class Ref:
    """Another rule, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several sequences."""

    options: tuple[Sequence, ...]


Node: TypeAlias = str | Slot | Ref | Choice
Sequence: TypeAlias = tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """The alternatives of one rule, those of the evaluation apart."""

    train: tuple[Sequence, ...]
    held_out: tuple[Sequence, ...]
    plain: tuple[Sequence, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text; values are marked so that typing errors leave them alone."""

    text: str
    is_value: bool


class Grammar:
    """Rules that were read once and can be spoken many times."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = rules
        for name, rule in rules.items():
            for missing in sorted(_references(rule) - rules.keys()):
                raise ValueError(f"phrase rule {name!r} refers to {missing!r}, which is no rule")

    def __contains__(self, name: str) -> bool:
        return name in self._rules

    def names(self) -> tuple[str, ...]:
        """Return every rule name, in file order."""
        return tuple(self._rules)

    def rule(self, name: str) -> Rule:
        """Return the alternatives of a rule."""
        return self._rules[name]

    def n_forms(self, name: str) -> int:
        """Count the surface forms of a rule for training, its slots counted once each."""
        return sum(self._n_sequence(sequence) for sequence in self._rules[name].train)

    def speak(
        self, name: str, slots: Mapping[str, str], rng: random.Random, held_out: bool = False
    ) -> list[Piece]:
        """Expand a rule; raises KeyError for a slot that `slots` does not fill."""
        return list(self._expand_rule(name, slots, rng, held_out))

    def _expand_rule(
        self, name: str, slots: Mapping[str, str], rng: random.Random, held_out: bool
    ) -> Iterator[Piece]:
        rule = self._rules[name]
        if held_out:
            is_reserved = rule.held_out and rng.random() < HELD_OUT_SHARE
            spoken = rule.held_out if is_reserved else rule.train
        else:
            is_plain = rule.plain and rng.random() < PLAIN_SHARE
            spoken = rule.plain if is_plain else rule.train
        yield from self._expand(rng.choice(spoken), slots, rng, held_out)

    def _expand(
        self, sequence: Sequence, slots: Mapping[str, str], rng: random.Random, held_out: bool
    ) -> Iterator[Piece]:
        for node in sequence:
            match node:
                case str():
                    yield Piece(node, is_value=False)
                case Slot(slot):
                    yield Piece(slots[slot], is_value=True)
                case Ref(rule):
                    yield from self._expand_rule(rule, slots, rng, held_out)
                case Choice(options):
                    yield from self._expand(rng.choice(options), slots, rng, held_out)

    def _n_sequence(self, sequence: Sequence) -> int:
        n = 1
        for node in sequence:
            match node:
                case Ref(rule):
                    n *= self.n_forms(rule)
                case Choice(options):
                    n *= sum(self._n_sequence(option) for option in options)
                case _:
                    pass
        return n


def load(*file_names: str) -> Grammar:
    """Read the TOML phrase files that lie beside this module into one grammar."""
    found: dict[str, Mapping[str, list[str]]] = {}
    folder = files(__package__ or "")
    for file_name in file_names:
        tables = tomllib.loads((folder / file_name).read_text(encoding="utf-8"))
        for name in tables.keys() & found.keys():
            raise ValueError(f"phrase rule {name!r} is written twice, again in {file_name}")
        found |= tables
    return of_tables(found)


def of_tables(tables: Mapping[str, Mapping[str, list[str]]]) -> Grammar:
    """Return the grammar of rules as TOML has them: `train`, perhaps `held_out` and `plain`.

    Raises:
        ValueError: a phrase does not parse, or refers to nothing.
    """
    rules = {
        name: Rule(
            train=tuple(parse(text) for text in table["train"]),
            held_out=tuple(parse(text) for text in table.get("held_out", ())),
            plain=tuple(parse(text) for text in table.get("plain", ())),
        )
        for name, table in tables.items()
    }
    return Grammar(rules)


def parse(text: str) -> Sequence:
    """Parse one alternative; raises ValueError where brackets do not match."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        raise ValueError(f"phrase {text!r} has a stray bracket or a bad name")
    sequence, rest = _parse_sequence(tokens)
    if rest:
        raise ValueError(f"phrase {text!r} closes or splits what it never opened")
    return sequence


def _parse_sequence(tokens: list[str]) -> tuple[Sequence, list[str]]:
    nodes: list[Node] = []
    while tokens and tokens[0] not in (")", "|"):
        token, tokens = tokens[0], tokens[1:]
        if token == "(":
            choice, tokens = _parse_choice(tokens)
            nodes.append(choice)
        elif token.startswith("<"):
            nodes.append(Ref(token[1:-1]))
        elif token.startswith("{"):
            nodes.append(Slot(token[1:-1]))
        else:
            nodes.append(token)
    return tuple(nodes), tokens


def _parse_choice(tokens: list[str]) -> tuple[Choice, list[str]]:
    options: list[Sequence] = []
    while True:
        option, tokens = _parse_sequence(tokens)
        options.append(option)
        if not tokens:
            raise ValueError("a phrase opens a bracket that it never closes")
        separator, tokens = tokens[0], tokens[1:]
        if separator == ")":
            return Choice(tuple(options)), tokens


def _references(rule: Rule) -> set[str]:
    found: set[str] = set()
    stack: list[Sequence] = [*rule.train, *rule.held_out, *rule.plain]
    while stack:
        for node in stack.pop():
            match node:
                case Ref(name):
                    found.add(name)
                case Choice(options):
                    stack.extend(options)
                case _:
                    pass
    return found
