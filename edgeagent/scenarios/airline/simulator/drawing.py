"""One customer in the making: what was drawn so far, and what of the world fits to it.

Names and routes whose checksum says so are reserved for evaluation: training never meets them
as the customer's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from edgeagent.messages import Json
from edgeagent.scenarios.airline.names import FIRST_NAMES, LAST_NAMES
from edgeagent.scenarios.airline.world import World


@dataclass(slots=True)
class Draw:
    """One customer in the making."""

    world: World
    rng: random.Random
    held_out: bool
    user_id: str = ""
    reservation_id: str | None = None
    """Of the wish before."""
    seen: set[str] = field(default_factory=set)
    last_kind: str = ""
    gone: set[str] = field(default_factory=set)
    """Reservations that a wish before may have cancelled."""
    stays: float = 0.6
    """How often a further wish is about the reservation of the wish before, if it fits."""

    @property
    def user(self) -> Json:
        """The customer's document."""
        return self.world.users[self.user_id]

    def own(self, fits: Callable[[Json, list[str]], bool]) -> Json | None:
        """Draw a reservation that fits, of this user or, before there is one, of any user."""
        reservations = self.world.reservations
        if self.user_id:
            ids: Sequence[str] = [r for r in self.user["reservations"] if r not in self.gone]
            if (
                self.reservation_id is not None
                and self.reservation_id in ids
                and self.rng.random() < self.stays
            ):
                ids = [self.reservation_id]
        else:
            ids = [r for r in reservations if self.is_ours(reservations[r]["user_id"])]
        found = [r for r in ids if fits(reservations[r], self.statuses(reservations[r]))]
        return reservations[self.rng.choice(found)] if found else None

    def is_ours(self, user_id: str) -> bool:
        """Tell whether this user belongs to the split that is drawn."""
        return is_reserved(self.world.users[user_id]["name"]["last_name"]) == self.held_out

    def statuses(self, reservation: Json) -> list[str]:
        """Return the status of each segment."""
        flights = self.world.flights
        return [
            flights[s["flight_number"]]["dates"][s["date"]]["status"]
            for s in reservation["flights"]
        ]

    def name(self) -> dict[str, str]:
        """Draw a name of the split that is drawn."""
        names = [name for name in LAST_NAMES if is_reserved(name) == self.held_out]
        return {"first_name": self.rng.choice(FIRST_NAMES), "last_name": self.rng.choice(names)}

    def person(self) -> dict[str, str]:
        """Draw somebody with a date of birth."""
        year, month, day = (
            self.rng.randrange(1948, 2012), self.rng.randrange(1, 13), self.rng.randrange(1, 29)
        )  # fmt: skip
        return {**self.name(), "dob": f"{year}-{month:02d}-{day:02d}"}


def is_reserved(text: str) -> bool:
    """Tell whether a name or a route is kept for evaluation: about one in eight."""
    return crc32(text.encode()) % 8 == 0
