"""The one gesture the airline makes: a certificate for a cancelled or delayed flight.

Knows the policy's amounts and that one disturbance of a reservation is made up for once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from edgeagent.messages import Json
from edgeagent.scenarios.airline.checks import (
    Forbidden,
    Rule,
    is_compensable,
    known_user,
    statuses,
)
from edgeagent.scenarios.airline.records import Records
from edgeagent.scenarios.airline.world import CANCELLED_COMPENSATION, DELAYED_COMPENSATION

AMOUNTS = {"cancelled": CANCELLED_COMPENSATION, "delayed": DELAYED_COMPENSATION}
"""Dollars per passenger."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A disturbed reservation that its user may complain about."""

    reservation_id: str
    kind: str
    """`cancelled` or `delayed`; a delay counts once the reservation was changed or cancelled."""
    n_passengers: int
    is_compensable: bool
    is_paid: bool

    @property
    def amount(self) -> int:
        """Dollars that the policy allows for it."""
        return AMOUNTS[self.kind] * self.n_passengers


def send_certificate(records: Records, user_id: str, amount: int) -> Json:
    """Put a certificate of the one right amount in the user's profile and tell its id."""
    user = known_user(records, user_id)
    found = list(claims(records, user))
    owed = [claim for claim in found if claim.is_compensable and not claim.is_paid]
    if not owed:
        if any(claim.is_paid for claim in found):
            raise Forbidden("a certificate was already sent", Rule.CERTIFICATE_ALREADY_SENT)
        raise Forbidden(
            "no cancelled flight, and no delayed flight that was changed or cancelled, gives "
            "this user a certificate",
            Rule.CERTIFICATE_NOT_ELIGIBLE,
        )
    claim = next((claim for claim in owed if claim.amount == amount), None)
    if claim is None:
        allowed = ", ".join(f"{claim.amount} for {claim.reservation_id}" for claim in owed)
        raise Forbidden(f"the amount must be {allowed}", Rule.CERTIFICATE_AMOUNT)
    certificate_id = _fresh_id(user_id, user, claim)
    user["payment_methods"][certificate_id] = {
        "source": "certificate",
        "amount": amount,
        "id": certificate_id,
    }
    records.save_user(user_id, user)
    records.connection.execute(
        "INSERT INTO claims VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET certificate_id = excluded.certificate_id",
        (claim.reservation_id, claim.kind, claim.n_passengers, certificate_id),
    )
    return {"certificate_id": certificate_id, "user_id": user_id, "amount": amount}


def claims(records: Records, user: Json) -> Iterator[Claim]:
    """Yield what the user's reservations suffered, in the order of the profile."""
    for reservation_id in user["reservations"]:
        reservation = records.reservation(reservation_id)
        if reservation is None:
            continue
        rows = records.connection.execute(
            "SELECT kind, certificate_id FROM claims WHERE reservation_id = ?", (reservation_id,)
        )
        noted: dict[str, str | None] = dict(rows.fetchall())
        kinds = set(noted)
        if "cancelled" in statuses(records, reservation):
            kinds.add("cancelled")
        for kind in sorted(kinds):
            yield Claim(
                reservation_id,
                kind,
                len(reservation["passengers"]),
                is_compensable(user, reservation),
                noted.get(kind) is not None,
            )


def _fresh_id(user_id: str, user: Json, claim: Claim) -> str:
    for attempt in range(1000):
        text = f"{user_id} {claim.reservation_id} {claim.kind} {attempt}"
        digits = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) % 9_000_000
        made = f"certificate_{1_000_000 + digits}"
        if made not in user["payment_methods"]:
            return made
    raise AssertionError("a thousand certificate ids in a row were taken")
