"""Conversion between units of length, mass, temperature, time and data, on exact fractions.

Factors are those that define the units (the inch is 0.0254 m, the pound 0.45359237 kg); none is measured. A result
is exact unless it begins with `about`: then it has more than `DIGITS` significant digits and is rounded to that many.
"""

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from palestra.envs.tools.base import Tool, ToolError

DIGITS = 15
"""Significant digits of a rounded result."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,2})?|[+-]?[0-9]{1,30}/[0-9]{1,30}")
_PLAIN = 30
"""Largest power of ten, up or down, that is written without an exponent."""

# Quantity, then a unit a line: symbol, factor to the quantity's first unit, further names.
_TABLE = """
length
m 1 meter metre
km 1000 kilometer kilometre
dm 0.1 decimeter decimetre
cm 0.01 centimeter centimetre
mm 0.001 millimeter millimetre
um 1e-6 µm μm micrometer micrometre
nm 1e-9 nanometer nanometre
in 0.0254 inch inches
ft 0.3048 foot feet
yd 0.9144 yard
mi 1609.344 mile
nmi 1852
mass
kg 1 kilogram
g 0.001 gram
mg 1e-6 milligram
ug 1e-9 µg μg microgram
t 1000 tonne
lb 0.45359237 lbs pound
oz 0.028349523125 ounce
st 6.35029318 stone
time
s 1 sec second
ms 0.001 millisecond
us 1e-6 µs μs microsecond
ns 1e-9 nanosecond
min 60 minute
h 3600 hr hour
d 86400 day
wk 604800 week
data
bit 1 b
B 8 byte
kbit 1e3 kb kilobit
Mbit 1e6 Mb megabit
Gbit 1e9 Gb gigabit
kB 8e3 KB kilobyte
MB 8e6 megabyte
GB 8e9 gigabyte
TB 8e12 terabyte
PB 8e15 petabyte
KiB 8192 kibibyte
MiB 8388608 mebibyte
GiB 8589934592 gibibyte
TiB 8796093022208 tebibyte
temperature
K 1 kelvin
C 1 °C celsius
F 5/9 °F fahrenheit
R 5/9 °R rankine
"""
_ZEROS = {"C": Fraction("273.15"), "F": Fraction("459.67") * Fraction(5, 9)}
"""What the zero of a temperature scale is in kelvin, where it is not absolute zero."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: x of it are `x * factor + zero` of the first unit of its quantity."""

    symbol: str
    quantity: str
    factor: Fraction
    zero: Fraction


def _read_table() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    quantity = ""
    for line in _TABLE.split("\n")[1:-1]:
        symbol, *rest = line.split()
        if not rest:
            quantity = symbol
            continue
        unit = Unit(symbol, quantity, Fraction(rest[0]), _ZEROS.get(symbol, Fraction(0)))
        for name in (symbol, *rest[1:]):
            units[name] = unit
            if len(name) > 2 and name.islower() and quantity != "temperature":
                units.setdefault(f"{name}s", unit)
    return units


UNITS = _read_table()
"""Every name of a unit; symbols are case-sensitive (`MB` and `Mb` differ), words are looked up in small letters."""


class UnitConverter(Tool):
    """Converts a value from one unit to another of the same quantity."""

    name = "convert"
    description = "Converts a value between units of length, mass, temperature, time or data, exactly."
    parameters = {
        "value": {"type": ["number", "string"], "description": "a number such as 2.5, or a fraction such as 1/3"},
        "unit": {"type": "string", "description": "the unit that it has, for example km or mile"},
        "to": {"type": "string", "description": "the unit that is wanted"},
    }

    def __call__(self, **arguments: Any) -> str:
        """Return the value in the unit `to`, followed by the unit's symbol.

        Raises:
            ToolError: The value is no number, a unit is unknown, the two measure different things, or a
                temperature lies below absolute zero.
        """
        value = _read_value(arguments["value"])
        unit, to = _find(arguments["unit"]), _find(arguments["to"])
        if unit.quantity != to.quantity:
            raise ToolError(f"{unit.symbol} is a unit of {unit.quantity} and {to.symbol} one of {to.quantity}.")
        base = value * unit.factor + unit.zero
        if unit.quantity == "temperature" and base < 0:
            raise ToolError("that temperature is below absolute zero.")
        return f"{shown((base - to.zero) / to.factor)} {to.symbol}"


def shown(value: Fraction) -> str:
    """Write a fraction as a decimal number; `about` before it says that it is rounded."""
    context = Context(prec=DIGITS, rounding=ROUND_HALF_EVEN)
    number = context.divide(Decimal(value.numerator), Decimal(value.denominator)).normalize(context)
    text = f"{number:f}" if abs(number.adjusted()) <= _PLAIN else f"{number:E}"
    return text if Fraction(number) == value else f"about {text}"


def _read_value(value: Any) -> Fraction:
    text = str(value).strip()  # a float by the digits that JSON had: 0.1 is a tenth
    if not _NUMBER.fullmatch(text):
        raise ToolError(f"'{text[:50]}' is no number such as 2.5, 1e3 or 1/3.")
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise ToolError("division by zero.") from None


def _find(name: str) -> Unit:
    name = name.strip()
    unit = UNITS.get(name) or UNITS.get(name.lower() if len(name) > 3 else name)
    if unit is None:
        close = get_close_matches(name[:50], UNITS, n=3, cutoff=0.5)
        hint = f"; near it are {', '.join(close)}" if close else f"; units: {', '.join(_symbols())}"
        raise ToolError(f"there is no unit '{name[:50]}'{hint}.")
    return unit


def _symbols() -> list[str]:
    return list(dict.fromkeys(unit.symbol for unit in UNITS.values()))
