"""Questions about capitals, animals, colors, words and simple definitions, with their answers."""
# ruff: noqa: E501, the lines are English

from __future__ import annotations

from collections.abc import Callable
from random import Random

from training import words
from training.document import Turn, ask
from training.vary import a, capital, listing, vary


def capital_of(rng: Random) -> list[Turn]:
    country, city = rng.choice(list(words.CAPITALS.items()))
    if rng.random() < 0.75:
        question = "[What is the capital of {country}?|What is the capital city of {country}?|Which city is the capital of {country}?|{Country}: what is its capital?|Tell me the capital of {country}.|What's the capital of {country}?|Do you know the capital of {country}?|Name the capital of {country}.]"
        answer = "[The capital of {country} is {city}.|The capital of {country} is {city}.|The capital of {country} is {city}.|{city} is the capital of {country}.]"
    else:
        question = "[{city} is the capital of which country?|Of which country is {city} the capital?|Which country has the capital {city}?]"
        country = "the United Kingdom" if city == "London" else country
        answer = "{city} is the capital of {country}."
    slots = {"country": country, "Country": capital(country), "city": city}
    return ask(vary(rng, question, **slots), vary(rng, answer, **slots))


def continent(rng: Random) -> list[Turn]:
    name = rng.choice(list(words.CONTINENTS))
    countries = words.CONTINENTS[name]
    if rng.random() < 0.7:
        country = rng.choice(countries)
        return ask(
            vary(rng, "[Where is {c}?|On which continent is {c}?|Which continent is {c} in?]", c=country),
            f"{capital(country)} {'are' if country.endswith('s') else 'is'} in {name}.",
        )
    some = countries[:3]
    return ask(
        vary(rng, "[Name|List|Give me] three countries in {name}.", name=name),
        f"Three countries in {name} are {listing(some)}.",
    )


def animal(rng: Random) -> list[Turn]:
    name = rng.choice(list(words.ANIMAL_FACTS))
    sound, young, home, food, legs = words.ANIMAL_FACTS[name]
    question, answer = rng.choice(
        (
            ("[What sound does {x} make?|What does {x} say?|Which sound does {x} make?]", "{X} says \"{sound}\"."),
            ("[What is a baby {name} called?|What do you call a baby {name}?|What is the young of {x} called?]", "A baby {name} is called {young}."),
            ("[Where does {x} live?|Where do you find {x}?]", "{X} lives in {home}."),
            ("[What does {x} eat?|What do you feed {x}?]", "{X} eats {food}."),
            ("[How many legs does {x} have?|How many legs has {x}?]", "{X} has {legs} legs."),
        )
    )  # fmt: skip
    slots = {"x": a(name), "X": capital(a(name)), "name": name, "sound": sound, "young": a(young), "food": food}
    return ask(vary(rng, question, **slots), vary(rng, answer, home=home, legs=legs, **slots))


def color(rng: Random) -> list[Turn]:
    thing, shade = rng.choice(list(words.COLOR_OF.items()))
    spelled = rng.choice(("color", "color", "colour"))
    return ask(
        vary(
            rng,
            "[What {c} is {t}?|Which {c} is {t}?|What is the {c} of {t}?|Tell me the {c} of {t}.]",
            c=spelled,
            t=thing,
        ),
        f"{capital(thing)} is {shade}.",
    )


def word_form(rng: Random) -> list[Turn]:
    kind = rng.random()
    if kind < 0.5:
        left, right = rng.sample(rng.choice(words.OPPOSITES), 2)
        question = vary(
            rng,
            "[What is the opposite of {q}{w}{q}?|Give me the opposite of {q}{w}{q}.|Opposite of {q}{w}{q}?]",
            w=left,
            q=rng.choice(("", '"')),
        )
        return ask(question, f'The opposite of "{left}" is "{right}".')
    if kind < 0.75:
        one, many = rng.choice(list(words.PLURALS.items()))
        return ask(
            vary(rng, '[What is the plural of "{w}"?|Give me the plural of "{w}".|What is the plural of {w}?]', w=one),
            f'The plural of "{one}" is "{many}".',
        )
    now, past = rng.choice(list(words.PAST.items()))
    return ask(
        vary(rng, '[What is the past tense of "{w}"?|Give me the past tense of "{w}".]', w=now),
        f'The past tense of "{now}" is "{past}".',
    )


