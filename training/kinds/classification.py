"""Prompts of the zero-shot and few-shot classifiers, and their one-label answers."""
# ruff: noqa: E501, the lines are English

from __future__ import annotations

from random import Random

from training import words
from training.document import Piece, Turn, ask, person
from training.kinds import topics
from training.vary import a, capital, vary

# The default prompts of segue.classify, word for word: the sample model is trained on them.
ZERO_SHOT_PROMPT = """### System:
You are a precise and brief text classifier. You answer with one label and nothing else.

### User:
Classify the text below. The possible labels are: {classes}. Choose exactly one label.

Text: "{X}"

### Assistant:
"""
FEW_SHOT_PROMPT = """### System:
You are a precise and brief text classifier. You answer with one label and nothing else.

### User:
Classify the text below. The possible labels are: {classes}. Choose exactly one label.
Here are examples of each label.

{examples}

Text: "{X}"

### Assistant:
"""
EXAMPLES_HEADER = "Examples of '{label}':"

_SYSTEMS = (
    "You are a precise classifier. Be brief.", "You are a classifier that answers with a single label.", "You are a helpful assistant.",
    "You are an exact and brief classifier. Answer only with the label.", "You are an excellent and precise classifier. Keep your answers short.",
)  # fmt: skip
_TASKS = (
    "Classify the text below. The possible labels are: {classes}. Choose exactly one label.",
    "Your task is to classify a text. The labels are {classes}. Answer with one label.",
    "Which of these labels fits the text best: {classes}?",
    "Choose the label of the text from {classes}.",
    "Please sort this text into one of these classes: {classes}. Give a single label.",
    "Classify this text as one of {classes}.",
)
_TEXTS = ('Text: "{X}"', "Text: {X}", '"{X}"', 'The text is: "{X}"')


def topic_sentence(rng: Random, topic: str) -> str:
    """One or two sentences about `topic`."""
    if topic == "other":
        return vary(rng, rng.choice(topics.OTHER), day=rng.choice(words.DAYS), n=person(rng)["n"])
    phrases = topics.PHRASES[topic].split("|")
    if rng.random() < 0.35:
        first, second = rng.sample(phrases, 2)
        text = rng.choice(topics.FRAMES).format(p=first.strip(), q=second.strip(), P=capital(first.strip()))
    else:
        slots = {
            "day": rng.choice(words.DAYS),
            "month": rng.choice(words.MONTHS),
            "city": rng.choice(words.CITIES),
            "n": person(rng)["n"],
        }
        text = vary(rng, rng.choice(topics.SENTENCES[topic]), **slots).replace(" .", ".")
    return f"{text} {topic_sentence(rng, topic)}" if rng.random() < 0.12 else text


def mood_sentence(rng: Random, mood: str) -> str:
    """A sentence that is positive, negative or neutral."""
    subject = vary(rng, topics.MOOD_SUBJECTS)
    good, bad = rng.choice(topics.POSITIVE.split("|")), rng.choice(topics.NEGATIVE.split("|"))
    template = rng.choice(topics.MOODS[mood])
    if "{a_good}" in template or "{a_bad}" in template:
        good, bad = (rng.choice(choice.split("|")[:6]) for choice in (topics.POSITIVE, topics.NEGATIVE))
    return vary(rng, template, s=subject, t=subject[0].lower() + subject[1:], noun=subject.split()[-1], good=good, bad=bad, a_good=a(good), a_bad=a(bad),
                plain=rng.choice(topics.NEUTRAL.split("|")), day=rng.choice(words.DAYS))  # fmt: skip


_MOOD_LABELS = (
    ("positive", "negative", "neutral"),
    ("positive", "negative", "neutral"),
    ("good", "bad", "neutral"),
    ("happy", "sad", "neutral"),
)


