"""The expert's seat at the airline desk: talk, act, remember, and write everything down.

Every step becomes one call with its result, exactly as a running agent records them, and one
label beside it. Knows the tools' names, not the policy.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgeagent.cascade import ToolOutcome
from edgeagent.messages import (
    DEFER,
    RESPOND,
    THINK,
    TRANSFER,
    Call,
    CallMessage,
    Json,
    Message,
    ResultMessage,
    UserMessage,
)
from edgeagent.scenarios.airline.simulator.customer import Customer
from edgeagent.scenarios.airline.simulator.goals import Utterance
from edgeagent.scenarios.airline.simulator.replies import REPLIES
from edgeagent.scenarios.airline.simulator.spoken import miscopied
from edgeagent.scenarios.airline.world import CITIES

HardTurns: TypeAlias = Literal["end", "larger", "offline"]
"""What a hard turn becomes: a deferral that ends the lesson; the larger model's answer, after
which the lesson goes on; or a careful local answer, for the case that nobody can be asked."""

Act: TypeAlias = Callable[[Call], ToolOutcome]

MAX_STEPS = 60
"""An episode that is longer has lost its way, which is a defect of this package."""


class Ended(Exception):
    """The conversation is over."""


class TaskOver(Exception):
    """The task ends here: it cannot go on, or the customer wants something else."""

    def __init__(self, heard: Utterance) -> None:
        super().__init__(heard.text)
        self.heard = heard


class ToolRefused(Exception):
    """A tool answered with an error."""

    def __init__(self, error: str, rule: str) -> None:
        super().__init__(error)
        self.rule = rule
        """The policy's rule that refused it; empty where it was no rule."""


@dataclass(frozen=True, slots=True)
class Label:
    """What is to be learnt from one step of the conversation."""

    situation: str
    """Name of the reply, or of the tool."""
    by: Literal["expert", "larger model", "slip"] = "expert"
    """Steps of the larger model and slips that are put right next are context, not lessons."""
    is_hard: bool = False
    """The deferral policy names this turn; the lesson is a deferral or what stands in for it."""
    is_masked: bool = False
    """The label holds only where deferring and writing are not offered."""