def definition(rng: Random) -> list[Turn]:
    term, meaning = rng.choice(list(words.DEFINITIONS.items()))
    term = capital(term) if rng.random() < 0.05 else term
    written = rng.choice((term, term, term.title() if len(term) > 4 else term))
    question = "[What is {t}?|What is {t}?|What is {t}?|Explain {t}.|Define {t}.|Can you explain {t}?|Tell me about {t}.|Tell me what {t} is.|What's {t}?|Please explain {t} in simple words.|Can you explain {t} in one sentence?]"
    return ask(vary(rng, question, t=written), meaning + ".")


def bigger(rng: Random) -> list[Turn]:
    low, high = sorted(rng.sample(range(len(words.SIZE_ORDER)), 2))
    small, big = words.SIZE_ORDER[low], words.SIZE_ORDER[high]
    first, second = rng.sample((a(small), a(big)), 2)
    if rng.random() < 0.5:
        return ask(
            f"Which is {rng.choice(('bigger', 'larger'))}, {first} or {second}?",
            f"{capital(a(big))} is bigger than {a(small)}.",
        )
    return ask(f"Which is smaller, {first} or {second}?", f"{capital(a(small))} is smaller than {a(big)}.")


def calendar(rng: Random) -> list[Turn]:
    kind = rng.random()
    if kind < 0.4:
        at = rng.randrange(7)
        step, word = rng.choice(((1, "after"), (-1, "before")))
        return ask(f"{rng.choice(('What day comes', 'Which day comes', 'Which day is'))} {word} {words.DAYS[at]}?",
                   f"{words.DAYS[(at + step) % 7]} comes {word} {words.DAYS[at]}.")  # fmt: skip
    if kind < 0.7:
        at = rng.randrange(12)
        step, word = rng.choice(((1, "after"), (-1, "before")))
        return ask(f"{rng.choice(('What month comes', 'Which month comes'))} {word} {words.MONTHS[at]}?",
                   f"{words.MONTHS[(at + step) % 12]} comes {word} {words.MONTHS[at]}.")  # fmt: skip
    return ask(*rng.choice(_CALENDAR))


_CALENDAR = (
    ("How many days are in a week?", "There are seven days in a week."),
    ("How many months are in a year?", "There are twelve months in a year."),
    ("How many hours are in a day?", "There are 24 hours in a day."),
    ("How many minutes are in an hour?", "There are 60 minutes in an hour."),
    ("How many days are in a year?", "There are 365 days in a year."),
    ("How many seasons are there?", "There are four seasons: spring, summer, autumn and winter."),
    ("Name the four seasons.", "The four seasons are spring, summer, autumn and winter."),
    ("Name the days of the week.", f"The days of the week are {listing(words.DAYS)}."),
    ("Name the months of the year.", f"The months of the year are {listing(words.MONTHS)}."),
    ("What is the first month of the year?", "The first month of the year is January."),
    ("What is the last month of the year?", "The last month of the year is December."),
)


_KINDS: tuple[tuple[Callable[[Random], list[Turn]], int], ...] = (
    (capital_of, 30), (definition, 24), (animal, 10), (color, 7), (word_form, 10), (bigger, 4), (calendar, 8), (continent, 7),
)  # fmt: skip


def fact(rng: Random) -> list[Turn]:
    """One question of general knowledge and its answer; now and then typed without care."""
    question, answer = rng.choices([kind for kind, _ in _KINDS], [weight for _, weight in _KINDS])[0](rng)
    if rng.random() < 0.12:
        return ask(question.text.lower(), answer.text)
    return ask(question.text.rstrip("?.") if rng.random() < 0.06 else question.text, answer.text)
