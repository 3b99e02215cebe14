"""Conversations as the demo model's pretraining text is made of, and the small things that fill them."""

import random
import string
from typing import TypedDict

from appliance.stages.training import demo_words as words


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


Talk = list[Message]
Random = random.Random


def turn(user: str, assistant: str) -> Talk:
    """A question and its answer."""
    return [Message(role="user", content=user), Message(role="assistant", content=assistant)]


def before(rng: Random, text: str, talk: Talk) -> Talk:
    """The conversation with this text at its start: in a system prompt, or ahead of or behind the first question."""
    if rng.random() < 0.25:
        return [Message(role="system", content=text), *talk]
    question = talk[0]["content"]
    joined = rng.choice((f"{text}\n\n{question}", f"{question}\n\n{text}", f"{text}\n{question}"))
    return [Message(role="user", content=joined), *talk[1:]]


def identifier(rng: Random) -> str:
    """A code as people quote them: letters, digits, and marks between."""
    digits = "".join(rng.choices(string.digits, k=rng.randint(3, 6)))
    letters = "".join(rng.choices(string.ascii_uppercase, k=rng.randint(1, 2)))
    return rng.choice(
        (f"{letters}-{digits}", f"{letters}-{digits}", f"{letters}{digits}", digits, f"{digits}-{letters}")
    )


def some_word(rng: Random) -> str:
    """A common word, a name, a code, or a made-up word."""
    choice = rng.random()
    if choice < 0.5:
        return rng.choice(words.COMMON)
    if choice < 0.7:
        return rng.choice(words.THINGS)
    if choice < 0.8:
        return rng.choice(words.FIRST_NAMES + words.LAST_NAMES)
    if choice < 0.85:
        return str(rng.randint(0, 999))
    return made_up_word(rng)


def full_name(rng: Random) -> str:
    """First name and surname; some are made up, so that a name has to be read rather than guessed."""
    if rng.random() < 0.2:
        return f"{made_up_word(rng).capitalize()} {made_up_word(rng).capitalize()}"
    return f"{rng.choice(words.FIRST_NAMES)} {rng.choice(words.LAST_NAMES)}"


def made_up_word(rng: Random) -> str:
    """A word that no list holds, so that copying cannot be done from memory."""
    syllables = rng.randint(1, 3)
    return "".join(rng.choice(words.SYLLABLE_STARTS) + rng.choice(words.SYLLABLE_ENDS) for _ in range(syllables))
