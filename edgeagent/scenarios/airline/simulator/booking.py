"""The task of booking: collect, search, price, confirm, book."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeagent.messages import Json
from edgeagent.scenarios.airline.simulator import records, wording
from edgeagent.scenarios.airline.simulator.desk import Desk, TaskOver, ToolRefused
from edgeagent.scenarios.airline.simulator.goals import Utterance
from edgeagent.scenarios.airline.world import BAG_FEE, FREE_BAGS, INSURANCE_FEE, free_bags

MAX_PASSENGERS = 5


@dataclass(frozen=True, slots=True)
class Basket:
    """A trip that is about to be booked."""

    trip: dict[str, Json]
    flight_type: str
    cabin: str
    flights: list[Json]
    """As the search showed them."""
    passengers: list[Json]
    n_bags: int
    n_paid_bags: int
    insurance: str

    @property
    def expression(self) -> str:
        """The price as the calculator takes it."""
        fares = " + ".join(str(flight["prices"][self.cabin]) for flight in self.flights)
        n = len(self.passengers)
        if n == 1:
            terms = [fares]
        else:
            terms = [f"{n} * {fares}" if len(self.flights) == 1 else f"{n} * ({fares})"]
        if self.n_paid_bags:
            terms.append(f"{BAG_FEE} * {self.n_paid_bags}")
        if self.insurance == "yes":
            terms.append(f"{INSURANCE_FEE} * {n}")
        return " + ".join(terms)


def book(desk: Desk) -> Utterance:
    """Book a trip for a customer, from the first question to the reservation id."""
    user = records.user(desk)
    trip = records.route_and_date(desk)
    if "flight_type" not in desk.slots and "cabin" not in desk.slots:
        desk.ask("flight_type", "ask_flight_type_and_cabin")
    flight_type = desk.ask("flight_type", "ask_flight_type")
    return_date = desk.ask("return_date", "ask_return_date") if flight_type == "round_trip" else ""
    cabin = desk.ask("cabin", "ask_cabin")
    passengers = _passengers(desk, user)
    n_seats = len(passengers)
    _note_trip(desk, trip, return_date, cabin, passengers)
    flights = choose(desk, trip, cabin, n_seats, "offer_flights")
    if return_date:
        back = {"origin": trip["destination"], "destination": trip["origin"], "date": return_date}
        flights += choose(desk, back, cabin, n_seats, "offer_return")
    if "bags" not in desk.slots and "insurance" not in desk.slots:
        desk.ask("bags", "ask_bags_and_insurance")
    desk.ask("bags", "ask_bags")
    desk.ask("insurance", "ask_insurance")
    payment = desk.ask("payment", "ask_payment", ways=wording.ways(user))
    if payment["kind"] == "three":
        return desk.defer("payment split over three methods", "larger_split")
    while True:
        n_bags = desk.slots["bags"]
        n_paid = _note_basket(desk, user["membership"], cabin, flights, passengers)
        insurance = desk.slots["insurance"]
        basket = Basket(trip, flight_type, cabin, flights, passengers, n_bags, n_paid, insurance)
        booked = _pay(desk, user, basket)
        if booked is not None:
            return desk.say("booked", reservation_id=booked["reservation_id"])
        if (desk.slots["bags"], desk.slots["insurance"]) == (n_bags, insurance):
            return desk.say("nothing_done")


def _note_trip(
    desk: Desk, trip: dict[str, Json], return_date: str, cabin: str, passengers: list[Json]
) -> None:
    """Note what was told in many answers: search, offer and booking are written from it."""
    way = f"round trip, back {return_date}" if return_date else "one way"
    people = wording.numbered(f"{p['first_name']} {p['last_name']} {p['dob']}" for p in passengers)
    desk.think(
        f"trip {trip['origin']} to {trip['destination']} {trip['date']}; {way}; "
        f"{wording.cabin(cabin)}; passengers {people}"
    )


def choose(desk: Desk, trip: dict[str, Json], cabin: str, n_seats: int, reply: str) -> list[Json]:
    """Search, offer, and return the flights that the customer picks, on another day if need be.

    Raises:
        TaskOver: there is nothing to choose from.
    """
    told = {"date": trip["date"], "cabin": wording.cabin(cabin)}
    desk.slots.pop("flight_numbers", None)
    listed = desk.use("search_direct_flight", **trip)
    found = wording.seats(listed, cabin, n_seats)[: wording.MAX_SHOWN]
    pairs = [] if found else records.connections(desk, trip, cabin, n_seats)[:2]
    if found:
        picked = _pick(desk, reply, **told, flights=wording.options(found, cabin))
    elif pairs:
        picked = _pick(desk, "offer_onestop", **told, pairs=wording.pairs(pairs, cabin))
    else:
        raise TaskOver(desk.say("found_nothing", **trip, cabin=wording.cabin(cabin)))
    if picked is None:
        return choose(desk, {**trip, "date": desk.slots["date"]}, cabin, n_seats, reply)
    if found:
        return [flight for flight in found if flight["flight_number"] in picked]
    chosen = next(
        (pair for pair in pairs if tuple(leg["flight_number"] for leg in pair) == picked), pairs[0]
    )
    return list(chosen)


def _pick(desk: Desk, reply: str, /, **told: object) -> Json | None:
    """Return the flight numbers that the customer picks; None for a wish to fly another day."""
    day = desk.slots.get("date")
    while "flight_numbers" not in desk.slots:
        desk.listen(desk.say(reply, desk.aside, **told))
        if desk.slots.get("date") != day:
            return None
    return desk.slots["flight_numbers"]


def count_bags(membership: str, cabin: str, passengers: list[Json], n_bags: int) -> tuple[str, int]:
    """Return the steps that lead to the number of paid bags, each number named, and the number."""
    n_passengers = len(passengers)
    each = FREE_BAGS[membership][cabin]
    free = free_bags(membership, cabin, n_passengers)
    n_paid = max(0, n_bags - free)
    steps = (
        f"membership {membership}; cabin {wording.cabin(cabin)}; free bags each {each}; "
        f"passengers {wording.counted(passengers)}; "
        f"free bags {n_passengers} x {each} = {free}; bags {n_bags}; "
    )
    if n_paid:
        return f"{steps}more than free; paid bags {n_bags} - {free} = {n_paid}", n_paid
    return f"{steps}not more than free; paid bags 0", 0


def _note_basket(
    desk: Desk, membership: str, cabin: str, flights: list[Json], passengers: list[Json]
) -> int:
    """Note every number that the price is made of; return how many bags have to be paid for."""
    n_bags = desk.slots["bags"]
    # The bags stand first: whether anything has to be counted hangs on them.
    steps, n_paid = f"passengers {wording.counted(passengers)}; paid bags 0", 0
    if n_bags:
        steps, n_paid = count_bags(membership, cabin, passengers, n_bags)
    prices = wording.numbered(f"{f['flight_number']} {f['prices'][cabin]}" for f in flights)
    desk.think(f"bags {n_bags}; {steps}; insurance {desk.slots['insurance']}; prices {prices}")
    return n_paid


def _passengers(desk: Desk, user: Json) -> list[Json]:
    """Return the passengers as the booking takes them; the customer's own data are on file."""
    people = []
    for person in desk.ask("passengers", "ask_passengers"):
        if person.get("is_self"):
            people.append({**user["name"], "dob": user["dob"]})
        else:
            people.append({key: person[key] for key in ("first_name", "last_name", "dob")})
    return people


