"""Values that nobody has seen before: names, ids, addresses, dates, amounts.

A model that must copy them cannot remember them instead. Everything comes from the `Random` given.
"""

from __future__ import annotations

from random import Random


def _parts(text: str) -> tuple[str, ...]:
    return tuple(text.split(" "))


_ONSETS = _parts(
    " b br c ch cl cr d dr f fl fr g gl gr h j k kl l m n p pl pr qu r s sh sk sl sm st t th tr v"
    " w y z"
)
_VOWELS = _parts("a e i o u ai ea ee ie oa oo ou y")
_CODAS = _parts("b ck d ff g ll m n nd ng nt p r rd rk rn s sh ss st t th x" + " " * 20)
_COMMON = _parts(
    "a am an and as at be bus by car de do due e fan he her i in is it j l la led me my no of on or"
    " pet put s san see set she so the to try two u up us via we"
)
"""Common words: a blank joins them to one token, and a name that begins like one begins with other
tokens behind a blank than behind a quote."""
SHARE_COMMON = 0.15
_STREETS = _parts("Street Avenue Road Drive Lane Boulevard Way Court Place Highway Parkway Square")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def word(rng: Random, n_syllables: int = 0) -> str:
    """Return a capitalised invented word."""
    n = n_syllables or rng.choices((1, 2, 3), (4, 6, 1))[0]
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(n)]
    if rng.random() < SHARE_COMMON:
        parts.insert(0, rng.choice(_COMMON))
    return "".join(parts).capitalize()


def name(rng: Random, n_words: int, vocabulary: tuple[str, ...] = ()) -> str:
    """Return a name of `n_words` words, half of them invented, half from `vocabulary`."""
    words = (
        rng.choice(vocabulary).capitalize() if vocabulary and rng.random() < 0.5 else word(rng)
        for _ in range(n_words)
    )
    return " ".join(words)


def digits(rng: Random, n: int) -> str:
    """Return `n` random digits."""
    return "".join(rng.choice("0123456789") for _ in range(n))


def phone(rng: Random) -> str:
    """Return a telephone number in one of three spellings."""
    a, b, c = digits(rng, 3), digits(rng, 3), digits(rng, 4)
    return rng.choice((f"{a}-{b}-{c}", f"+1 {a}-{b}-{c}", f"({a}) {b}-{c}"))


def address(rng: Random, vocabulary: tuple[str, ...] = ()) -> str:
    """Return a street address."""
    return (
        f"{rng.randint(1, 9999)} {name(rng, rng.randint(1, 2), vocabulary)} {rng.choice(_STREETS)}"
    )


def airport(rng: Random) -> str:
    """Return three capital letters."""
    return "".join(rng.choices(_LETTERS, k=3))


def reservation_id(rng: Random) -> str:
    """Return six capital letters and digits."""
    return "".join(rng.choices(_LETTERS + "0123456789", k=6))


def user_id(rng: Random) -> str:
    """Return `first_last_1234`."""
    return f"{word(rng, rng.randint(1, 2))}_{word(rng, rng.randint(1, 3))}_{digits(rng, 4)}".lower()


def flight_number(rng: Random) -> str:
    """Return three letters and three digits."""
    return rng.choice(("HAT", airport(rng))) + digits(rng, 3)


def payment_id(rng: Random) -> str:
    """Return an id of a card or a certificate."""
    return f"{rng.choice(('credit_card', 'gift_card', 'certificate'))}_{digits(rng, 7)}"


def date(rng: Random) -> str:
    """Return a day of this decade as `2024-05-18`."""
    return f"20{rng.randint(18, 29)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def clock(rng: Random) -> str:
    """Return a time of day, `18:30`."""
    return f"{rng.randint(0, 23):02}:{rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50)):02}"


def email(rng: Random) -> str:
    """Return an address at a reserved domain."""
    return f"{word(rng)}.{word(rng)}{digits(rng, rng.randint(0, 4))}@example.com".lower()


def amount(rng: Random) -> str:
    """Return a sum of money without its currency."""
    return str(rng.randint(1, 2500)) if rng.random() < 0.7 else f"{rng.uniform(1, 900):.2f}"
