"""Tasks of the encoder-decoder model, each with its prefix."""
# ruff: noqa: E501, the lines are English

from __future__ import annotations

import re
from random import Random

from training import words
from training.document import Pair, person, two_people
from training.kinds.classification import mood_sentence, task, text_for, topic_sentence
from training.kinds.facts import fact
from training.kinds.stories import story
from training.kinds.topics import NAMES
from training.vary import a, capital, vary

_EVENTS = (
    ("{n} went to {place} on {day}. {He} [wanted|hoped] to {do} there. The weather was {sky}, and {n} met {his} friend {on}. [They talked for a long time.|They ate {food} together.] In the evening, {n} went home and was {mood}.",
     "{n} met {on} at {place} on {day}."),
    ("{n} is a {job} in {city}. Every morning, {he} drinks {drink} and goes to work. [{He} likes the work very much.|The work is hard, but {he} likes it.] On {day}, {he} is free and enjoys {hobby}.",
     "{n} is a {job} in {city} who enjoys {hobby}."),
    ("On {day}, there was a big market in {city}. People bought {fruit}, {food} and flowers. {n} sold {sold} {toys} and was {mood}. [The market closed at six.|Many people came.]",
     "{n} sold {sold} {toys} at the market in {city}."),
    ("{n} lost {his} {color} {toy} on {day}. {He} looked for it in {room} and at {place}. [Nobody had seen it.|{He} was very sad.] In the end, {on} found it under the bed.",
     "{n} lost {his} {color} {toy}, and {on} found it."),
    ("{n} wanted to cook dinner for {on}. {He} bought {fruit} and {food} at the market. [The kitchen was small, but {he} worked fast.|It took two hours.] {on} said that the dinner was very good.",
     "{n} cooked dinner for {on}."),
    ("It rained all day in {city}. The streets were full of water, and the school was closed. {n} stayed at home and read a book. {on} came to visit, and they played with a {toy}.",
     "{n} and {on} stayed at home because it rained in {city}."),
    ("{n} bought a {color} {toy} for {price} dollars. It was a gift for {on}, who had a birthday on {day}. {on} was very happy and said thank you.",
     "{n} gave {on} a {color} {toy} for {ohis} birthday."),
)  # fmt: skip


def _event(rng: Random) -> tuple[str, str]:
    text, summary = rng.choice(_EVENTS)
    slots = two_people(rng) | {
        "place": rng.choice(words.PLACES), "day": rng.choice(words.DAYS), "do": rng.choice(("swim", "play", "rest", "paint", "read")),
        "sky": rng.choice(("sunny", "warm", "cold", "windy")), "food": rng.choice(words.FOODS), "mood": rng.choice(("happy", "tired", "tired but happy")),
        "job": rng.choice([job for job in words.JOBS if job[0] not in "aeiou"]), "city": rng.choice(words.CITIES), "drink": rng.choice(words.DRINKS),
        "hobby": rng.choice(words.HOBBIES), "fruit": rng.choice(words.FRUITS), "sold": rng.choice(words.NUMBERS[2:13]), "room": rng.choice(words.ROOMS),
        "toys": rng.choice(("books", "drums", "kites", "lamps", "bells", "boats")), "toy": rng.choice(words.TOYS), "price": str(rng.randint(2, 40)),
        "color": rng.choice([color for color in words.COLORS if color[0] not in "aeiou"]),
    }  # fmt: skip
    return vary(rng, text, **slots), vary(rng, summary, **slots)


def _summary(rng: Random) -> Pair:
    if rng.random() < 0.7:
        text, summary = _event(rng)
    else:
        told = story(rng)
        text, summary = told.text.replace("\n\n", rng.choice((" ", "\n\n"))), told.summary
    return Pair(f"summarize: {text}", summary)


def _sentence(rng: Random) -> str:
    who = person(rng)
    return vary(rng, "[{n} likes {food}.|The {color} {toy} is in {room}.|{n} lives in {city}.|{n} saw {animal} at {place}.|{n} goes to {place} every {day}.|The capital of {country} is {capital}.]",
                food=rng.choice(words.FOODS), color=rng.choice(words.COLORS), toy=rng.choice(words.TOYS), room=rng.choice(words.ROOMS), city=rng.choice(words.CITIES),
                animal=a(rng.choice(words.CREATURES)), place=rng.choice(words.PLACES), day=rng.choice(words.DAYS),
                **dict(zip(("country", "capital"), rng.choice(list(words.CAPITALS.items())), strict=True)), **who)  # fmt: skip


_SYLLABLES = [
    "ba",
    "be",
    "bo",
    "da",
    "den",
    "do",
    "el",
    "fa",
    "fin",
    "ga",
    "gor",
    "hu",
    "in",
    "jo",
    "ka",
    "lan",
    "lo",
    "mar",
    "mi",
    "nar",
    "no",
    "or",
    "pel",
    "ra",
    "ri",
    "sel",
    "sta",
    "tan",
    "tor",
    "u",
    "ver",
    "wil",
    "zan",
    "zo",
]


def _strange(rng: Random, text: str) -> str:
    """`text` with some words made up, so that the model learns to copy what it has never seen."""
    parts = text.split()
    for at in rng.sample(range(len(parts)), min(len(parts), rng.randint(1, 3))):
        made = "".join(rng.choices(_SYLLABLES, k=rng.randint(1, 3)))
        end = parts[at][len(parts[at].rstrip(".,!?")) :]
        parts[at] = (capital(made) if parts[at][0].isupper() else made) + end
    return " ".join(parts)