def _pay(desk: Desk, user: Json, basket: Basket) -> Json | None:
    """Price, confirm and book; None if the customer says anything but yes.

    Another way to pay is asked for where one is refused.
    """
    expression = basket.expression
    total = int(expression) if expression.isdigit() else desk.calculate(expression)
    while True:
        paid = _split(desk, user, desk.slots["payment"], total)
        if not desk.confirm("confirm_booking", **_told(desk.slots["user_id"], basket, total, paid)):
            return None
        try:
            booked = desk.use("book_reservation", **_arguments(desk, basket, paid))
        except ToolRefused as exc:
            other_payment(desk, exc)
        else:
            desk.reservations[booked["reservation_id"]] = booked
            return booked


def other_payment(desk: Desk, refusal: ToolRefused) -> Json:
    """Return another way to pay after one was refused; any other refusal is a defect here."""
    if not refusal.rule.startswith(("payment", "certificate")):
        raise refusal
    del desk.slots["payment"]
    return desk.ask("payment", "payment_refused", error=refusal)


def _split(desk: Desk, user: Json, payment: Json, total: int) -> list[Json]:
    """Return what each payment method pays."""
    if payment["kind"] == "one":
        return [{"payment_id": payment["pid"], "amount": total}]
    part = user["payment_methods"][payment["cert"]]["amount"]
    desk.think(
        f"total {total}; {payment['cert']} has {part}; "
        f"{'enough' if part >= total else f'not enough; rest {total} - {part}'}"
    )
    if part >= total:
        return [{"payment_id": payment["cert"], "amount": total}]
    rest = desk.calculate(f"{total} - {part}")
    return [
        {"payment_id": payment["cert"], "amount": part},
        {"payment_id": payment["pid"], "amount": rest},
    ]


def _told(user_id: str, basket: Basket, total: int, paid: list[Json]) -> dict[str, object]:
    """Return everything that the call will hold, so that the customer agrees to all of it."""
    parts = wording.payments(paid)
    return {
        "user_id": user_id,
        "origin": basket.trip["origin"],
        "destination": basket.trip["destination"],
        "flight_type": wording.flight_type(basket.flight_type),
        "cabin": wording.cabin(basket.cabin),
        "flights": wording.trip(basket.flights),
        "passengers": wording.people_and_births(basket.passengers),
        "bags": basket.n_bags,
        "paid_bags": basket.n_paid_bags,
        "insurance": basket.insurance,
        "total": total,
        "payment": f"({parts})" if len(paid) > 1 else f"with {paid[0]['payment_id']}",
    }


def _arguments(desk: Desk, basket: Basket, paid: list[Json]) -> dict[str, Json]:
    return {
        "user_id": desk.slots["user_id"],
        "origin": basket.trip["origin"],
        "destination": basket.trip["destination"],
        "flight_type": basket.flight_type,
        "cabin": basket.cabin,
        "flights": [
            {"flight_number": flight["flight_number"], "date": flight["date"]}
            for flight in basket.flights
        ],
        "passengers": basket.passengers,
        "payment_methods": paid,
        "total_baggages": basket.n_bags,
        "nonfree_baggages": basket.n_paid_bags,
        "insurance": basket.insurance,
    }


TASKS: Mapping[str, Callable[[Desk], Utterance]] = {"book": book}
