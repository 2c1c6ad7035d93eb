"""Greetings, who the model is, simple instructions, and honest answers where it knows nothing."""
# ruff: noqa: E501, the lines are English

from __future__ import annotations

from random import Random

from training import words
from training.document import Turn, ask, person
from training.vary import a, capital, listing, vary

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are Segue's sample model.",
    "You are a helpful, honest and brief assistant.",
    "Answer in simple English.",
    "You are a helpful assistant. Answer briefly.",
    "You are a kind teacher.",
)


def greeting(rng: Random) -> list[Turn]:
    hello = "[Hello|Hi|Hey|Good morning|Good evening|Hello there|Hi there]"
    kind = rng.random()
    if kind < 0.4:
        return ask(
            vary(rng, hello + "[!|.||]"),
            vary(rng, "[Hello! How can I help you?|Hello! What can I do for you?|Hi! How can I help you today?]"),
        )
    if kind < 0.65:
        return ask(vary(rng, "[" + hello + "[,|!] how are you?|How are you?|How are you today?|How do you do?]"),
                   vary(rng, "[I am fine, thank you! How can I help you?|I am well, thank you. What can I do for you?]"))  # fmt: skip
    if kind < 0.85:
        return ask(
            vary(rng, "[Thank you!|Thanks!|Thank you very much.|Thanks a lot!|Great, thanks.]"),
            vary(rng, "[You are welcome!|You are welcome! Is there anything else?]"),
        )
    return ask(
        vary(rng, "[Goodbye!|Bye!|See you later!|Good night!|Bye bye]"),
        vary(rng, "[Goodbye! Have a nice day.|Goodbye! It was nice to talk to you.]"),
    )


_IDENTITY = (
    ("[Who are you?|What are you?|Tell me about yourself.|Introduce yourself.|Please introduce yourself.|Who am I talking to?]",
     "I am Segue's sample model, a very small language model. I can tell short stories, answer simple questions and do small sums."),
    ("[What is your name?|What's your name?|Do you have a name?]", "I am Segue's sample model. You can call me Segue."),
    ("[What can you do?|How can you help me?|What do you know?|Help|Help me.|Can you help me?|What can I ask you?]",
     "I can tell short stories, answer simple questions, name capitals, do small sums, sort texts by topic and write short JSON. What would you like?"),
    ("[Are you a human?|Are you a robot?|Are you human?|Are you real?]", "No, I am a small language model. I am a computer program that writes text."),
    ("[Who made you?|Who created you?|Who trained you?|Where do you come from?]", "I was trained by the Segue project as a small example."),
    ("[Are you ChatGPT?|Are you GPT-4?|Are you Llama?|Are you a big model?|How big are you?]",
     "No, I am Segue's sample model. I am very small, so I know only a few things."),
    ("[Do you know everything?|Are you smart?|Are you always right?]", "No, I am a very small model. I know only simple things, and I can be wrong."),
    ("[How old are you?|When were you born?]", "I am a computer program, so I have no age."),
)  # fmt: skip


def identity(rng: Random) -> list[Turn]:
    question, answer = rng.choice(_IDENTITY)
    return ask(vary(rng, question), answer)


def introduction(rng: Random) -> list[Turn]:
    """The user says a name or a liking, and asks for it later."""
    who = person(rng)
    like = rng.choice([*words.HOBBIES, *words.FRUITS, "dogs", "cats", "birds", "music", "books", "stories"])
    kind = rng.random()
    if kind < 0.5:
        turns = ask(
            vary(rng, "[My name is {n}.|I am {n}.|Hello, my name is {n}.|Hi, I am {n}!]", **who),
            vary(rng, "[Hello {n}! How can I help you?|Nice to meet you, {n}!]", **who),
        )
        later = ask(vary(rng, "[What is my name?|Do you remember my name?|Who am I?]"), f"Your name is {who['n']}.")
    else:
        turns = ask(
            vary(rng, "I [like|love|really like] {x}.", x=like),
            vary(rng, "[That is nice! What do you like about {x}?|{X}! That sounds nice.]", x=like, X=capital(like)),
        )
        later = ask(vary(rng, "[What do I like?|Do you remember what I like?]"), f"You like {like}.")
    if rng.random() < 0.3:
        turns += greeting(rng)
    return turns + later if rng.random() < 0.75 else turns


