"""The executable categories' functions that need no network: what a call and its answer amount to.

Both sides of a comparison are run here, so only what tells calls apart has to be kept. Arguments
come from models: sizes are bounded, and a wrong type raises as it would in any Python function.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from edgeagent.messages import Json

LARGEST = 5000
"""Of numbers that decide how long a function runs."""
LARGEST_FACTORED = 10**12

Numbers = Sequence[float]


def _bounded(number: int, largest: int = LARGEST) -> int:
    if not 0 <= number <= largest:
        raise ValueError(f"{number} is out of range")
    return number


def add_binary_numbers(a: str, b: str) -> str:
    """Return the sum in binary digits."""
    return bin(int(a, 2) + int(b, 2))[2:]


def book_room(
    room_type: Json,
    check_in_date: str,
    check_out_date: str,
    customer_id: str,
    price: float = 0.0,
    discount_code: str | None = None,
) -> Json:
    """Return the booking with its total price."""
    days = [datetime.strptime(day, "%m-%d-%Y") for day in (check_in_date, check_out_date)]
    return {
        "customer_id": customer_id,
        "room_type": room_type,
        "check_in_date": check_in_date,
        "check_out_date": check_out_date,
        "discount_code": discount_code,
        "total_price": price * (days[1] - days[0]).days,
    }


def calc_binomial_probability(n: int, k: int, p: float) -> float:
    """Return the probability of k successes in n trials."""
    return math.comb(_bounded(n), k) * p**k * (1 - p) ** (n - k)


def calculate_cosine_similarity(a: Numbers, b: Numbers) -> float:
    """Return the cosine of the angle between two vectors."""
    dot = sum(one * other for one, other in zip(a, b, strict=True))
    return dot / (math.hypot(*a) * math.hypot(*b))


def calculate_density(mass: float, volume: float) -> float:
    """Return mass per volume."""
    return mass / volume


def calculate_displacement(initial_velocity: float, acceleration: float, time: float) -> float:
    """Return the way under constant acceleration."""
    return initial_velocity * time + 0.5 * acceleration * time**2


def calculate_electrostatic_potential_energy(charge: float, voltage: float) -> float:
    """Return charge times voltage."""
    return charge * voltage


def calculate_final_velocity(initial_velocity: float, acceleration: float, time: float) -> float:
    """Return the velocity under constant acceleration."""
    return initial_velocity + acceleration * time


def calculate_future_value(present_value: float, interest_rate: float, periods: float) -> float:
    """Return the value after compound interest."""
    return float(present_value * (1 + interest_rate) ** periods)


def calculate_investment_value(
    initial_investment: float,
    annual_contribution: float,
    years: int,
    annual_return: float,
    inflation_rate: Numbers,
    adjust_for_inflation: bool = True,
) -> float:
    """Return what yearly payments grow to, in today's money if so asked."""
    value = initial_investment
    for year in range(_bounded(years)):
        value = (value + annual_contribution) * (1 + annual_return)
        if adjust_for_inflation:
            value /= 1 + inflation_rate[year]
    return value


def calculate_mean(numbers: Numbers) -> float:
    """Return the mean."""
    return sum(numbers) / len(numbers)


def calculate_nutritional_needs(
    weight: float, height: float, age: float, gender: str, activity_level: float, goal: str
) -> Json:
    """Return calories and grams of protein, fat and carbohydrates for a day."""
    basal = 10 * weight + 6.25 * height - 5 * age + {"male": 5, "female": -161}.get(gender, -78)
    spent = basal * (1.2, 1.375, 1.55, 1.725, 1.9)[_bounded(int(activity_level) - 1, 4)]
    calories = spent + {"lose": -500, "gain": 500}.get(goal, 0)
    protein, fat = weight * 1.2, calories * 0.25 / 9
    carbohydrates = (calories - protein * 4 - fat * 9) / 4
    return [calories, protein, fat, carbohydrates]


def calculate_permutations(n: int, k: int) -> int:
    """Return the number of ordered choices of k out of n."""
    return math.perm(_bounded(n), k)


def calculate_standard_deviation(numbers: Numbers) -> float:
    """Return the standard deviation of the whole population."""
    mean = calculate_mean(numbers)
    return math.sqrt(sum((one - mean) ** 2 for one in numbers) / len(numbers))


def calculate_triangle_area(base: float, height: float) -> float:
    """Return half of base times height."""
    return base * height / 2


def estimate_derivative(function: str, x: float) -> float:
    """Return the slope of a one-argument lambda, written as text, by a small step."""
    tree = ast.parse(function.strip(), mode="eval").body
    if not (isinstance(tree, ast.Lambda) and len(tree.args.args) == 1):
        raise ValueError("a lambda of one argument is expected")
    name, step = tree.args.args[0].arg, 1e-6
    above, below = (_evaluated(tree.body, {name: x + side}) for side in (step, -step))
    return (above - below) / (2 * step)


def geometry_area_circle(radius: float) -> float:
    """Return the area of a circle."""
    return math.pi * radius**2


def get_distance(a: Numbers, b: Numbers) -> float:
    """Return the distance between two points of a plane."""
    return math.hypot(a[0] - b[0], a[1] - b[1])


def get_fibonacci_number(n: int) -> int:
    """Return the n-th Fibonacci number, 0 being the first."""
    a, b = 0, 1
    for _ in range(_bounded(n)):
        a, b = b, a + b
    return a


def get_fibonacci_sequence(n: int) -> list[int]:
    """Return the first n Fibonacci numbers."""
    return [get_fibonacci_number(one) for one in range(_bounded(n, 500))]


