"""Short stories, each with a one-sentence summary."""
# ruff: noqa: E501, the lines are English

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from training import words
from training.document import Turn, ask, two_people
from training.vary import a, vary


@dataclass(frozen=True, slots=True)
class Story:
    """A story of two to four paragraphs; `about` is its main noun."""

    text: str
    summary: str
    hero: str
    about: str


OPENINGS = (
    "[Once upon a time|Long ago|A long time ago], there was [a {trait} {child}|a little {child}|{a_trait} {child}] named {n}.",
    "[Once upon a time,|Once,] a {trait} {child} named {n} lived {setting}.",
    "There was once a {trait} {child} named {n}. {He} lived {setting}.",
    "{n} was a {trait} {child}. {He} lived {setting} with {his} [family|mother and father|grandmother|grandfather].",
    "In a [small|quiet|little|sunny] [village|town], there lived a {trait} {child} named {n}.",
    "{n} lived {setting}. {He} was a {trait} {child} who loved {color} things.",
)
TIMES = "[One day|One morning|One sunny day|One afternoon|One rainy day|On {day}|The next day]"

# Body, summary, what it is about. The opening sentence comes before the body.
PLOTS = (
    (
        "{n} [loved|liked] {his} {color} {toy} [very much|more than anything]. " + TIMES + ", {n} [took|carried] it to {place}. "
        "[{He} played and played until the sun went down.|{He} played there all day long.]\n\n"
        "When {he} came home, the {toy} was gone. {n} [was very sad|began to cry|did not know what to do]. "
        "\"[Do not worry|Do not cry|Do not be sad],\" said {his} [mother|father|grandmother]. \"[We will look for it|We will find it] together.\"\n\n"
        "They went back to {place} and looked [everywhere|under every tree|behind every stone]. [At last|Then|After a while], {n} saw something "
        "{color} [in the grass|under a bush|behind a tree]. It was the {toy}! {n} [was so happy that {he} danced|hugged {his} family|"
        "laughed and held it tight]. From that day on, {he} always took good care of {his} {toy}.",
        "{n} lost {his} {color} {toy} at {place} and found it again with {his} family.",
        "{toy}",
    ),
    (
        TIMES + ", {n} met a {size} {creature} near {place}. The {creature} was [lost and cold|hungry and tired|all alone|very sad]. "
        "[\"Can you help me?\" asked|\"Please help me,\" said] the {creature}. \"[I want to go home.|I cannot find my family.|I am so hungry.]\"\n\n"
        "{n} [smiled|thought for a moment]. \"[Of course I will help you|I will help you|Come with me],\" {he} said. {He} gave the {creature} some {food} "
        "and [a warm blanket|some water|a soft bed]. Then they [walked a long way together|looked for the way home|followed the little path].\n\n"
        "[In the evening|Before dark|At last], they found the {creature}'s [home|family]. \"Thank you, {n}!\" said the {creature}. "
        "\"You are a true friend.\" [From that day on, they were best friends.|They met every day after that.|{n} went home with a warm heart.]",
        "{n} helped a {size} {creature} to find its way home, and they became friends.",
        "{creature}",
    ),
    (
        TIMES + ", {n} wanted to bake {a_cake} for {his} [friend|neighbor] {on}. {He} [looked for|needed] flour, eggs and milk, "
        "but there was no milk in the house.\n\n"
        "{n} ran to the [market|farm|shop]. On the way {he} met {on}. \"[Where are you going?|Why are you in a hurry?]\" asked {on}. "
        "\"[It is a surprise|It is a secret],\" said {n} with a smile.\n\n"
        "{n} bought the milk and went home. {He} mixed everything [with care|in a big bowl] and put it in the oven. Soon the whole house smelled sweet. "
        "In the evening {on} came to visit. \"Surprise!\" said {n}. They ate the {cake} together and [laughed a lot|talked until late|had a wonderful time].",
        "{n} baked {a_cake} as a surprise for {on}.",
        "{cake}",
    ),
    (
        "{n} was afraid of [the dark|the water|loud storms|high places]. {He} [did not tell anyone|was ashamed of it|kept it a secret]. "
        + TIMES + ", {his} friend {on} said, \"[Come with me|Let us go] to {place}. [It will be fun.|We can play there.]\"\n\n"
        "{n} felt [small and scared|{his} heart beat fast]. \"I am afraid,\" {he} said. {on} took {his} hand. "
        "\"[Everyone is afraid sometimes|I am afraid sometimes too],\" said {on}. \"We can go slowly, step by step.\"\n\n"
        "So they went [together|hand in hand], step by step. [Nothing bad happened.|It was not so bad at all.] After a while {n} [smiled|laughed]. "
        "\"I did it!\" {he} said. {n} learned that it is easier to be brave with a good friend.",
        "{n} was afraid, but with the help of {on} {he} learned to be brave.",
        "friend",
    ),
    (
        TIMES + ", {n} found a {size} {color} seed [in the garden|on the road|near the river]. [\"What will it be?\" {he} asked.|\"I wonder what it is,\" {he} said.] "
        "{He} put the seed in the ground and gave it water [every day|every morning].\n\n"
        "[Days went by|A week went by|Many days passed], but nothing happened. {on} laughed and said, \"It is only a stone.\" "
        "But {n} did not give up. {He} waited and gave it more water.\n\n"
        "Then, one [bright|warm|sunny] morning, there was a tiny green plant. It grew and grew until it was [a tall tree|a beautiful flower|as tall as {n}]. "
        "Everyone came to see it. \"You were right to wait,\" said {on}. {n} was very proud.",
        "{n} planted a seed, waited with patience and was proud when it grew.",
        "seed",
    ),
    (
        "{n} had a friend named {on}. [They played together every day.|They did everything together.] " + TIMES + ", they both wanted the same {color} {toy}. "
        "\"It is mine!\" said {n}. \"No, it is mine!\" said {on}. They pulled and pulled, and [the {toy} broke|the {toy} fell and broke].\n\n"
        "[Both were very sad.|They looked at the {toy} and were quiet.] \"I am sorry,\" said {n}. \"I am sorry too,\" said {on}.\n\n"
        "Together they [fixed the {toy} with glue|took it to {n}'s father, who fixed it]. [Then they took turns.|From then on, they shared it.] "
        "They learned that [it is better to share|sharing is more fun than fighting|a friend is worth more than a toy].",
        "{n} and {on} broke {a_toy} in a fight and learned to share.",
        "{toy}",
    ),
    (
        TIMES + ", {n} and {on} went to {place}. The sky was [blue|clear] and the birds were singing. They [ran|played|looked for stones|picked flowers] "
        "and ate {food}.\n\n"
        "Suddenly [dark clouds came|it began to rain|the wind became strong]. \"We must go home!\" said {on}. But the path was [wet|gone|full of water]. "
        "{n} saw [an old house|a big tree|a small cave] and said, \"We can wait there.\"\n\n"
        "They [sat close together|waited and told stories|sang songs] until the rain stopped. Then a [big|bright|beautiful] rainbow [came out|filled the sky]. "
        "\"[Look how beautiful it is|How beautiful],\" said {n}. They walked home and told everyone about [their day|the rainbow].",
        "{n} and {on} were caught in the rain at {place} and saw a rainbow.",
        "rainbow",
    ),
    (
        "{n} wanted to [learn to swim|ride a bicycle|play the piano|climb the tall tree|fly a kite]. The first time {he} tried, it did not work. "
        "The second time, it did not work either. \"[I cannot do it|It is too hard],\" said {n}.\n\n"
        "{His} [grandmother|grandfather|teacher|friend {on}] smiled and said, \"[Try again tomorrow|Try a little every day]. [It takes time to learn.|You will get better.]\"\n\n"
        "So {n} tried [every day|again and again]. [Little by little|Slowly], it became easier. " + TIMES + ", {he} could do it! "
        "{n} [shouted with joy|jumped up and down|smiled from ear to ear]. {He} knew now that [practice helps|you must not give up|small steps lead far].",
        "{n} practiced every day and did not give up until {he} learned something hard.",
        "learning",
    ),
    (
        TIMES + ", {n} [heard a strange sound|heard a soft noise] in [the garden|the attic|the old house|the forest]. [It was not the wind.|It was not a bird.] "
        "\"[What can it be?|Who is there?]\" {he} whispered.\n\n"
        "{n} took {a_toy2} and walked [slowly|quietly] to the sound. Something moved behind [a box|a tree|the door]. {n} held {his} breath. "
        "Then a {size} {creature} came out and looked at {him} with big eyes.\n\n"
        "\"Oh, it is only you!\" said {n} and laughed. The {creature} was [hungry|cold|lost], so {n} gave it some {food}. "
        "[It stayed with {him} all evening.|After that, it came back every night.] {n} was not afraid anymore.",
        "{n} heard a strange sound and found a {size} {creature}.",
        "{creature}",
    ),
    (
        "{n} [saved|had saved] {his} coins for a long time. {He} wanted to buy {a_color} {toy}. " + TIMES + ", {he} had enough and went to the shop.\n\n"
        "On the way {he} saw {on}, who was [crying|very sad]. \"I lost my money, and now I cannot buy {food} for my family,\" said {on}. "
        "{n} [thought about the {toy}|looked at {his} coins]. Then {he} gave the coins to {on}.\n\n"
        "[The next week|A few days later], {on} came to {n}'s house with a big box. In the box was {a_color} {toy}! "
        "\"[I made it for you|This is for you],\" said {on}. \"Thank you for your help.\" {n} was [happy|very happy|surprised and happy].",
        "{n} gave {his} coins to {on} and got {a_toy} as a gift.",
        "{toy}",
    ),
)  # fmt: skip
ENDINGS = (
    "",
    "",
    "",
    " The end.",
    " And they all lived happily ever after.",
    " It was a good day.",
    " That night, {n} slept very well.",
)