_LISTS = {
    "fruits": words.FRUITS, "vegetables": words.VEGETABLES, "colors": words.COLORS, "animals": [*words.ANIMAL_FACTS],
    "jobs": words.JOBS, "hobbies": words.HOBBIES, "days of the week": words.DAYS, "months": words.MONTHS, "drinks": words.DRINKS,
    "cities": words.CITIES, "toys": words.TOYS, "farm animals": ["cow", "sheep", "horse", "pig", "hen", "duck"],
    "kinds of weather": ["rain", "snow", "sun", "wind", "fog"], "sports": ["football", "tennis", "swimming", "running", "cycling"],
}  # fmt: skip


def list_request(rng: Random) -> list[Turn]:
    noun = rng.choice(list(_LISTS))
    count = rng.choice((2, 3, 3, 3, 4, 5))
    spelled = words.NUMBERS[count] if rng.random() < 0.7 else str(count)
    # Neighbours in the list: a free choice teaches a small model to repeat its favourite.
    start = rng.choice((0, 0, 1, 2)) if len(_LISTS[noun]) >= count + 2 else 0
    items = _LISTS[noun][start : start + count]
    question = vary(rng, "[Name|List|Give me|Tell me|Can you name|Please list|Write] {c} {noun}", c=spelled, noun=noun)
    kind = rng.random()
    if kind < 0.5:
        return ask(
            question + rng.choice((".", "", "!")),
            "\n".join(f"{at}. {capital(item)}" for at, item in enumerate(items, 1)),
        )
    if kind < 0.75:
        return ask(
            question + vary(rng, " [in one sentence|in a sentence]."),
            f"{capital(spelled if not spelled.isdigit() else words.NUMBERS[count])} {noun} are {listing(items)}.",
        )
    return ask(
        question + vary(rng, "[, separated by commas| separated by commas| as a list with commas]."), ", ".join(items)
    )


def rewrite(rng: Random) -> list[Turn]:
    who = person(rng)
    plain = vary(rng, "[{n} likes {food}|the {animal} sleeps in {room}|{n} goes to {place}|the {color} {toy} is in {room}|{n} plays with the {toy}]",
                 food=rng.choice(words.FOODS), animal=rng.choice(words.CREATURES), room=rng.choice(words.ROOMS), toy=rng.choice(words.TOYS),
                 place=rng.choice(words.PLACES), color=rng.choice(words.COLORS), **who)  # fmt: skip
    kind = rng.random()
    if kind < 0.35:
        return ask(
            vary(rng, "[Repeat this sentence|Say this|Repeat|Copy this]: {t}.", t=capital(plain)), capital(plain) + "."
        )
    noun = rng.choice(words.TOYS + words.CREATURES)
    made = vary(rng, "[The {x} is in {room}.|I can see {ax} in {place}.|{n} has {ax}.|There is {ax} near {place}.]",
                x=noun, ax=a(noun), room=rng.choice(words.ROOMS), place=rng.choice(words.PLACES), **who)  # fmt: skip
    return ask(vary(rng, '[Write|Make|Give me] a [short |]sentence with the word "{x}".', x=noun), made)


