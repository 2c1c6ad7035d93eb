"""Short JSON answers, and tool calls in the Hermes style."""
# ruff: noqa: E501, the lines are English

from __future__ import annotations

import json
from random import Random
from typing import Any

from training import words
from training.document import Turn, ask, person
from training.vary import a, vary


def record(rng: Random) -> tuple[str, dict[str, Any], dict[str, str]]:
    """A sentence or two, its content as an object, and the type of each key."""
    who = person(rng)
    kind = rng.randrange(5)
    if kind == 0:
        age, city, job = rng.randint(5, 60), rng.choice(words.CITIES), rng.choice(words.JOBS)
        text = vary(
            rng,
            "[{n} is {age} years old and lives in {city}.|{n}, who is {age}, lives in {city}.|My name is {n}. I am {age} years old and I live in {city}.]",
            age=age,
            city=city,
            **who,
        )
        value: dict[str, Any] = {"name": who["n"], "age": age, "city": city}
        if rng.random() < 0.4:
            text += f" {who['He']} is {a(job)}." if "My name" not in text else f" I am {a(job)}."
            value["job"] = job
        return text, value, {key: "integer" if key == "age" else "string" for key in value}
    if kind == 1:
        thing, price, color = rng.choice(words.TOYS), rng.randint(1, 50), rng.choice(words.COLORS)
        text = vary(rng, "[The {color} {thing} costs {price} dollars.|We sell {a_color} {thing} for {price} dollars.|{A_color} {thing} costs {price} dollars.]",
                    color=color, a_color=a(color), A_color=a(color).capitalize(), thing=thing, price=price)  # fmt: skip
        return (
            text,
            {"item": thing, "color": color, "price": price},
            {"item": "string", "color": "string", "price": "integer"},
        )
    if kind == 2:
        day, hour, place = rng.choice(words.DAYS), rng.randint(1, 12), rng.choice(words.PLACES)[4:]
        text = vary(
            rng,
            "[{n} will meet us on {day} at {hour} o'clock at the {place}.|We meet {n} at the {place} on {day} at {hour} o'clock.]",
            day=day,
            hour=hour,
            place=place,
            **who,
        )
        return (
            text,
            {"person": who["n"], "day": day, "hour": hour, "place": place},
            {"person": "string", "day": "string", "hour": "integer", "place": "string"},
        )
    if kind == 3:
        animals = rng.sample(
            ["puppy", "cat", "raccoon", "fox", "rabbit", "duck", "squirrel", "owl", "frog", "dog"], rng.randint(1, 3)
        )
        activity = rng.choice(("bike ride", "walk", "run", "picnic", "trip"))
        place = rng.choice(("park", "forest", "garden", "city", "village"))
        seen = (
            " and ".join(a(animal) for animal in animals)
            if len(animals) < 3
            else f"{a(animals[0])}, {a(animals[1])} and {a(animals[2])}"
        )
        seen = " ".join(a(animal) for animal in animals) if rng.random() < 0.2 else seen
        text = vary(rng, "I saw {seen} during my {activity} in the {place}.", seen=seen, activity=activity, place=place)
        value = {"activity": activity, "animals": animals, "animals_seen": len(animals), "location": place}
        return text, value, {"activity": "string", "animals": "array", "animals_seen": "integer", "location": "string"}
    country, city = rng.choice(list(words.CAPITALS.items()))
    return (
        f"The capital of {country} is {city}.",
        {"country": country, "capital": city},
        {"country": "string", "capital": "string"},
    )


def _shape(rng: Random, types: dict[str, str]) -> str:
    style = rng.randrange(3)
    if style == 0:
        return vary(rng, "[Use|Answer with|with] the keys {k}.", k=", ".join(types)).replace("with the", "Use the")
    if style == 1:
        return "Use this shape: " + json.dumps(types)
    return "Follow this JSON schema: " + json.dumps(
        {"type": "object", "properties": {key: {"type": kind} for key, kind in types.items()}}
    )


def _made_up(rng: Random) -> list[Turn]:
    """An order to make up an object of a person."""
    value: dict[str, Any] = {"name": person(rng)["n"], "age": rng.randint(5, 60), "city": rng.choice(words.CITIES)}
    order = vary(
        rng,
        "[Write|Give me|Make|Show me] [a JSON object|JSON|some JSON] [of|for|about|with data of] a person"
        "[.|.|. Use the keys name, age, city.| with name, age and city.]",
    )
    return ask(order, json.dumps(value))


def json_request(rng: Random) -> list[Turn]:
    """An order to extract a text's content as JSON, mostly with a given shape; or to make up an object."""
    if rng.random() < 0.1:
        return _made_up(rng)
    text, value, types = record(rng)
    if len(value) > 2 and rng.random() < 0.3:
        kept = rng.sample(list(value), len(value) - 1)
        value, types = {key: value[key] for key in kept}, {key: types[key] for key in kept}
        shape = _shape(rng, types)
    else:
        shape = _shape(rng, types) if rng.random() < 0.7 else ""
    order = vary(
        rng,
        "[Extract the data as JSON|Answer in JSON|Turn this text into JSON|Write this as JSON|Give me this as a JSON object]",
    )
    turns = ask(f"{order}. {shape}\n{text}" if shape else f"{order}: {text}", json.dumps(value))
    if rng.random() < 0.15:
        return [
            Turn("system", vary(rng, "[Answer only with JSON.|You answer in JSON.]")),
            *ask(f"{shape}\n{text}" if shape else text, json.dumps(value)),
        ]
    return turns


