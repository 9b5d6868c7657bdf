"""What most tasks need first: the customer's profile, a reservation, a route, a payment method."""

from __future__ import annotations

from edgeagent.messages import Json
from edgeagent.scenarios.airline.simulator import spoken, wording
from edgeagent.scenarios.airline.simulator.desk import Desk, TaskOver, ToolRefused


def user_id_of(desk: Desk) -> str:
    """Return the user id; a customer who has lost it is offered a person."""
    while "user_id" not in desk.slots:
        heard = desk.listen(desk.say("ask_user_id", desk.aside))
        if heard.told.get("unknown") == "user_id":
            _offer_person(desk)
    return str(desk.slots["user_id"])


def _offer_person(desk: Desk) -> None:
    heard = desk.listen(desk.say("no_user_id"))
    if "wants_facts" in heard.told:
        desk.transfer("The customer does not know the user ID.")


def user(desk: Desk) -> Json:
    """Return the customer's profile; asks for the user id, and again if it is not known.

    A customer whose id is not known twice is offered a person.
    """
    is_second = False
    while True:
        user_id = user_id_of(desk)
        if user_id in desk.users:
            return desk.users[user_id]
        try:
            desk.users[user_id] = desk.use("get_user_details", user_id=user_id)
        except ToolRefused:
            del desk.slots["user_id"]
            if is_second:
                _offer_person(desk)
            else:
                desk.listen(desk.say("unknown_user", user_id=user_id))
            is_second = True


def reservation(desk: Desk) -> Json:
    """Return the reservation; asks for its id, and finds it in the profile if it is forgotten.

    An id that is not known twice counts as forgotten.
    """
    is_second = False
    while True:
        reservation_id = desk.slots.get("reservation_id")
        if reservation_id is None and "trip" in desk.slots:
            _find_by_trip(desk)
            continue
        if reservation_id is None:
            heard = desk.listen(desk.say("ask_reservation", desk.aside))
            if heard.told.get("unknown") == "reservation_id":
                _find_reservation(desk)
            continue
        if reservation_id in desk.reservations:
            return desk.reservations[reservation_id]
        try:
            found = desk.use("get_reservation_details", reservation_id=reservation_id)
        except ToolRefused:
            del desk.slots["reservation_id"]
            if is_second:
                _find_reservation(desk)
            else:
                desk.listen(desk.say("unknown_reservation", reservation_id=reservation_id))
            is_second = True
        else:
            desk.reservations[reservation_id] = found


def own_reservation(desk: Desk) -> Json:
    """Return the reservation after the user id was told; it has to be that user's.

    Raises:
        TaskOver: it is somebody else's, and the customer was asked to check.
    """
    user_id = user_id_of(desk)
    found = reservation(desk)
    told = {"reservation_id": found["reservation_id"]}
    if found["user_id"] != user_id:
        del desk.slots["user_id"]
        user_id = desk.ask("user_id", "not_yours", **told)
    if found["user_id"] != user_id:
        raise TaskOver(desk.say("refuse_not_yours", **told))
    return found


def ids(profile: Json) -> str:
    """Return the reservation ids of a profile in words."""
    return spoken.join_words(profile["reservations"])


def _find_reservation(desk: Desk) -> None:
    profile = user(desk)
    if not profile["reservations"]:
        raise TaskOver(desk.say("no_reservations"))
    if len(profile["reservations"]) == 1:
        desk.slots["reservation_id"] = profile["reservations"][0]
        return
    heard = desk.listen(desk.say("which_reservation", ids=ids(profile)))
    if heard.told.get("vague") == "reservation_id":
        raise TaskOver(desk.defer("several reservations could be meant", "larger_choice"))


def _find_by_trip(desk: Desk) -> None:
    """Look at one reservation after the other until origin and destination fit."""
    trip = desk.slots.pop("trip")
    for reservation_id in user(desk)["reservations"]:
        if reservation_id not in desk.reservations:
            found = desk.use("get_reservation_details", reservation_id=reservation_id)
            desk.reservations[reservation_id] = found
        found = desk.reservations[reservation_id]
        if all(found[end] == trip[end] for end in ("origin", "destination")):
            desk.slots["reservation_id"] = reservation_id
            return
    _find_reservation(desk)


def route_and_date(desk: Desk) -> dict[str, Json]:
    """Return origin, destination and date as a search takes them, asking for what is missing."""
    if "origin" not in desk.slots and "destination" not in desk.slots:
        desk.ask("origin", "ask_route")
    origin = desk.ask("origin", "ask_origin")
    destination = desk.ask("destination", "ask_destination")
    return {"origin": origin, "destination": destination, "date": date(desk, "ask_date")}


def date(desk: Desk, question: str) -> Json:
    """Return the day of travel; a vague answer is asked again."""
    while "date" not in desk.slots:
        heard = desk.listen(desk.say(question, desk.aside))
        if heard.told.get("vague") == "date":
            question = "ask_exact_date"
    return desk.slots["date"]


def connections(
    desk: Desk, trip: dict[str, Json], cabin: str, n_seats: int = 1
) -> list[list[Json]]:
    """Return one-stop pairs with seats left in the cabin on both flights."""
    found = desk.use("search_onestop_flight", **trip)
    return [pair for pair in found if len(wording.seats(pair, cabin, n_seats)) == 2]