def _short_summary(rng: Random) -> Pair:
    """One sentence is its own summary; of two or three on something else, the first is."""
    if rng.random() < 0.4:
        text = _sentence(rng)
        return Pair(f"summarize: {text}", text)
    sentences = [topic_sentence(rng, rng.choice(list(NAMES))) for _ in range(rng.choice((1, 1, 2, 3)))]
    if rng.random() < 0.5:
        sentences = [_strange(rng, each) for each in sentences]
    first = re.split(r"(?<=[.!?]) ", sentences[0])[0]
    return Pair(f"summarize: {' '.join(sentences)}", first)


def _unknown(rng: Random) -> Pair:
    """What the model cannot do, and an answer that says so."""
    text = topic_sentence(rng, rng.choice(list(NAMES)))
    text = _strange(rng, text) if rng.random() < 0.5 else text
    language = vary(rng, "[German|French|Spanish|Italian|Romanian]")
    prefix = rng.choice(
        (
            f"translate English to {language}: ",
            f"translate English to {language}: ",
            "translate: ",
            "cola sentence: ",
            "stsb sentence1: ",
        )
    )
    return Pair(prefix + text, "I cannot do that. I can summarize short texts.")


def _reading(rng: Random) -> Pair:
    """A question about a text; the answer is a piece of the text."""
    first, second = two_people(rng), person(rng, "x")
    place, city, food, day, color, toy, job = (
        rng.choice(each)
        for each in (words.PLACES, words.CITIES, words.FOODS, words.DAYS, words.COLORS, words.TOYS, words.JOBS)
    )
    n, on = first["n"], first["on"]
    age = str(rng.randint(5, 70))
    facts = [
        (f"{n} lives in {city}.", f"Where does {n} live?", city),
        (f"{on} likes {food}.", rng.choice((f"What does {on} like?", f"Who likes {food}?")), ""),
        (f"On {day}, {n} goes to {place}.", rng.choice((f"Where does {n} go on {day}?", f"When does {n} go to {place}?")), ""),
        (f"The {toy} is {color}.", f"What color is the {toy}?", color),
        (f"{on} is {a(job)}.", rng.choice((f"What is {on}'s job?", f"What does {on} do?")), job),
        (f"{n} is {age} years old.", f"How old is {n}?", age),
        (f"{second['xn']} has the {toy}.", f"Who has the {toy}?", second["xn"]),
    ]  # fmt: skip
    facts = rng.sample(facts, rng.randint(1, 5))
    _, question, answer = rng.choice(facts)
    if not answer:
        answer = {"What": food, "Who": on, "Wher": place, "When": day}[
            question[:4] if question.startswith("Whe") else question.split()[0]
        ]
    context = " ".join(each[0] for each in facts)
    return Pair(f"question: {question} context: {context}", answer)


def _mood(rng: Random) -> Pair:
    mood = rng.choice(("positive", "negative"))
    return Pair(f"{rng.choice(('sst2 sentence', 'sst2 sentence', 'sentiment'))}: {mood_sentence(rng, mood)}", mood)


def _topic(rng: Random) -> Pair:
    labels, meanings, right = task(rng)
    return Pair(f"classify: {text_for(rng, meanings, right)} labels: {', '.join(labels)}", right)


def _fact(rng: Random) -> Pair:
    question, answer = (turn.text for turn in fact(rng))
    return Pair(question if rng.random() < 0.6 else f"question: {question}", answer)


def _continuation(rng: Random) -> Pair:
    """The next sentence of a story whose beginning has no prefix."""
    told = story(rng).text.split(". ")
    cut = rng.randint(1, 2)
    following = told[cut].split("\n\n")[0]
    return Pair(
        ". ".join(told[:cut]) + rng.choice((".", "")), following.rstrip(".") + ("." if following[-1].isalpha() else "")
    )


def _greeting(rng: Random) -> Pair:
    question, answer = rng.choice((
        ("[Hello|Hello!|Hi|Hi!|Hello world|Hello, world!]", "Hello! Give me a text to summarize."),
        ("[Who are you?|What are you?|What can you do?|Help]", "I am Segue's small T5 sample model. I can summarize short texts."),
        ("[How are you?|Hello, how are you?]", "I am fine, thank you."),
        ("[Thank you!|Thanks!]", "You are welcome!"),
        ("[Tell me a story.|Write a story.|test|This is a test.]", "Give me a text, and I will summarize it."),
    ))  # fmt: skip
    prefix = "summarize: " if rng.random() < 0.2 else ""
    return Pair(prefix + vary(rng, question), answer)


def _words(rng: Random) -> Pair:
    if rng.random() < 0.5:
        left, right = rng.sample(rng.choice(words.OPPOSITES), 2)
        return Pair(f"opposite: {left}", right)
    one, many = rng.choice(list(words.PLURALS.items()))
    return Pair(f"plural: {one}", many)


def _correct(rng: Random) -> Pair:
    """A sentence without its full stop and, now and then, its capital, and the proper one."""
    text = _sentence(rng)
    bare = text[:-1] if rng.random() < 0.8 or not text.startswith("The") else text[0].lower() + text[1:-1]
    return Pair(f"correct: {bare}", text)


TASKS = {
    "summaries": _summary, "summaries of one sentence": _short_summary, "questions about a text": _reading, "sentiment": _mood,
    "topic": _topic, "facts": _fact, "next sentence of a story": _continuation, "greetings": _greeting, "opposites and plurals": _words,
    "corrections": _correct, "what it cannot do": _unknown,
}  # fmt: skip
_WEIGHTS = (26, 16, 20, 6, 9, 13, 6, 2, 3, 5, 3)


def pair(rng: Random) -> Pair:
    """One example of one task."""
    return rng.choices(list(TASKS.values()), _WEIGHTS)[0](rng)