class Desk:
    """One conversation between the expert and a customer, on one backend."""

    def __init__(
        self,
        customer: Customer,
        act: Act,
        seed: int | str,
        hard: HardTurns,
        slips: float = 0.0,
    ) -> None:
        self._customer = customer
        self._slips = slips
        self._act = act
        self._rng = random.Random(f"desk {seed}")
        self._hard = hard
        self.messages: list[Message] = []
        self.labels: list[Label] = []
        self.slots: dict[str, Json] = {}
        """What the customer told for the present wish."""
        self._intent: str | None = None
        self.users: dict[str, Json] = {}
        self.reservations: dict[str, Json] = {}
        self.price: int | None = None
        """The one fare that was told last."""
        self.waiting: list[Utterance] = []
        """Wishes that were told ahead and are still to be served."""

    def open(self) -> Utterance:
        """Let the customer speak first."""
        return self._hear(self._customer.open())

    def start_wish(self, heard: Utterance) -> None:
        """Forget what belonged to the wish before; who the customer is stays known."""
        known = {slot: self.slots[slot] for slot in ("user_id",) if slot in self.slots}
        for one in heard.also:
            known.update({slot: one.told[slot] for slot in ("user_id",) if slot in one.told})
        self.slots = {**known, **heard.told}
        if heard.intent != "price_people":
            self.price = None
        self._intent = heard.intent
        self.waiting = [one for one in self.waiting if one.intent != heard.intent]
        self.waiting += heard.also

    def say(self, reply: str, aside: str | None = None, /, **values: object) -> Utterance:
        """Say a reply by name and return the customer's answer; `aside` is answered first.

        Raises:
            Ended: the customer left.
        """
        return self._say(reply, Label(aside or reply), values, aside)

    def ask(self, slot: str, reply: str, /, **values: object) -> Json:
        """Return what the customer tells about `slot`, asking until it is told.

        Raises:
            TaskOver: the customer asks for something else instead.
        """
        while slot not in self.slots:
            self.listen(self.say(reply, self.aside, **values))
        return self.slots[slot]

    @property
    def aside(self) -> str | None:
        """The reply to what the customer said instead of an answer, if that was just now."""
        aside: str | None = self._customer.last.told.get("aside")
        return aside

    def confirm(self, reply: str, /, **values: object) -> bool:
        """Return whether the customer agrees to what the reply says, told again if questioned.

        Raises:
            TaskOver: the customer asks for something else instead.
        """
        heard = self.listen(self.say(reply, **values))
        while heard.told.get("again"):
            heard = self.listen(self.say(reply, **values))
        return bool(heard.told.get("confirm"))

    def listen(self, heard: Utterance) -> Utterance:
        """Return what was heard in the middle of a task, or leave the task for a new wish."""
        if heard.intent is not None and heard.intent != self._intent:
            raise TaskOver(heard)
        return heard

    def use(self, name: str, /, **arguments: Json) -> Json:
        """Call a tool and return its result.

        Raises:
            ToolRefused: the tool answered with an error.
        """
        if self._rng.random() < self._slips:
            self._slip(name, arguments)
        return self._use(name, arguments, Label(name))

    def calculate(self, expression: str) -> int:
        """Return a whole number of dollars, worked out by the tool."""
        return round(float(self.use("calculate", expression=expression)))

    def think(self, thought: str) -> None:
        """Note a thought that the customer does not see."""
        self._record(THINK, {"thought": thought}, Label(THINK), lambda _: ToolOutcome(""))

    def transfer(self, summary: str) -> None:
        """Hand the customer to a person.

        Raises:
            Ended: always.
        """
        self._use(TRANSFER, {"summary": summary}, Label(TRANSFER))
        raise Ended

    def defer(self, reason: str, reply: str, /, **values: object) -> Utterance:
        """Leave the turn to the larger model, as this lesson's hard turns are to be treated.

        `reply` is what the larger model answers where the lesson goes on.
        """
        match self._hard:
            case "end":
                label = Label(DEFER, is_hard=True)
                self._record(DEFER, {"reason": reason}, label, lambda _: ToolOutcome(DEFERRED))
                raise Ended
            case "larger":
                return self._say(reply, Label(reply, by="larger model"), values)
            case "offline":
                return self._say("offline", Label("offline", is_hard=True, is_masked=True), {})

    def _say(
        self, reply: str, label: Label, values: Mapping[str, object], aside: str | None = None
    ) -> Utterance:
        text = REPLIES[reply].format(**values)
        if aside is not None:
            text = f"{REPLIES[aside]} {text}"
        if self.waiting and "?" not in text:
            text = f"{text} {REPLIES['next']}"
        self._record(RESPOND, {"message": text}, label, lambda _: ToolOutcome('{"ok": true}'))
        answer = self._customer.reply(text)
        if answer is None:
            raise Ended
        return self._hear(answer)

    def _hear(self, text: str) -> Utterance:
        self.messages.append(UserMessage(text))
        heard = self._customer.last
        if heard.intent is None:
            self.slots.update(heard.told)
        return heard

    def _use(self, name: str, arguments: Mapping[str, Json], label: Label) -> Json:
        outcome = self._record(name, arguments, label, self._act)
        if outcome.is_error:
            told = json.loads(outcome.content)
            raise ToolRefused(told["error"], told.get("rule", ""))
        return outcome.content if name == TRANSFER else json.loads(outcome.content)

    def _slip(self, name: str, arguments: Mapping[str, Json]) -> None:
        """Call a tool with an argument that was copied wrongly; the right call comes next."""
        for key, value in arguments.items():
            if key in ("user_id", "reservation_id"):
                wrong = self._wrong_id(name, str(value))
            elif key == "origin" and name.startswith("search_"):
                wrong = CITIES[str(value)]
                if name == "search_direct_flight" and self._rng.random() < 0.5:
                    wrong = arguments["destination"]
            else:
                continue
            if wrong is not None:
                self._record(name, {**arguments, key: wrong}, Label(name, by="slip"), self._act)
            return

    def _wrong_id(self, name: str, right: str) -> str | None:
        """Return an id that is nobody's; None if there is none to mistake the right one for.

        A write goes wrong with an id of another kind only: it must not reach another record.
        """
        text = "\n".join(
            said.text if isinstance(said, UserMessage) else said.content
            for said in self.messages
            if isinstance(said, UserMessage | ResultMessage)
        )
        others = sorted({word for word in _ID.findall(text) if _kind(word) != _kind(right)})
        if name.startswith("get_") and (not others or self._rng.random() < 0.4):
            return miscopied(right, self._rng)
        return self._rng.choice(others) if others else None

    def _record(
        self, name: str, arguments: Mapping[str, Json], label: Label, act: Act
    ) -> ToolOutcome:
        assert len(self.labels) < MAX_STEPS, "the lesson does not end"
        call = Call(f"call_{self._rng.getrandbits(48):012x}", name, arguments)
        outcome = act(call)
        result = ResultMessage(call.id, name, outcome.content, outcome.is_error)
        self.messages += [CallMessage((call,)), result]
        self.labels.append(label)
        return outcome


_ID = re.compile(
    r"[a-z]+(?:_[a-z]+)*_\d+|HAT\d{3}|\d{4}-\d\d-\d\d|(?<![A-Z0-9])(?=[A-Z0-9]*\d)[A-Z0-9]{6}\b"
)


def _kind(word: str) -> str:
    """Return what an id is the id of, as far as its form tells; flights and days are other."""
    if "_" in word:
        return "payment" if word.startswith(("credit", "gift", "certificate")) else "user"
    return "reservation" if len(word) == 6 and not word.startswith("HAT") else "other"


DEFERRED = '{"deferred": true}'
"""Closes a deferral in the record; no model is ever shown it."""
