"""What invented facts say of things: names, amounts, places and days, each said and asked for in many ways."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_ONSETS = tuple(
    "b br c ch d dr f fl g gr h j k l m n p pr qu r s sh st t tr v w y z".split()  # noqa: SIM905
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "oo", "ou")
_CODAS = ("", "", "l", "n", "r", "s", "t", "m", "ck", "x", "nd")
_MONTHS = tuple(
    "January February March April May June July August September October November December".split()  # noqa: SIM905
)
_COOKED = ("baked", "boiled", "cold", "dried", "fresh", "fried", "pickled", "roast", "smoked")
_FOODS = tuple(
    "beans beets carrots cheese corn eggs figs fish ham lentils nuts onions peas plums rice".split()  # noqa: SIM905
)
_WOODS = tuple(
    "ash bamboo beech birch cedar cherry cork elm ivory linen maple oak pine reed teak walnut willow wool".split()  # noqa: SIM905
)
_METALS = tuple(
    "amber brass bronze clay copper glass iron lead leather marble nickel rubber silk silver steel tin zinc".split()  # noqa: SIM905
)

Value = Callable[[random.Random], str]


@dataclass(frozen=True)
class Relation:
    """How a fact is said and asked for; `{n}` is the thing and `{v}` what is said of it.

    `label` is what such a fact is called, where it has a short name: every labelled fact is also said and asked for by
    that, as lists and forms do.
    """

    own_says: tuple[str, ...]
    own_asks: tuple[str, ...]
    value: Value
    label: str | None = None

    @property
    def says(self) -> tuple[str, ...]:
        """All the ways in which it is said."""
        if self.label is None:
            return self.own_says
        label = self.label
        return (
            *self.own_says,
            f"The {label} of the {{n}} is {{v}}.",
            f"The {{n}}'s {label} is {{v}}.",
            f"The {{n}}: {label} {{v}}.",
            f"{label.capitalize()} of the {{n}}: {{v}}.",
        )

    @property
    def asks(self) -> tuple[str, ...]:
        """All the ways in which it is asked for."""
        if self.label is None:
            return self.own_asks
        label = self.label
        return (
            *self.own_asks,
            f"What is the {label} of the {{n}}?",
            f"What is the {{n}}'s {label}?",
            f"Tell me the {label} of the {{n}}.",
        )


def invented_word(generator: random.Random) -> str:
    """A name of one to three made-up syllables."""
    return "".join(
        generator.choice(_ONSETS) + generator.choice(_VOWELS) + generator.choice(_CODAS)
        for _ in range(generator.choice((1, 2, 2, 2, 3)))
    ).capitalize()


def _person(generator: random.Random) -> str:
    first, last = invented_word(generator), invented_word(generator)
    return generator.choice((f"{first} {last}", f"{first} {last}", f"Mrs {last}", f"Dr {last}"))


def _year(generator: random.Random) -> str:
    return str(generator.randint(1700, 2030))


def _amount(*units: str) -> Value:
    def value(generator: random.Random) -> str:
        number = generator.choice((generator.randint(2, 99), generator.randint(100, 9999)))
        return f"{number} {generator.choice(units)}"

    return value


def _code(generator: random.Random) -> str:
    letters = "".join(generator.choice("ABCDEFGHKLMNPRSTVWXZ") for _ in range(2))
    return f"{letters}{generator.randint(10, 999)}"


def _day(generator: random.Random) -> str:
    return f"{generator.randint(1, 28)} {generator.choice(_MONTHS)}"


def _time(generator: random.Random) -> str:
    return f"{generator.randint(1, 23)}:{generator.randint(0, 59):02}"


def _address(generator: random.Random) -> str:
    kind = generator.choice(("Street", "Road", "Lane", "Square"))
    return f"{generator.randint(1, 199)} {invented_word(generator)} {kind}"


def _room(generator: random.Random) -> str:
    return f"room {generator.randint(2, 980)}"


def _prize(generator: random.Random) -> str:
    return f"{invented_word(generator)} {generator.choice(('Prize', 'Cup', 'Medal', 'Award'))}"


def _pair(first: Sequence[str], second: Sequence[str], between: str) -> Value:
    return lambda generator: between.join((generator.choice(first), generator.choice(second)))


RELATIONS = {
    "name": Relation(
        (
            "The {n} is called {v}.",
            "Everyone calls the {n} {v}.",
            "{v} is the {n}'s name.",
            "They named the {n} {v}.",
        ),
        ("What is the {n} called?", "How do they call the {n}?"),
        invented_word,
        "name",
    ),
    "owner": Relation(
        (
            "The {n} belongs to {v}.",
            "{v} owns the {n}.",
            "The {n} is the property of {v}.",
        ),
        ("Who owns the {n}?", "Whose {n} is this?", "Who does the {n} belong to?"),
        _person,
        "owner",
    ),
    "price": Relation(
        (
            "The {n} costs {v}.",
            "One pays {v} for the {n}.",
            "The {n} was bought for {v}.",
        ),
        ("How much does the {n} cost?", "What did the {n} cost?", "How expensive is the {n}?"),
        _amount("euros", "dollars", "crowns", "francs"),
        "price",
    ),
    "weight": Relation(
        ("The {n} weighs {v}.", "On the scales the {n} shows {v}."),
        ("How much does the {n} weigh?", "How heavy is the {n}?"),
        _amount("kilograms", "pounds", "grams", "tons"),
        "weight",
    ),
    "year": Relation(
        (
            "The {n} first came here in {v}.",
            "In {v} the {n} arrived.",
            "The {n} has been here since {v}.",
        ),
        ("When did the {n} come here?", "Since when is the {n} here?", "When did the {n} arrive?"),
        _year,
    ),
    "place": Relation(
        (
            "The {n} comes from {v}.",
            "The {n} is from {v}.",
            "{v} is where the {n} comes from.",
            "The {n} was brought from {v}.",
        ),
        ("Where does the {n} come from?", "Where is the {n} from?"),
        invented_word,
        "origin",
    ),
    "finder": Relation(
        ("{v} found the {n}.", "The {n} was found by {v}.", "It was {v} who found the {n}."),
        ("Who found the {n}?", "By whom was the {n} found?", "Who discovered the {n}?"),
        _person,
        "finder",
    ),
    "number": Relation(
        (
            "The {n} has the number {v}.",
            "The {n} is listed as {v}.",
            "{v} is the number of the {n}.",
        ),
        ("Which number does the {n} have?", "Under what number is the {n} listed?"),
        _code,
        "number",
    ),
    "day": Relation(
        ("The {n} is shown on {v}.", "On {v} the {n} can be seen."),
        ("When is the {n} shown?", "On which day is the {n} shown?", "When can one see the {n}?"),
        _day,
        "day",
    ),
    "friend": Relation(
        ("The {n} is looked after by {v}.", "{v} takes care of the {n}."),
        ("Who takes care of the {n}?", "Who looks after the {n}?"),
        _person,
        "keeper",
    ),
    "length": Relation(
        ("The {n} is {v} long.", "From end to end the {n} measures {v}."),
        ("How long is the {n}?",),
        _amount("metres", "centimetres", "inches"),
        "length",
    ),
    "height": Relation(
        ("The {n} is {v} high.", "The {n} reaches a height of {v}."),
        ("How high is the {n}?", "How tall is the {n}?"),
        _amount("metres", "feet", "millimetres"),
        "height",
    ),
    "speed": Relation(
        ("The {n} moves at {v} an hour.", "At its best the {n} reaches {v} an hour."),
        ("How fast is the {n}?", "How fast does the {n} move?"),
        _amount("miles", "kilometres", "knots"),
        "speed",
    ),
    "age": Relation(
        ("The {n} is {v} old.", "The {n} has reached the age of {v}."),
        ("How old is the {n}?",),
        _amount("years", "months", "weeks"),
        "age",
    ),
    "noise": Relation(
        ("The {n} is as loud as {v}.", "The {n} makes a noise of {v}."),
        ("How loud is the {n}?", "How much noise does the {n} make?"),
        _amount("decibels"),
        "noise level",
    ),
    "power": Relation(
        ("The {n} needs {v}.", "The {n} runs on {v}."),
        ("How much power does the {n} need?", "What power does the {n} run on?"),
        _amount("watts", "volts", "kilowatts"),
        "power",
    ),
    "heat": Relation(
        ("The {n} is kept at {v}.", "Around the {n} it must be {v}."),
        ("At what temperature is the {n} kept?", "How warm must the {n} be kept?"),
        _amount("degrees"),
        "temperature",
    ),
    "seen": Relation(
        ("The {n} was seen by {v}.", "{v} came to see the {n}."),
        ("How many saw the {n}?", "How many came to see the {n}?"),
        _amount("people", "visitors", "children"),
    ),
    "painter": Relation(
        ("{v} painted the {n}.", "A picture of the {n} was painted by {v}."),
        ("Who painted the {n}?", "By whom was the {n} painted?"),
        _person,
        "painter",
    ),
    "doctor": Relation(
        ("{v} examined the {n}.", "The {n} was examined by {v}."),
        ("Who examined the {n}?", "By whom was the {n} examined?"),
        _person,
        "examiner",
    ),
    "seller": Relation(
        ("{v} sold the {n}.", "The {n} was bought from {v}.", "The {n} was sold by {v}."),
        ("Who sold the {n}?", "From whom was the {n} bought?"),
        _person,
        "seller",
    ),
    "address": Relation(
        ("The {n} is kept at {v}.", "The {n} can be found at {v}.", "The {n} lives at {v}."),
        ("Where is the {n} kept?", "At which address is the {n}?"),
        _address,
        "address",
    ),
    "room": Relation(
        ("The {n} is in {v}.", "In {v} stands the {n}."),
        ("Which room is the {n} in?", "In which room is the {n}?"),
        _room,
        "room",
    ),
    "food": Relation(
        ("The {n} likes {v} best.", "Nothing pleases the {n} like {v}."),
        ("What does the {n} like best?",),
        _pair(_COOKED, _FOODS, " "),
        "favourite food",
    ),
    "made of": Relation(
        ("The {n} is made of {v}.", "They used {v} for the {n}."),
        ("What is the {n} made of?", "What was used for the {n}?"),
        _pair(_WOODS, _METALS, " and "),
        "material",
    ),
    "made in": Relation(
        ("The {n} was made in {v}.", "In {v} they made the {n}."),
        ("When was the {n} made?", "In which year was the {n} made?"),
        _year,
    ),
    "hour": Relation(
        ("The {n} is fed at {v}.", "At {v} the {n} gets its food."),
        ("At what time is the {n} fed?", "When does the {n} get its food?"),
        _time,
        "feeding time",
    ),
    "prize": Relation(
        ("The {n} won the {v}.", "The {v} went to the {n}."),
        ("Which prize did the {n} win?", "What did the {n} win?"),
        _prize,
        "prize",
    ),
    "deadline": Relation(
        ("The {n} must be returned by {v}.", "The {n} is lent until {v}."),
        ("By when must the {n} be returned?", "Until when is the {n} lent?"),
        _day,
        "return date",
    ),
}
_THINGS = """
album alarm anchor antenna armchair arrow basket battery bell blanket boiler brooch candle cannon carpet castle
ceiling chapel chest compass computer contract cottage curtain desk drawer drum elevator engine factory ferry furnace
garage garden gate generator globe hammer harbour harp heater helmet hotel hut jacket jar kettle key ladder lamp
lantern lens letter library lighthouse lock machine manuscript map market medal medicine mill mine mirror monastery
monument motor museum needle organ painting palace parcel park passport pendant piano pipe plough poster printer pump
quilt radio restaurant ring robot saddle school scooter sculpture shed shop shovel station stove submarine sword tank
telescope temple theatre ticket tower tunnel turbine vase violin well wheel windmill
"""
MORE_THINGS = tuple(_THINGS.split())