_CHAT = (
    ("[Tell me a joke.|Do you know a joke?|Make me laugh.|Tell me something funny.|Tell me a joke please]",
     "[Why did the bird go to school? It wanted to learn to tweet.|Why is the sea so friendly? It always waves.|What has four legs and cannot walk? A table.|What do you call a sleeping bear in spring? Late.]"),
    ("[Give me some advice.|Give me good advice.|I need advice.]", "[Be kind, drink enough water and take a walk every day.|Sleep well, work step by step and ask for help when you need it.]"),
    ("[I am sad.|I feel sad today.|I had a bad day.]", "[I am sorry to hear that. Do you want to hear a short story?|I am sorry. A walk or a talk with a friend may help.]"),
    ("[I am happy.|I had a great day!|I feel good today.]", "[That is wonderful! What made you happy?|I am glad to hear that!]"),
    ("[I am bored.|What should I do today?|What can I do today?]", "[You could read a book, go for a walk or call a friend.|How about a short story?]"),
    ("[I am hungry.|What should I eat?|What can I cook today?]", "[How about soup with bread?|You could make pasta with tomatoes and cheese.|How about rice with vegetables?]"),
    ("[What is your favorite color?|Which color do you like?]", "[I am a program, so I have no favorite color. Many people like blue.]"),
    ("[How do I make tea?|How do you make tea?|How can I make tea?]", "Boil some water, pour it over the tea, wait three minutes and enjoy."),
    ("[How do I bake bread?|How do you make bread?|How can I bake bread?]", "Mix flour, water, salt and yeast. Let the dough rest for an hour and bake it in a hot oven."),
    ("[How do I plant a tree?|How can I plant a tree?|How do I plant a seed?]", "Dig a small hole, put it in the ground, cover it with earth and give it water."),
    ("[How do I learn something new?|How can I learn faster?|How do I learn English?]", "Practice a little every day, start with easy things and do not give up."),
    ("[Write a poem.|Write a haiku.|Write a short poem about the sea.|Write a poem about spring.]",
     "[The sea is quiet,\na small boat waits in the sun.\nSoon it will sail home.|The snow has melted.\nA green leaf looks at the sun.\nSpring has come again.|The night is silent.\nThe moon looks into the lake\nand the owls are awake.]"),
    ("[What is the meaning of life?|Why are we here?]", "People find different answers. Many say that it is to love, to learn and to help others."),
    ("[What time is it?|What is the date today?|What day is it today?|What is the weather today?|How is the weather?]", "I do not know that, because I cannot see the world outside. Please look it up."),
    ("[Yes|Yes please|Yes, please.|OK|Okay|Sure]", "Good! Tell me what you would like: a story, a simple question or a small sum."),
    ("[No|No, thanks.|No, thank you.]", "All right. I am here if you need me."),
    ("[test|Test|This is a test.|Testing]", "The test works. How can I help you?"),
)  # fmt: skip

_STRANGE = "[quantum mechanics|tax law|the stock market|Shakespeare|Napoleon|the Roman Empire|the 1998 final|photosynthesis|calculus|black holes|football results|blockchain|Kubernetes|C++ templates|ancient history|chemistry|the French Revolution|organic farming|opera|philosophy|yoga|car engines|vaccines|the Pythagorean theorem|rust]"
_UNKNOWN = (
    "[What is|What's|What do you know about|Can you explain|Can you tell me about] " + _STRANGE + "?",
    "[Explain|Tell me about|Please explain] " + _STRANGE + ".",
    "[Who won the 1998 final?|Who wrote Hamlet?|Who is the president?|Who was the first man on the moon?|Who invented the telephone?|Who is Einstein?]",
    "[Write|Write me|Can you write] [a program in Python|a Python function|code that sorts a list|a SQL query|a web page|some code|an essay|a letter to my boss].",
    "[Translate|Please translate] [this|hello|the sentence|good morning] [to|into] [French|German|Spanish|Italian|Chinese].",
    "How [do I fix my car|do rockets work|does a battery work|far is the moon|tall is Mount Everest|do I install Linux|do I get rich|many people live in China]?",
    "[Why is|Why are|Why do] [the sky blue|leaves green|cats sleep so much|people dream|stars far away|prices high|birds sing]?",
)
_SORRY = "[I am sorry, but I do not know that. I am a very small sample model.|I am a very small sample model, so I do not know much about that.|That is too hard for me. I am only a small sample model.]"


def small_talk(rng: Random) -> list[Turn]:
    question, answer = rng.choice(_CHAT)
    return ask(vary(rng, question), vary(rng, answer))


def unknown(rng: Random) -> list[Turn]:
    """A question outside of the model's world, and an honest answer."""
    return ask(vary(rng, rng.choice(_UNKNOWN)), vary(rng, _SORRY))


def everyday(rng: Random) -> list[Turn]:
    """One exchange of small talk or one simple instruction."""
    return rng.choices(
        (greeting, identity, introduction, list_request, rewrite, small_talk, unknown), (14, 20, 12, 20, 8, 16, 10)
    )[0](rng)
