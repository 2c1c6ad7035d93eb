"""Text without a chat template: questions put bluntly, sentences to go on with, other prompt styles."""
# ruff: noqa: E501, the lines are English

from __future__ import annotations

from random import Random

from training import words
from training.document import Piece, Turn, person
from training.kinds.arithmetic import arithmetic, calculation
from training.kinds.classification import topic_sentence
from training.kinds.everyday import everyday
from training.kinds.facts import fact
from training.kinds.topics import NAMES
from training.vary import a, capital, listing, vary


def _exchange(rng: Random) -> tuple[str, str]:
    turns: list[Turn] = rng.choices((fact, everyday, arithmetic), (45, 25, 35))[0](rng)
    return turns[0].text, turns[1].text


def question_and_answer(rng: Random) -> list[Piece]:
    """One question and its answer in one of the styles that people use for models without a chat template."""
    style = rng.randrange(10)
    if style < 3:
        question, answer = _exchange(rng)
        return [Piece(question, False), Piece("\n\n" + answer, True)]
    if style < 5:
        asked, said = rng.choice((("### User:\n", "### Assistant:\n"), ("### Instruction:\n", "### Response:\n")))
        question, answer = _exchange(rng)
        system = vary(rng, "[|### System:\nYou are a helpful assistant.\n\n]")
        return [Piece(f"{system}{asked}{question}\n\n{said}", False), Piece(answer, True)]
    asked, said = rng.choice((("Question: ", "Answer:"), ("Q: ", "A:"), ("User: ", "Assistant:"), ("Human: ", "AI:")))
    pieces: list[Piece] = []
    for at in range(rng.choice((1, 1, 2, 3))):
        question, answer = _exchange(rng)
        pieces += [
            Piece(f"{chr(10) * 2 if at else ''}{asked}{question}\n{said}", False),
            Piece(" " + answer.replace("\n", " "), True),
        ]
    if rng.random() < 0.15:
        pieces.insert(0, Piece("Answer the questions.\n\n", False))
    return pieces


def _about_me(rng: Random) -> str:
    who = person(rng)
    text = vary(rng, "[Hello, my|My] name is {n}[ and I| and I|. I] [am {job}|live in {city}|am {age} years old|like {hobby}|love {hobby}].",
                job=a(rng.choice(words.JOBS)), city=rng.choice(words.CITIES), age=rng.randint(7, 60), hobby=rng.choice(words.HOBBIES), **who)  # fmt: skip
    more = (
        "I like {hobby} and {other}.", "In my free time, I like {hobby}.", "My favorite food is {food}.", "My favorite color is {color}.",
        "I have a {size} {animal}.", "Every {day}, I go to {place} with my friends.", "I work as {job}.", "Nice to meet you!",
    )  # fmt: skip
    at = rng.randrange(len(words.HOBBIES) - 1)
    hobby, other = words.HOBBIES[at : at + 2]
    lines = [each.format(hobby=hobby, other=other, food=rng.choice(words.FOODS), color=rng.choice(words.COLORS), size=rng.choice(words.SIZES[:4]).replace("old", "little"),
                         animal=rng.choice(words.CREATURES[:5]), day=rng.choice(words.DAYS), place=rng.choice(words.PLACES), job=a(rng.choice(words.JOBS)))
             for each in rng.sample(more, rng.randint(2, 4))]  # fmt: skip
    return " ".join([text, *lines])


def _day(rng: Random) -> str:
    who = person(rng)
    opening = vary(rng, "[Today is {day}.|It is {day} morning.|The weather today is {sky}.|The weather is {sky} today.|It was a {sky} day.|Today, the sun is shining.|I woke up early this morning.]",
                   day=rng.choice(words.DAYS), sky=rng.choice(("sunny", "warm", "cold", "rainy", "windy")))  # fmt: skip
    middle = (
        "{n} gets up at seven and drinks {drink}.", "For breakfast there is {food} with {fruit}.", "In the morning, {n} goes to {place}.",
        "{n} and {his} friends play there until noon.", "In the afternoon, {he} is in {room}.", "Then {he} reads a book about {animals}.",
        "In the evening, the family eats {food} together.",
    )  # fmt: skip
    kept = sorted(rng.sample(range(len(middle)), rng.randint(3, 5)))
    if 0 not in kept and 2 not in kept:
        kept.insert(0, 0)
    text = " ".join(middle[at] for at in kept)
    filled = text.format(drink=rng.choice(words.DRINKS), food=rng.choice(words.FOODS), fruit=rng.choice(words.FRUITS), place=rng.choice(words.PLACES),
                         room=rng.choice(words.ROOMS), animals=rng.choice(("animals", "the sea", "stars", "a dragon", "birds")), **who)  # fmt: skip
    return f"{opening} {filled} {vary(rng, '[It is a good day.|At nine, it is time to sleep.|Good night!]')}"