def _tool(name: str, description: str, **parameters: str) -> dict[str, Any]:
    properties = {
        key: {"type": "integer" if text.startswith("#") else "string", "description": text.lstrip("#")}
        for key, text in parameters.items()
    }
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": properties, "required": list(properties)},
        },
    }


TOOLS = {
    "get_current_weather": _tool("get_current_weather", "Get the current weather", location="The city", format="The temperature unit, celsius or fahrenheit"),
    "get_weather": _tool("get_weather", "Get the weather in a city", city="The city"),
    "get_time": _tool("get_time", "Get the time in a city", city="The city"),
    "add": _tool("add", "Add two numbers", a="#The first number", b="#The second number"),
    "search": _tool("search", "Search the web", query="What to search for"),
    "send_message": _tool("send_message", "Send a message to a person", to="The person", text="The message"),
    "set_alarm": _tool("set_alarm", "Set an alarm", time="The time, as 07:30"),
    "play_music": _tool("play_music", "Play music", title="The title"),
}  # fmt: skip


def _call(rng: Random, name: str) -> tuple[str, dict[str, Any], dict[str, Any], str]:
    """A question for the tool, its arguments, what the tool returns, and the answer after that."""
    city = rng.choice(words.CITIES)
    if name in ("get_current_weather", "get_weather"):
        sky, degrees = rng.choice(("sunny", "cloudy", "rainy", "windy")), rng.randint(1, 30)
        unit = rng.choice(("celsius", "celsius", "fahrenheit"))
        question = vary(
            rng,
            "[What is the weather in {c}?|What is the weather like in {c}?|How is the weather in {c}?|What's the weather like in {c} today?|Is it raining in {c}?]",
            c=city,
        )
        arguments = {"city": city}
        if name == "get_current_weather":
            arguments = {"location": city, "format": unit}
            if unit == "fahrenheit":
                question += " Use Fahrenheit."
        return (
            question,
            arguments,
            {"weather": sky, "temperature": degrees},
            f"It is {sky} in {city}, and the temperature is {degrees} degrees.",
        )
    if name == "get_time":
        time = f"{rng.randint(1, 12)}:{rng.choice(('00', '15', '30', '45'))}"
        return (
            vary(rng, "[What time is it in {c}?|Tell me the time in {c}.]", c=city),
            {"city": city},
            {"time": time},
            f"It is {time} in {city}.",
        )
    if name == "add":
        left, right = rng.randint(0, 20), rng.randint(0, 20)
        question = vary(rng, "[What is {l} + {r}?|Add {l} and {r}.|What is {l} plus {r}?]", l=left, r=right)
        return question, {"a": left, "b": right}, {"result": left + right}, f"{left} + {right} = {left + right}"
    if name == "search":
        query = rng.choice(
            (
                f"hotels in {city}",
                f"the history of {city}",
                "apple pie",
                "funny cats",
                "new books",
                f"flights to {city}",
            )
        )
        return (
            vary(rng, "[Search for {q}.|Look up {q}.|Find {q} on the web.]", q=query),
            {"query": query},
            {"count": 3},
            f"I found 3 pages about {query}.",
        )
    if name == "send_message":
        to, text = (
            person(rng)["n"],
            rng.choice(("I am late", "see you soon", "good morning", "thank you", "happy birthday")),
        )
        question = vary(rng, '[Tell {to} "{t}".|Send "{t}" to {to}.|Send {to} the message "{t}".]', to=to, t=text)
        return question, {"to": to, "text": text}, {"sent": True}, f"I sent your message to {to}."
    if name == "set_alarm":
        time = f"{rng.randint(5, 11):02d}:{rng.choice(('00', '15', '30', '45'))}"
        return (
            vary(rng, "[Wake me up at {t}.|Set an alarm for {t}.]", t=time),
            {"time": time},
            {"set": True},
            f"The alarm is set for {time}.",
        )
    title = rng.choice(("Blue Sky", "Summer Rain", "The Little Boat", "Morning Song", "Moonlight"))
    return (
        vary(rng, '[Play "{t}".|Play the song "{t}".|I want to hear "{t}".]', t=title),
        {"title": title},
        {"playing": True},
        f'Now playing "{title}".',
    )


def tool_chat(rng: Random) -> tuple[list[dict[str, Any]], list[Turn]]:
    """Tools, and a chat that calls one of them or does without."""
    names = rng.sample(list(TOOLS), rng.choice((1, 1, 2, 3)))
    name = rng.choice(names)
    tools = [TOOLS[each] for each in names]
    question, arguments, result, answer = _call(rng, name)
    turns = ask(question, f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>")
    if rng.random() < 0.5:
        turns += [Turn("tool", json.dumps(result)), Turn("assistant", answer)]
    return tools, turns