def story(rng: Random, about: str | None = None) -> Story:
    """A story; about the creature or toy `about` if a plot can carry it."""
    who = two_people(rng)
    if about is None and rng.random() < 0.2:
        who["child"] = rng.choice(words.CREATURES)
    creature, toy = rng.choice(words.CREATURES), rng.choice(words.TOYS)
    plots: tuple[tuple[str, str, str], ...] = PLOTS
    if about in words.CREATURES:
        creature, plots = about, tuple(plot for plot in PLOTS if plot[2] == "{creature}")
    elif about in words.TOYS:
        toy, plots = about, tuple(plot for plot in PLOTS if plot[2] == "{toy}")
    color, cake, trait = (
        rng.choice(words.COLORS),
        rng.choice(("cake", "pie", "apple cake", "lemon pie")),
        rng.choice(words.TRAITS),
    )
    slots = who | {
        "trait": trait, "a_trait": a(trait), "color": color, "a_color": a(color), "toy": toy, "a_toy": a(toy),
        "a_toy2": a(rng.choice(("lamp", "candle", "stick"))), "cake": cake, "a_cake": a(cake), "creature": creature,
        "size": rng.choice(words.SIZES[:5]), "place": rng.choice(words.PLACES), "setting": rng.choice(words.SETTINGS),
        "food": rng.choice(words.FOODS), "day": rng.choice(words.DAYS),
    }  # fmt: skip
    body, summary, subject = rng.choice(plots)
    opening = vary(rng, rng.choice(OPENINGS), **slots).replace("a kind of", "a kind").replace(" a orange", " an orange")
    text = f"{opening} {vary(rng, body, **slots)}{vary(rng, rng.choice(ENDINGS), **slots)}"
    return Story(text, vary(rng, summary, **slots), who["n"], subject.format(**slots))


