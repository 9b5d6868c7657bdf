"""What the tests of `bench` share: a conversation to replay, and a server that tells its times."""

from __future__ import annotations

from edgeagent.engine.client import Prompt
from edgeagent.evals.bench.recorded import Recorded, Step
from edgeagent.messages import RESPOND, Call, CallMessage, Json, Message, ResultMessage, UserMessage
from tests import loopback
from tests.engine_kit import POLICY, TOOLS
from tests.loopback import Loopback

CALLS = (
    Call("call_1", "get_reservation_details", {"reservation_id": "ABC123"}),
    Call("call_2", RESPOND, {"message": 'It is "yours", Zoë.'}),
    # Keys in another order than the schema's, an optional one left out.
    Call("call_3", "book", {"bags": 1, "flights": [{"price": 12.5, "number": "H1"}],
                            "cabin": "economy"}),
)  # fmt: skip
PROMPT = Prompt(POLICY, TOOLS, (UserMessage("I want to see my booking ABC123."),))


def listed(server: Loopback) -> Loopback:
    server.models = loopback.document({"data": [{"id": "tiny"}]})
    return server


TIMINGS = {"cache_n": 90, "prompt_n": 12, "prompt_ms": 5.0, "predicted_n": 7,
           "predicted_ms": 70.0, "draft_n": 2, "new_in_next_year": []}  # fmt: skip


def timed(**timings: Json) -> loopback.Answer:
    said = {"choices": [{"message": {"content": "Hi."}}], "timings": TIMINGS | timings}
    return loopback.document(said)


ARGUMENTS: dict[str, dict[str, Json]] = {
    RESPOND: {"message": "One moment."},
    "get_reservation_details": {"reservation_id": "ABC123"},
}


def recording(*names: str) -> Recorded:
    talk: tuple[Message, ...] = (UserMessage("Hello."),)
    steps = []
    for number, name in enumerate(names):
        call = Call(f"call_{number}", name, ARGUMENTS.get(name, {}))
        steps.append(Step(talk, call))
        talk = (*talk, CallMessage((call,)), ResultMessage(call.id, name, "{}"))
    return Recorded(POLICY, TOOLS, tuple(steps))
