"""BFCL's single-turn categories: what they are called in V3 and V4, and how each is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgeagent.errors import EvaluationError
from edgeagent.evals.bfcl.checker import Language, Matching

Judging: TypeAlias = Literal["ast", "exec", "irrelevance", "relevance", "network"]


@dataclass(frozen=True, slots=True)
class Category:
    """A file of questions and the rules for its answers."""

    name: str
    """As in V3."""
    n: int
    """Entries in V3."""
    judging: Judging
    matching: Matching = "simple"
    language: Language = "python"
    v4_name: str = ""
    """Where V4 renamed it."""

    @property
    def has_answers(self) -> bool:
        """Whether there is a file of possible answers."""
        return self.judging in ("ast", "exec", "network")

    @property
    def names(self) -> tuple[str, ...]:
        """Return every name that it goes by."""
        return (self.name, self.v4_name) if self.v4_name else (self.name,)


CATEGORIES: tuple[Category, ...] = (
    Category("simple", 400, "ast", v4_name="simple_python"),
    Category("multiple", 200, "ast", "multiple"),
    Category("parallel", 200, "ast", "parallel"),
    Category("parallel_multiple", 200, "ast", "parallel"),
    Category("irrelevance", 240, "irrelevance"),
    Category("java", 100, "ast", language="java", v4_name="simple_java"),
    Category("javascript", 50, "ast", language="javascript", v4_name="simple_javascript"),
    Category("exec_simple", 100, "exec"),
    Category("exec_multiple", 50, "exec"),
    Category("exec_parallel", 50, "exec", "parallel"),
    Category("exec_parallel_multiple", 40, "exec", "parallel"),
    Category("rest", 70, "network"),
    Category("live_simple", 258, "ast"),
    Category("live_multiple", 1053, "ast", "multiple"),
    Category("live_parallel", 16, "ast", "parallel"),
    Category("live_parallel_multiple", 24, "ast", "parallel"),
    Category("live_irrelevance", 882, "irrelevance"),
    Category("live_relevance", 18, "relevance"),
)


def by_name(name: str) -> Category:
    """Return the category by its V3 or V4 name, with or without `BFCL_v3_` before it.

    Raises:
        EvaluationError: there is none.
    """
    bare = name.removesuffix(".gz").removesuffix(".json")
    for prefix in ("BFCL_v3_", "BFCL_v4_"):
        bare = bare.removeprefix(prefix)
    found = next((one for one in CATEGORIES if bare in one.names), None)
    if found is None:
        known = ", ".join(one.name for one in CATEGORIES)
        raise EvaluationError(f"no single-turn category {name!r} in BFCL; known: {known}")
    return found