def story_request(rng: Random) -> list[Turn]:
    """A wish for a story, and now and then a question about it."""
    about = rng.choice(words.CREATURES + words.TOYS) if rng.random() < 0.5 else None
    told = story(rng, about)
    wish = "[Tell me|Write|Please tell me|Please write|Can you tell me|Can you write me|I want to hear] [a story|a short story|a little story]"
    wish += f" about {a(about)}" if about else "[| for children| before I sleep|, please]"
    turns = ask(vary(rng, wish) + rng.choice((".", ".", "", "!")), told.text)
    follow = rng.random()
    if follow < 0.12:
        turns += ask(vary(rng, "[What is the name of the hero?|Who is the story about?|What was the name of the main character?]"),
                     vary(rng, "[The story is about {n}.|The hero is {n}.|The name is {n}.]", n=told.hero))  # fmt: skip
    elif follow < 0.3:
        turns += ask(
            vary(rng, "[Sum it up in one sentence.|Summarize the story in one sentence.|Can you summarize it?]"),
            told.summary,
        )
    return turns


def summary_request(rng: Random) -> list[Turn]:
    """A text to sum up in one sentence."""
    told = story(rng)
    order = vary(
        rng,
        "[Summarize this text in one sentence|Summarize|Give me a one-sentence summary|Sum this up in one sentence]:",
    )
    return ask(f"{order}{rng.choice((' ', chr(10), chr(10) * 2))}{told.text}", told.summary)