def task(rng: Random) -> tuple[list[str], dict[str, str], str]:
    """Labels in random order, label -> what it stands for, and the right label."""
    if rng.random() < 0.25:
        meanings = dict(zip(rng.choice(_MOOD_LABELS), ("positive", "negative", "neutral"), strict=True))
        if rng.random() < 0.5:
            meanings = dict(list(meanings.items())[:2])
    else:
        chosen = rng.sample(list(topics.NAMES), rng.choice((2, 2, 3, 3, 4, 5, 6)))
        meanings = {rng.choice(topics.NAMES[topic]): topic for topic in chosen}
        if rng.random() < 0.45:
            meanings[rng.choice(("other", "other", "something else"))] = "other"
    labels = list(meanings)
    if rng.random() < 0.8:
        rng.shuffle(labels)
    if rng.random() < 0.12:
        labels = [capital(label) for label in labels]
        meanings = {capital(label): meaning for label, meaning in meanings.items()}
    return labels, meanings, rng.choice(labels)


def text_for(rng: Random, meanings: dict[str, str], label: str) -> str:
    """A text that `label` fits; for "other", often one on a topic that has no label here."""
    meaning = meanings[label]
    if meaning in topics.MOODS:
        return mood_sentence(rng, meaning)
    if meaning == "other" and rng.random() < 0.7:
        meaning = rng.choice([topic for topic in topics.NAMES if topic not in meanings.values()])
    return topic_sentence(rng, meaning)


def classification(rng: Random) -> list[Piece]:
    """A raw prompt in the classifiers' style, with its label."""
    labels, meanings, right = task(rng)
    classes = ", ".join(f"'{label}'" for label in labels)
    text = text_for(rng, meanings, right)
    default = rng.random() < 0.6
    if rng.random() < 0.3:
        lead = "Here are examples of each label.\n\n"
        blocks = []
        for label in labels:
            quoted = "\n".join(f'"{text_for(rng, meanings, label)}"' for _ in range(rng.choice((1, 1, 2, 2, 3))))
            blocks.append(f"{EXAMPLES_HEADER.format(label=label)}\n{quoted}")
        examples = "\n\n".join(blocks)
        if default:
            return [
                Piece(FEW_SHOT_PROMPT.format(classes=classes, examples=examples, X=text), False),
                Piece(right, True),
            ]
        body = f"{rng.choice(_TASKS).format(classes=classes)}\n{lead}{examples}\n\n{rng.choice(_TEXTS).format(X=text)}"
    else:
        if default:
            return [Piece(ZERO_SHOT_PROMPT.format(classes=classes, X=text), False), Piece(right, True)]
        body = f"{rng.choice(_TASKS).format(classes=classes)}{rng.choice((chr(10), chr(10) * 2))}{rng.choice(_TEXTS).format(X=text)}"
    gap = rng.choice(("\n", "\n\n"))
    head = f"### System:\n{rng.choice(_SYSTEMS)}{gap}### User:\n{body}{gap}### Assistant:"
    # A client may strip the prompt's last line break; then the answer begins with it.
    return (
        [Piece(head + "\n", False), Piece(right, True)]
        if rng.random() < 0.7
        else [Piece(head, False), Piece("\n" + right, True)]
    )


def classification_request(rng: Random) -> list[Turn]:
    """The same task asked in a chat."""
    labels, meanings, right = task(rng)
    quote = rng.choice(("", "'"))
    classes = ", ".join(f"{quote}{label}{quote}" for label in labels)
    text = text_for(rng, meanings, right)
    if set(meanings.values()) <= set(topics.MOODS) and rng.random() < 0.4:
        question = vary(rng, "[Is this text|Is this sentence|Is this review] {c}?", c=" or ".join(labels))
        return ask(f'{question} "{text}"', right)
    order = rng.choice((*_TASKS, "Is this text about {classes}?", "What is the topic of this text: {classes}?"))
    if "topic" in order and set(meanings.values()) <= set(topics.MOODS):
        order = _TASKS[0]
    return ask(f"{order.format(classes=classes)}\n{rng.choice(_TEXTS).format(X=text)}", right)