def _thing(rng: Random) -> str:
    if rng.random() < 0.5:
        thing, color = rng.choice(list(words.COLOR_OF.items()))
        country, city = rng.choice(list(words.CAPITALS.items()))
        first = f"{capital(thing)} is {color}."
        second = f"The capital of {country} is {city}."
        return " ".join(rng.sample((first, second), 2)) if rng.random() < 0.5 else second
    return rng.choice(list(words.DEFINITIONS.values())) + "."


def _animal(rng: Random) -> str:
    name = rng.choice(list(words.ANIMAL_FACTS))
    sound, young, home, food, legs = words.ANIMAL_FACTS[name]
    return vary(rng, '[The|A] {name} [is an animal that lives|lives] in {home}. It eats {food} and has {legs} legs. [The {name} says "{sound}".|It says "{sound}".] A baby {name} is called {young}.',
                name=name, home=home, food=food, legs=legs, sound=sound, young=a(young))  # fmt: skip


def _shopping(rng: Random) -> str:
    foods = rng.choice((words.FRUITS, words.VEGETABLES))
    start = rng.randrange(len(foods) - 2)
    items = foods[start : start + 3]
    return vary(rng, "[I like to eat {x}.|At the market, you can buy {x}.|We need {x}.] {F} [is|is] my favorite food. I also like {g}.",
                x=listing(items), F=capital(rng.choice(words.FOODS[:6])), g=rng.choice(words.DRINKS))  # fmt: skip


def _loose(rng: Random) -> str:
    """Sentences that people begin to see what a model does with them."""
    who = person(rng)
    animal, food, place, room = (rng.choice(each) for each in (words.CREATURES, words.FOODS, words.PLACES, words.ROOMS))
    first = vary(rng, "[The {animal} sat on {thing} and looked at {place}.|The {animal} [was|is] [hungry|tired|happy|very small].|I like to [eat {food}|go to {place}|read in {room}].|I [love|like] {food}.|I think that {food} is good.|My favorite {kind}.|The best thing about summer is the warm sun.|Life is like a long road.|The meaning of life is to love, to learn and to help others.|Today I [want|am going] to go to {place}.|It was a dark and stormy night.|She went to {place}.|He looked at the {animal}.|The man saw a {animal} near {place}.|The dog ran to {place}.|We [are|were] in {room}.|There is a {animal} in {room}.|This is a story about {n}.|Hello, how are you? I am fine.|Good morning! How are you today?]",
                 animal=animal.replace("owl", "fox"), food=food, place=place, room=room, thing=rng.choice(("the table", "a chair", "a stone", "the grass", "the mat")),
                 kind=rng.choice((f"color is {rng.choice(words.COLORS)}", f"food is {food}", f"animal is the {animal}")), n=who["n"])  # fmt: skip
    rest = (
        "The sun was shining, and the birds were singing.", f"{who['n']} came and smiled.", f"Then it was time to eat {food}.", "Everyone was happy.",
        "After that, it began to rain.", "It was a good day.", f"In the evening, {who['n']} went home.", f"{who['n']} likes it very much.",
    )  # fmt: skip
    kept = sorted(rng.sample(range(len(rest)), rng.randint(1, 3)))
    return " ".join([first, *(rest[at] for at in kept)])


def _sum(rng: Random) -> str:
    return calculation(rng)[1].text


def _topical(rng: Random) -> str:
    topic = rng.choice(list(NAMES))
    return " ".join(topic_sentence(rng, topic) for _ in range(rng.randint(2, 3)))


def plain_text(rng: Random) -> list[Piece]:
    """A few plain sentences."""
    return [
        Piece(
            rng.choice(
                (
                    _about_me,
                    _about_me,
                    _day,
                    _day,
                    _thing,
                    _thing,
                    _animal,
                    _shopping,
                    _loose,
                    _loose,
                    _topical,
                    _sum,
                    _sum,
                )
            )(rng),
            True,
        )
    ]
