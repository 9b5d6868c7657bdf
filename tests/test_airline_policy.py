"""What the airline's policy forbids is refused with its rule, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from edgeagent.scenarios.airline.backend import open_world, world_of
from edgeagent.scenarios.airline.data import generate
from edgeagent.scenarios.airline.world import World
from tests.airline_desk import ADA, BEN, booking, small_desk, small_world, tell

CARD = "credit_card_1000001"
GIFT = "gift_card_1000001"
SAME = [
    {"flight_number": "HAT100", "date": "2024-05-20"},
    {"flight_number": "HAT110", "date": "2024-05-24"},
]


def pay(**amounts: int) -> list[dict[str, Any]]:
    return [{"payment_id": name, "amount": amount} for name, amount in amounts.items()]


def flights(*words: str) -> list[dict[str, str]]:
    """Spell `HAT100@20` for flight HAT100 on May 20."""
    return [
        {"flight_number": number, "date": f"2024-05-{day}"}
        for number, _, day in (word.partition("@") for word in words)
    ]


FORBIDDEN_BOOKINGS = [
    ({"passengers": []}, "passenger_limit"),
    ({"passengers": [ADA] * 6}, "passenger_limit"),
    ({"flights": []}, "route_mismatch"),
    ({"flights": flights("HAT100@20")}, "route_mismatch"),
    ({"flights": flights("HAT200@20", "HAT100@20")}, "route_mismatch"),
    ({"flight_type": "round_trip"}, "route_mismatch"),
    # HAT100 lands at 12:00 on the 21st, HAT200 left at 13:00 on the 20th.
    ({"flights": flights("HAT100@21", "HAT200@20")}, "connection_time"),
    ({"flights": flights("HAT100@15", "HAT200@20")}, "flight_not_available"),
    ({"flights": flights("HAT101@20", "HAT201@20")}, "not_enough_seats"),
    ({"passengers": [ADA] * 4}, "not_enough_seats"),
    ({"nonfree_baggages": 1}, "bag_allowance"),
    ({"total_baggages": 7}, "bag_allowance"),
    ({"total_baggages": -1}, "bag_allowance"),
    ({"cabin": "basic_economy", "payment_methods": pay(credit_card_1000001=400)}, "bag_allowance"),
    ({"payment_methods": pay(credit_card_9999999=600)}, "payment_not_in_profile"),
    ({"payment_methods": pay(certificate_1000001=100, certificate_1000002=100,
                             credit_card_1000001=400)}, "one_certificate"),
    ({"payment_methods": pay(credit_card_1000001=300, credit_card_1000002=300)}, "one_credit_card"),
    ({"payment_methods": pay(gift_card_1000001=500, gift_card_1000002=20, gift_card_1000003=20,
                             gift_card_1000004=20, credit_card_1000001=40)}, "three_gift_cards"),
    ({"payment_methods": [{"payment_id": GIFT, "amount": 300}] * 2}, "payment_once"),
    ({"payment_methods": pay(gift_card_1000002=21, credit_card_1000001=579)}, "payment_balance"),
    ({"payment_methods": pay(certificate_1000001=101, credit_card_1000001=499)}, "payment_balance"),
    ({"payment_methods": pay(credit_card_1000001=599)}, "payment_total"),
    ({"payment_methods": []}, "payment_total"),
    ({"payment_methods": pay(credit_card_1000001=700, gift_card_1000001=-100)}, "payment_total"),
    ({"insurance": "yes"}, "payment_total"),
]  # fmt: skip

FORBIDDEN_CHANGES = [
    ("BAS111", "basic_economy", flights("HAT100@21", "HAT110@24"), CARD, "basic_economy_no_change"),
    # A better cabin and other flights in one call is still a change of flights.
    ("BAS111", "economy", flights("HAT100@21", "HAT110@24"), CARD, "basic_economy_no_change"),
    ("ECO111", "economy", SAME, CARD, "nothing_to_change"),
    ("ECO111", "economy", flights("HAT100@20"), CARD, "route_fixed"),
    ("ECO111", "economy", flights("HAT100@20", "HAT200@20"), CARD, "route_fixed"),
    ("ECO111", "economy", flights("HAT110@20", "HAT100@24"), CARD, "route_fixed"),
    ("ECO111", "economy", flights("HAT100@24", "HAT110@21"), CARD, "connection_time"),
    ("ECO111", "economy", flights("HAT101@20", "HAT110@24"), CARD, "not_enough_seats"),
    ("ECO111", "economy", flights("HAT100@15", "HAT110@24"), CARD, "flight_not_available"),
    ("ECO111", "business", SAME, "certificate_1000001", "certificate_only_for_booking"),
    ("ECO111", "business", SAME, "credit_card_9999999", "payment_not_in_profile"),
    ("ECO111", "business", SAME, GIFT, "payment_balance"),
    ("FLO111", "business", flights("HAT100@20", "HAT110@24"), CARD, "segment_flown"),
    ("FLO111", "economy", flights("HAT100@13", "HAT110@24"), CARD, "segment_flown"),
    ("CAN111", "business", SAME, CARD, "already_cancelled"),
]

FORBIDDEN_BAGS = [
    ("ECO111", 0, 0, CARD, "no_bag_removal"),
    ("ECO111", 1, 0, CARD, "nothing_to_change"),
    ("ECO111", 4, 0, CARD, "bag_allowance"),
    ("ECO111", 3, 1, CARD, "bag_allowance"),
    ("ECO111", 4, 1, "gift_card_1000002", "payment_balance"),
    ("ECO111", 4, 1, "certificate_1000001", "certificate_only_for_booking"),
    ("GON111", 2, 0, CARD, "segment_flown"),
    ("CAN111", 2, 0, CARD, "already_cancelled"),
]

FORBIDDEN_REST = [
    ("update_reservation_passengers", {"reservation_id": "ECO111", "passengers": [ADA, BEN]},
     "passenger_count"),
    ("update_reservation_passengers", {"reservation_id": "ECO111", "passengers": []},
     "passenger_count"),
    ("update_reservation_passengers", {"reservation_id": "ECO111", "passengers": [ADA]},
     "nothing_to_change"),
    ("update_reservation_passengers", {"reservation_id": "GON111", "passengers": [BEN]},
     "segment_flown"),
    ("cancel_reservation", {"reservation_id": "ECO111"}, "not_cancellable"),
    ("cancel_reservation", {"reservation_id": "BAS111"}, "not_cancellable"),
    ("cancel_reservation", {"reservation_id": "OLD111"}, "not_cancellable"),
    ("cancel_reservation", {"reservation_id": "FLO111"}, "segment_flown"),
    ("cancel_reservation", {"reservation_id": "CAN111"}, "already_cancelled"),
    # Ada's one cancelled flight carried one passenger; her delayed one is neither changed nor off.
    ("send_certificate", {"user_id": "ada_berg_1000", "amount": 200}, "certificate_amount"),
    ("send_certificate", {"user_id": "ada_berg_1000", "amount": 50}, "certificate_amount"),
    ("send_certificate", {"user_id": "eva_berg_2000", "amount": 100}, "certificate_not_eligible"),
]  # fmt: skip

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *(("book_reservation", booking(**changed), rule) for changed, rule in FORBIDDEN_BOOKINGS),
    *(
        ("update_reservation_flights",
         {"reservation_id": key, "cabin": cabin, "flights": new, "payment_id": method}, rule)
        for key, cabin, new, method, rule in FORBIDDEN_CHANGES
    ),
    *(
        ("update_reservation_baggages",
         {"reservation_id": key, "total_baggages": n, "nonfree_baggages": paid,
          "payment_id": method}, rule)
        for key, n, paid, method, rule in FORBIDDEN_BAGS
    ),
    *FORBIDDEN_REST,
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "rule"), REFUSED)
def test_a_forbidden_call_names_its_rule_and_changes_nothing(
    name: str, arguments: dict[str, Any], rule: str
) -> None:
    desk = small_desk()
    answer, is_error = tell(desk, name, **arguments)
    assert is_error
    assert answer["rule"] == rule
    assert answer["error"]
    assert world_of(desk) == small_world()


@pytest.mark.parametrize("name", ["NEW111", "AIR111", "BUS111", "INS111", "LAT111", "CER111"])
def test_an_allowed_cancellation_goes_through(name: str) -> None:
    answer, is_error = tell(small_desk(), "cancel_reservation", reservation_id=name)
    assert not is_error
    assert answer["status"] == "cancelled"


def test_a_booking_takes_money_and_seats() -> None:
    desk = small_desk()
    wanted = booking(
        total_baggages=7,
        nonfree_baggages=1,
        insurance="yes",
        payment_methods=pay(certificate_1000001=80, gift_card_1000001=500, credit_card_1000001=130),
    )
    made, is_error = tell(desk, "book_reservation", **wanted)
    assert not is_error, made
    after = world_of(desk)
    methods = after.users["ada_berg_1000"]["payment_methods"]
    assert "certificate_1000001" not in methods  # what is left of it is lost
    assert methods[GIFT]["amount"] == 0
    assert after.users["ada_berg_1000"]["reservations"][-1] == made["reservation_id"]
    assert after.reservations[made["reservation_id"]]["created_at"] == "2024-05-15T15:00:00"
    assert seats(after, "HAT100", "20", "economy") == 1
    assert seats(after, "HAT200", "20", "economy") == 1
    assert seats(after, "HAT100", "21", "economy") == 3


def test_a_cancellation_undoes_a_booking() -> None:
    desk = small_desk()
    wanted = booking(payment_methods=pay(certificate_1000001=100, gift_card_1000001=500))
    made, _ = tell(desk, "book_reservation", **wanted)
    answer, is_error = tell(desk, "cancel_reservation", reservation_id=made["reservation_id"])
    assert not is_error
    assert sum(payment["amount"] for payment in answer["payment_history"]) == 0
    before, after = small_world(), world_of(desk)
    assert after.flights == before.flights
    methods = after.users["ada_berg_1000"]["payment_methods"]
    assert methods == before.users["ada_berg_1000"]["payment_methods"]


def test_the_used_part_of_a_certificate_comes_back() -> None:
    desk = small_desk()
    tell(desk, "cancel_reservation", reservation_id="CER111")
    methods = world_of(desk).users["ada_berg_1000"]["payment_methods"]
    assert methods["certificate_7777777"]["amount"] == 60


def test_a_cabin_change_charges_the_difference_and_moves_the_seats() -> None:
    desk = small_desk()
    answer, is_error = tell(
        desk,
        "update_reservation_flights",
        reservation_id="BAS111",
        cabin="economy",
        flights=SAME,
        payment_id=GIFT,
    )
    assert not is_error, answer
    assert answer["cabin"] == "economy"
    assert answer["payment_history"][-1] == {"payment_id": GIFT, "amount": 2 * 150 - 2 * 90}
    after = world_of(desk)
    assert after.users["ada_berg_1000"]["payment_methods"][GIFT]["amount"] == 500 - 120
    assert seats(after, "HAT100", "20", "basic_economy") == 4
    assert seats(after, "HAT100", "20", "economy") == 2


def test_after_an_upgrade_basic_economy_may_change_its_flights() -> None:
    desk = small_desk()
    change = {"reservation_id": "BAS111", "cabin": "economy", "payment_id": CARD}
    tell(desk, "update_reservation_flights", **change, flights=SAME)
    later = flights("HAT100@21", "HAT110@24")
    answer, is_error = tell(desk, "update_reservation_flights", **change, flights=later)
    assert not is_error, answer


def test_a_kept_flight_keeps_its_price() -> None:
    desk = small_desk()
    answer, is_error = tell(
        desk,
        "update_reservation_flights",
        reservation_id="ECO111",
        cabin="economy",
        flights=flights("HAT100@20", "HAT110@29"),
        payment_id=CARD,
    )
    assert not is_error, answer
    assert [segment["price"] for segment in answer["flights"]] == [90, 300]
    assert answer["payment_history"][-1]["amount"] == 210


def test_a_flown_flight_may_stay_while_the_way_back_changes() -> None:
    answer, is_error = tell(
        small_desk(),
        "update_reservation_flights",
        reservation_id="FLO111",
        cabin="business",
        flights=flights("HAT100@13", "HAT110@26"),
        payment_id=CARD,
    )
    assert not is_error, answer


@pytest.mark.parametrize(
    ("n_bags", "n_nonfree", "charged"),
    [(3, 0, None), (4, 1, 50), (6, 3, 150)],
)
def test_bags_beyond_the_free_ones_cost_fifty(
    n_bags: int, n_nonfree: int, charged: int | None
) -> None:
    answer, is_error = tell(
        small_desk(),
        "update_reservation_baggages",
        reservation_id="ECO111",
        total_baggages=n_bags,
        nonfree_baggages=n_nonfree,
        payment_id=CARD,
    )
    assert not is_error, answer
    assert answer["total_baggages"] == n_bags
    paid = [payment["amount"] for payment in answer["payment_history"][1:]]
    assert paid == ([] if charged is None else [charged])


def test_passengers_are_replaced() -> None:
    desk = small_desk()
    tell(desk, "update_reservation_passengers", reservation_id="ECO111", passengers=[BEN])
    assert world_of(desk).reservations["ECO111"]["passengers"] == [BEN]


def test_a_cancelled_flight_is_made_up_for_once() -> None:
    desk = small_desk()
    sent, is_error = tell(desk, "send_certificate", user_id="ada_berg_1000", amount=100)
    assert not is_error
    methods = world_of(desk).users["ada_berg_1000"]["payment_methods"]
    assert methods[sent["certificate_id"]]["amount"] == 100
    again, is_error = tell(desk, "send_certificate", user_id="ada_berg_1000", amount=100)
    assert is_error
    assert again["rule"] == "certificate_already_sent"


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_delay_counts_after_the_trip_was_changed_or_cancelled(is_cancelled: bool) -> None:
    desk = small_desk()
    tell(desk, "send_certificate", user_id="ada_berg_1000", amount=100)
    if is_cancelled:
        tell(desk, "cancel_reservation", reservation_id="LAT111")
    else:
        answer, is_error = tell(
            desk,
            "update_reservation_flights",
            reservation_id="LAT111",
            cabin="business",
            flights=SAME,
            payment_id=CARD,
        )
        assert not is_error, answer
    sent, is_error = tell(desk, "send_certificate", user_id="ada_berg_1000", amount=50)
    assert not is_error, sent


def test_a_reservation_tells_the_status_of_its_flights() -> None:
    answer, _ = tell(small_desk(), "get_reservation_details", reservation_id="AIR111")
    assert [segment["status"] for segment in answer["flights"]] == ["cancelled", "available"]


def test_a_search_is_short_and_in_order() -> None:
    desk = small_desk()
    found, _ = tell(
        desk, "search_direct_flight", origin="SEA", destination="DEN", date="2024-05-20"
    )
    assert [one["flight_number"] for one in found] == ["HAT100", "HAT101"]
    assert list(found[0]) == [
        "flight_number", "origin", "destination", "date", "departure", "arrival", "prices",
        "available_seats",
    ]  # fmt: skip


def test_a_one_stop_search_waits_for_the_night_flight() -> None:
    desk = small_desk()
    found, _ = tell(
        desk, "search_onestop_flight", origin="DEN", destination="LAX", date="2024-05-20"
    )
    legs = [[(leg["flight_number"], leg["date"], leg["arrival"]) for leg in pair] for pair in found]
    # HAT300 leaves at 04:00: after HAT201's landing at 02:00+1, never after HAT200's at 17:00.
    assert legs == [
        [("HAT201", "2024-05-20", "02:00+1"), ("HAT300", "2024-05-21", "07:00")],
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("get_user_details", {"user_id": "nobody"}, "user not found"),
        ("get_reservation_details", {"reservation_id": "nothing"}, "reservation not found"),
        ("get_reservation_details", {"reservation_id": "'; DROP TABLE users; --"}, "not found"),
        ("get_user_details", {"user_id": "\ud800"}, "cannot"),
        ("get_user_details", {}, "required"),
        ("get_user_details", {"user_id": 7}, "arguments.user_id"),
        ("get_user_details", {"user_id": "a", "more": 1}, "more"),
        ("cancel_all", {}, "unknown tool cancel_all"),
        ("respond_to_user", {"message": "hi"}, "not a tool of the desk"),
        ("book_reservation", booking(cabin="first"), "arguments.cabin"),
        ("book_reservation", booking(flights=flights("HAT999@20")), "HAT999 not found"),
        ("book_reservation", booking(flights=flights("HAT100@99")), "not found on date"),
        ("search_direct_flight", {"origin": "QQQ", "destination": "DEN", "date": "2024-05-20"},
         "no airport 'QQQ'"),
        ("search_direct_flight", {"origin": "SEA", "destination": "DEN", "date": "May 20"},
         "YYYY-MM-DD"),
        ("calculate", {"expression": "1/0"}, "division by zero"),
        ("calculate", {"expression": "__import__('os')"}, "invalid characters"),
        ("calculate", {"expression": "9**9**9"}, "too large"),
        ("calculate", {"expression": "((((1"}, "syntax"),
        ("calculate", {"expression": "(" * 150 + ")" * 150}, "longer"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_an_error_that_can_be_read(
    name: str, arguments: dict[str, Any], said: str
) -> None:
    answer, is_error = tell(small_desk(), name, **arguments)
    assert is_error
    assert said in answer["error"]


@pytest.mark.parametrize(
    ("expression", "value"), [("2 + 2", 4.0), ("(3*150+50)/3", 166.67), ("-(2.5-1)", -1.5)]
)
def test_a_sum_is_rounded_to_cents(expression: str, value: float) -> None:
    assert tell(small_desk(), "calculate", expression=expression) == (value, False)


def test_the_same_seed_makes_the_same_world() -> None:
    sizes = {"n_users": 12, "n_reservations": 30, "n_flights": 60}
    assert generate(5, **sizes) == generate(5, **sizes)
    assert generate(5, **sizes) != generate(6, **sizes)


def test_worlds_of_other_seeds_share_no_ids() -> None:
    ids: set[str] = set()
    for seed in range(20):
        world = generate(seed, n_users=20, n_reservations=40, n_flights=60)
        methods = (user["payment_methods"] for user in world.users.values())
        fresh = {*world.users, *world.reservations, *(key for one in methods for key in one)}
        assert not ids & fresh
        ids |= fresh


def test_a_generated_world_adds_up() -> None:
    world = generate(3)
    kinds: set[str] = set()
    for one in world.reservations.values():
        price = sum(segment["price"] for segment in one["flights"]) * len(one["passengers"])
        price += 30 * len(one["passengers"]) * (one["insurance"] == "yes")
        price += 50 * one["nonfree_baggages"]
        assert sum(payment["amount"] for payment in one["payment_history"]) == price
        assert one["reservation_id"] in world.users[one["user_id"]]["reservations"]
        stops = [segment["origin"] for segment in one["flights"]]
        stops.append(one["flights"][-1]["destination"])
        is_round = one["flight_type"] == "round_trip"
        assert stops[0] == one["origin"]
        assert stops[-1] == (one["origin"] if is_round else one["destination"])
        assert one["destination"] in stops
        kinds |= {
            world.flights[segment["flight_number"]]["dates"][segment["date"]]["status"]
            for segment in one["flights"]
        }
    assert kinds == {"available", "landed", "cancelled", "delayed", "on time", "flying"}


def test_every_lawful_change_of_a_generated_world_keeps_money_and_seats() -> None:
    """Cancelling whatever may be cancelled gives back what was paid, seat by seat."""
    world = generate(11, n_users=20, n_reservations=60, n_flights=90)
    desk = open_world(world)
    answers = [tell(desk, "cancel_reservation", reservation_id=key) for key in world.reservations]
    done = [answer for answer, is_error in answers if not is_error]
    assert done
    for answer in done:
        assert sum(payment["amount"] for payment in answer["payment_history"]) == 0
    after = world_of(desk)
    n_before, n_after = n_seats(world), n_seats(after)
    freed = sum(
        len(answer["passengers"])
        for answer in done
        for segment in answer["flights"]
        if segment["status"] == "available"
    )
    assert n_after - n_before == freed


def seats(world: World, number: str, day: str, cabin: str) -> int:
    n_seats: int = world.flights[number]["dates"][f"2024-05-{day}"]["available_seats"][cabin]
    return n_seats


def n_seats(world: World) -> int:
    return sum(
        sum(facts.get("available_seats", {}).values())
        for flight in world.flights.values()
        for facts in flight["dates"].values()
    )
