"""The guide finds places, keeps tables, and says what is wrong."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from edgeagent.messages import Call
from edgeagent.scenarios.database import Database
from edgeagent.scenarios.restaurants.backend import N_TABLES, SEED, description, open_file
from edgeagent.scenarios.restaurants.guide import CITIES, generate

SHAPE = [
    "city", "cuisine", "has_live_music", "phone_number", "price_range", "restaurant_name",
    "serves_alcohol", "street_address",
]  # fmt: skip

_ids = itertools.count()


def tell(desk: Database, name: str, **arguments: str) -> tuple[Any, bool]:
    outcome = desk.call(Call(f"call_{next(_ids)}", name, arguments), 5.0)
    return json.loads(outcome.content), outcome.is_error


def a_place() -> dict[str, str]:
    return generate(SEED)[0]


def table(**changed: str) -> dict[str, str]:
    place = a_place()
    wanted = {"restaurant_name": place["restaurant_name"], "city": place["city"], "time": "18:30"}
    return {**wanted, **changed}


def test_the_tools_are_the_three_public_ones() -> None:
    signatures = {
        tool.name: (list(tool.parameters["properties"]), tool.parameters["required"])
        for tool in description().tools
    }
    assert signatures == {
        "respond_to_user": (["message"], ["message"]),
        "ReserveRestaurant": (
            ["restaurant_name", "city", "time", "date", "party_size"],
            ["restaurant_name", "city", "time"],
        ),
        "FindRestaurants": (
            ["cuisine", "city", "price_range", "has_live_music", "serves_alcohol"],
            ["cuisine", "city"],
        ),
    }


def test_the_guide_is_the_same_every_time() -> None:
    guide = generate(1)
    assert guide == generate(1)
    assert len(guide) == 200
    assert {place["city"] for place in guide} == set(CITIES)
    assert len({(place["city"], place["restaurant_name"]) for place in guide}) == 200
    assert all(isinstance(value, str) for place in guide for value in place.values())


def test_every_filter_holds() -> None:
    desk = open_file(None)
    place = a_place()
    asked = {
        key: place[key]
        for key in ("city", "cuisine", "price_range", "has_live_music", "serves_alcohol")
    }
    found, is_error = tell(desk, "FindRestaurants", **asked)
    assert not is_error
    assert place in found
    assert all({key: one[key] for key in asked} == asked for one in found)
    assert list(found[0]) == SHAPE


def test_a_search_forgives_case_and_blanks() -> None:
    place = a_place()
    found, _ = tell(
        open_file(None),
        "FindRestaurants",
        city=f" {place['city'].upper()}",
        cuisine=place["cuisine"].lower(),
    )
    assert place in found


@pytest.mark.parametrize(
    ("time", "kept"),
    [("18:30", "18:30"), ("6:30 pm", "18:30"), ("12 am", "00:00"), ("12:15 p.m.", "12:15"),
     ("7pm", "19:00"), ("8:05", "08:05")],
)  # fmt: skip
def test_a_table_is_kept(time: str, kept: str) -> None:
    desk = open_file(None)
    made, is_error = tell(desk, "ReserveRestaurant", **table(time=time))
    assert not is_error, made
    assert made == [{**a_place(), "date": "2019-03-01", "time": kept, "party_size": "2"}]
    rows = desk.connection.execute("SELECT date, time, party_size FROM reservations").fetchall()
    assert rows == [("2019-03-01", kept, "2")]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"restaurant_name": "Nowhere"}, "no Nowhere in"),
        ({"city": "Paris"}, "in Paris"),
        ({"time": "soon"}, "time 'soon'"),
        ({"time": "25:00"}, "time"),
        ({"time": "13 pm"}, "time"),
        ({"time": "7"}, "time"),
        ({"date": "2019-02-28"}, "date"),
        ({"date": "next week"}, "date"),
        ({"party_size": "7"}, "party_size"),
    ],
)
def test_a_table_that_cannot_be_kept_is_explained(changed: dict[str, str], said: str) -> None:
    desk = open_file(None)
    answer, is_error = tell(desk, "ReserveRestaurant", **table(**changed))
    assert is_error
    assert said in answer["error"]
    assert desk.connection.execute("SELECT COUNT(*) FROM reservations").fetchone() == (0,)


def test_a_full_place_keeps_no_more_tables() -> None:
    desk = open_file(None)
    for _ in range(N_TABLES):
        assert not tell(desk, "ReserveRestaurant", **table(date="tomorrow"))[1]
    answer, is_error = tell(desk, "ReserveRestaurant", **table(date="2019-03-02"))
    assert is_error
    assert "no table left" in answer["error"]
    assert not tell(desk, "ReserveRestaurant", **table(date="2019-03-03"))[1]


@pytest.mark.parametrize(
    ("city", "cuisine", "said"), [("Paris", "Thai", "Berkeley"), ("Oakland", "Martian", "Thai")]
)
def test_an_unknown_city_or_cuisine_lists_the_known_ones(
    city: str, cuisine: str, said: str
) -> None:
    answer, is_error = tell(open_file(None), "FindRestaurants", city=city, cuisine=cuisine)
    assert is_error
    assert said in answer["error"]