def get_prime_factors(number: int) -> list[int]:
    """Return the prime factors, smallest first, each as often as it divides."""
    left, factors, divisor = _bounded(number, LARGEST_FACTORED), [], 2
    while divisor * divisor <= left:
        while left % divisor == 0:
            factors.append(divisor)
            left //= divisor
        divisor += 1
    return [*factors, left] if left > 1 else factors


def linear_regression(x: Numbers, y: Numbers, point: float) -> float:
    """Return the height of the least-squares line at a point."""
    mean_x, mean_y = calculate_mean(x), calculate_mean(y)
    spread = sum((one - mean_x) ** 2 for one in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    return slope * point + mean_y - slope * mean_x


def mat_mul(a: Sequence[Numbers], b: Sequence[Numbers]) -> Json:
    """Return the product of two matrices."""
    columns = list(zip(*b, strict=True))
    return [
        [sum(one * other for one, other in zip(row, column, strict=True)) for column in columns]
        for row in a
    ]


def math_factorial(n: int) -> int:
    """Return n factorial."""
    return math.factorial(_bounded(n))


def math_gcd(a: int, b: int) -> int:
    """Return the greatest common divisor."""
    return math.gcd(a, b)


def math_lcm(a: int, b: int) -> int:
    """Return the least common multiple."""
    return math.lcm(a, b)


def max_points(points: Sequence[Sequence[int]]) -> int:
    """Return how many of the points lie on one line at most."""
    _bounded(len(points), 100)
    best = min(len(points), 1)
    for at, (x, y) in enumerate(points):
        slopes: dict[float, int] = {}
        for other_x, other_y in points[at + 1 :]:
            slope = math.inf if other_x == x else (other_y - y) / (other_x - x)
            slopes[slope] = slopes.get(slope, 0) + 1
        best = max(best, 1 + max(slopes.values(), default=0))
    return best


def mortgage_calculator(loan_amount: float, interest_rate: float, loan_period: float) -> float:
    """Return the monthly payment on a loan over years."""
    monthly, n = interest_rate / 12, loan_period * 12
    growth = (1 + monthly) ** n
    return float(loan_amount * monthly * growth / (growth - 1))


def order_food(item: Sequence[str], quantity: Numbers, price: Numbers) -> float:
    """Return the total price."""
    return sum(n * each for _, n, each in zip(item, quantity, price, strict=True))


def polygon_area(vertices: Sequence[Numbers]) -> float:
    """Return the area inside the vertices, taken in their order."""
    following = [*vertices[1:], vertices[0]]
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(vertices, following, strict=True))) / 2


def quadratic_roots(a: float, b: float, c: float) -> Json:
    """Return both roots, each as real and imaginary part where they are complex."""
    inside = b**2 - 4 * a * c
    if inside >= 0:
        root = math.sqrt(inside)
        return [(-b + root) / (2 * a), (-b - root) / (2 * a)]
    real, imaginary = -b / (2 * a), math.sqrt(-inside) / (2 * a)
    return [[real, imaginary], [real, -imaginary]]


def sort_array(array: Numbers, reverse: bool = False) -> list[float]:
    """Return the numbers in order."""
    return sorted(array, reverse=reverse)


_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_NAMES = ("sin", "cos", "tan", "exp", "log", "sqrt", "pi", "e")


def _evaluated(node: ast.expr, names: Mapping[str, float]) -> float:
    """Return the value of an arithmetic expression with a few names of `math`."""
    match node:
        case ast.Constant(int() | float() as value):
            return value
        case ast.Name(name) if name in names:
            return names[name]
        case ast.UnaryOp(ast.USub(), operand):
            return -_evaluated(operand, names)
        case ast.BinOp(left, ast.Pow(), right):
            return math.pow(_evaluated(left, names), _evaluated(right, names))
        case ast.BinOp(left, kind, right) if type(kind) in _OPERATORS:
            return _OPERATORS[type(kind)](_evaluated(left, names), _evaluated(right, names))
        case ast.Attribute(ast.Name("math"), name) if name in ("pi", "e"):
            return float(getattr(math, name))
        case ast.Call(ast.Attribute(ast.Name("math"), name), [one], []) if name in _NAMES[:-2]:
            return float(getattr(math, name)(_evaluated(one, names)))
    raise ValueError("an expression that is not known here")


def _renamed(function: Callable[..., Json], **names: str) -> Callable[..., Json]:
    """Return the function under the benchmark's names for its arguments."""

    def renamed(**arguments: Json) -> Json:
        return function(**{names.get(key, f"no {key}"): one for key, one in arguments.items()})

    return renamed


FUNCTIONS: Mapping[str, Callable[..., Json]] = {
    "maxPoints": max_points,
    "calculate_cosine_similarity": _renamed(calculate_cosine_similarity, vectorA="a", vectorB="b"),
    "get_distance": _renamed(get_distance, pointA="a", pointB="b"),
    "mat_mul": _renamed(mat_mul, matA="a", matB="b"),
    **{
        function.__name__: function
        for function in (
            add_binary_numbers, book_room, calc_binomial_probability, calculate_density,
            calculate_displacement, calculate_electrostatic_potential_energy,
            calculate_final_velocity, calculate_future_value, calculate_investment_value,
            calculate_mean, calculate_nutritional_needs, calculate_permutations,
            calculate_standard_deviation, calculate_triangle_area, estimate_derivative,
            geometry_area_circle, get_fibonacci_number, get_fibonacci_sequence,
            get_prime_factors, linear_regression, math_factorial, math_gcd, math_lcm,
            mortgage_calculator, order_food, polygon_area, quadratic_roots, sort_array,
        )
    },
}  # fmt: skip
"""Name in the benchmark → function; 32 of its 51, the others ask servers."""
