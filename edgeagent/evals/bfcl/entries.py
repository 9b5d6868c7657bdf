"""BFCL's files: questions, and the answers that belong to them, in V3's or V4's layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeagent.errors import EvaluationError
from edgeagent.evals import jsonl
from edgeagent.evals.bfcl.categories import Category
from edgeagent.messages import Json


@dataclass(frozen=True, slots=True)
class Entry:
    """One question with the functions that are offered for it."""

    id: str
    messages: tuple[Mapping[str, Json], ...]
    """`{"role", "content"}` of its one turn; empty in a file without questions."""
    functions: tuple[Json, ...]
    answers: tuple[Json, ...] | None
    """What is expected, one item per call; None where nothing was found for it."""
    kinds: tuple[str, ...] = ()
    """How each result of an executable entry is compared."""
    answer_id: str = ""
    """Where the answers' file spells the id differently, as V3 does once."""


def read(category: Category, questions: Path, answers: Path | None) -> list[Entry]:
    """Return the entries of a category.

    Answers are joined by id, and by position where an id stands in neither file but one.

    Raises:
        EvaluationError: a file cannot be read, or a row is not what it should be.
    """
    asked = [_question(row, where) for where, row in jsonl.rows(questions)]
    ids = {entry.id for entry in asked}
    if len(ids) != len(asked):
        twice = next(e.id for at, e in enumerate(asked) if e.id in {f.id for f in asked[:at]})
        raise EvaluationError(f"{questions} has the id {twice!r} twice")
    if not category.has_answers:
        return asked
    if answers is None:
        raise EvaluationError(f"the category {category.name} needs its file of possible answers")
    found = [_answer(category, row, where) for where, row in jsonl.rows(answers)]
    by_id = {answer.id: answer for answer in found}
    return [_joined(entry, by_id.get(entry.id) or _at(found, place, ids))
            for place, entry in enumerate(asked)]  # fmt: skip


def find(folder: Path, category: Category) -> tuple[Path, Path | None] | None:
    """Return the category's questions and answers in a folder; None if it is not there.

    Raises:
        EvaluationError: the questions are there and the answers are not.
    """
    for name in category.names:
        for version in ("v3", "v4"):
            for ending in (".json", ".json.gz", ".jsonl", ".jsonl.gz"):
                file = f"BFCL_{version}_{name}{ending}"
                if (folder / file).is_file():
                    return folder / file, _answers_beside(folder, file, category)
    return None


def _answers_beside(folder: Path, file: str, category: Category) -> Path | None:
    if not category.has_answers:
        return None
    stem = file.removesuffix(".gz")
    for name in (file, stem, f"{stem}.gz"):
        if (folder / "possible_answer" / name).is_file():
            return folder / "possible_answer" / name
    raise EvaluationError(f"{folder} has {file} without its file in possible_answer")


def _question(row: Mapping[str, Json], where: str) -> Entry:
    functions = row.get("function", [])
    functions = [functions] if isinstance(functions, dict) else functions
    if not isinstance(functions, list) or not all(map(_is_function, functions)):
        raise EvaluationError(f"{where}: a list of functions, each with a name, is expected")
    return Entry(_id(row, where), tuple(_messages(row.get("question"), where)),
                 tuple(functions), None)  # fmt: skip


def _id(row: Mapping[str, Json], where: str) -> str:
    found = jsonl.value(row, "id", where)
    if not isinstance(found, str):
        raise EvaluationError(f"{where}: the id is not text")
    return found


def _is_function(one: Json) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("name"), str):
        return False
    schema = one.get("parameters", {})
    return (
        isinstance(schema, dict)
        and isinstance(schema.get("properties", {}), dict)
        and isinstance(schema.get("required", []), list)
    )


def _messages(question: Json, where: str) -> Iterator[Mapping[str, Json]]:
    """Yield the messages of the first turn; single-turn categories have no other."""
    if question is None:
        return
    if isinstance(question, str):
        yield {"role": "user", "content": question}
        return
    turn: Json = question
    if isinstance(turn, list) and turn and isinstance(turn[0], list):
        turn = turn[0]
    if not isinstance(turn, list):
        raise EvaluationError(f"{where}: the question is no list of messages")
    for message in turn:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise EvaluationError(f"{where}: a message has a role and its content as text")
        yield message


def _answer(category: Category, row: Mapping[str, Json], where: str) -> Entry:
    truth = jsonl.value(row, "ground_truth", where)
    is_fine = isinstance(truth, list) and bool(truth)
    if category.judging == "ast":
        is_fine = is_fine and all(map(_is_answer, truth))
    elif category.judging == "exec":
        is_fine = is_fine and all(isinstance(one, str) for one in truth)
    if not is_fine:
        raise EvaluationError(f"{where}: the ground truth is not what {category.name} expects")
    kinds = row.get("execution_result_type", ["exact_match"] * len(truth))
    if category.judging == "exec" and (not isinstance(kinds, list) or len(kinds) != len(truth)):
        raise EvaluationError(f"{where}: one kind of result per answer is expected")
    return Entry(_id(row, where), (), (), tuple(truth), tuple(map(str, kinds)))


def _is_answer(one: Json) -> bool:
    """Tell whether it is a one-key object of parameters with lists of allowed values."""
    if not isinstance(one, dict) or len(one) != 1:
        return False
    (parameters,) = one.values()
    return isinstance(parameters, dict) and all(isinstance(v, list) for v in parameters.values())


def _at(found: Sequence[Entry], place: int, ids: set[str]) -> Entry | None:
    """Return the answer at the question's place if its id is no other question's."""
    if place < len(found) and found[place].id not in ids:
        return found[place]
    return None


def _joined(entry: Entry, answer: Entry | None) -> Entry:
    if answer is None:
        return entry
    return Entry(
        entry.id, entry.messages, entry.functions, answer.answers, answer.kinds, answer.id
    )  # fmt: skip
