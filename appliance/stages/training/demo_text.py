"""The demo model's pretraining text: short conversations made from a grammar, endless and seeded.

They teach what any chat model can do (follow an instruction, copy, look up, classify, extract, fill in a form) in
many wordings, so that an adapter only has to teach a form. The form that the sample dataset trains
(`make_demo_dataset.ANSWER_FORM`) is never written here: the untuned model must not know it.
"""

import json
from collections.abc import Callable, Iterator

from appliance.stages.training import demo_words as words
from appliance.stages.training.demo_exercises import arithmetic, classifying, copying, extracting, filling, lookup
from appliance.stages.training.demo_letters import letters
from appliance.stages.training.demo_talk import Message, Random, Talk, before, turn


def conversations(seed: int) -> Iterator[Talk]:
    """Conversations without end, the same for the same seed."""
    rng = Random(seed)
    tasks = [task for task, _ in TASKS]
    weights = [weight for _, weight in TASKS]
    while True:
        yield rng.choices(tasks, weights)[0](rng)


def general_knowledge(rng: Random) -> Talk:
    """Opposites, examples, order of days and months, sizes."""
    return rng.choice((_opposite, _examples, _next_day, _larger, _plural, _greeting))(rng)


def _opposite(rng: Random) -> Talk:
    pair = rng.sample(rng.choice(words.OPPOSITES), 2)
    return turn(rng.choice(("What is the opposite of {}?", "Opposite of {}", "Not {} but")).format(pair[0]), pair[1])


def _examples(rng: Random) -> Talk:
    kind = rng.choice(list(words.KINDS))
    found = rng.sample(words.KINDS[kind], 3)
    return turn(f"Name three words for a {kind}.", f"{found[0]}, {found[1]} and {found[2]}")


def _next_day(rng: Random) -> Talk:
    cycle = rng.choice((words.WEEKDAYS, words.MONTHS))
    place = rng.randrange(len(cycle))
    if rng.random() < 0.5:
        return turn(f"What comes after {cycle[place]}?", f"{cycle[(place + 1) % len(cycle)]}.")
    return turn(f"What comes before {cycle[place]}?", f"{cycle[place - 1]}.")


def _larger(rng: Random) -> Talk:
    first, second = rng.sample(range(len(words.SMALLER_LARGER)), 2)
    one, other = words.SMALLER_LARGER[first], words.SMALLER_LARGER[second]
    return turn(f"Which is larger, a {one} or a {other}?", f"The {one if first > second else other} is larger.")


def _plural(rng: Random) -> Talk:
    word = rng.choice([thing for thing in words.THINGS if not thing.endswith(("x", "y", "ch", "s", "fe"))])
    return turn(f"What is the plural of {word}?", f"{word}s")


def _greeting(rng: Random) -> Talk:
    name = rng.choice(words.FIRST_NAMES)
    return rng.choice(
        (
            turn("Hello!", "Hello! How can I help you?"),
            turn(f"Hello, I am {name}.", f"Hello {name}! How can I help you?"),
            turn(f"My name is {name}.", f"Nice to meet you, {name}.")
            + turn("What is my name?", f"Your name is {name}."),
            turn("Thank you.", "You are welcome."),
            turn("Who are you?", "I am a small language model, made to show how training works."),
        )
    )


def stories(rng: Random) -> Talk:
    """A few plain sentences, and questions about them."""
    person, thing, place = rng.choice(words.PEOPLE), rng.choice(words.THINGS), rng.choice(words.PLACES)
    other, adjective = rng.choice(words.PEOPLE), rng.choice(words.ADJECTIVES)
    (act, past), (act2, past2) = rng.sample(words.ACTIONS, 2)
    text = rng.choice(
        (
            "The {adjective} {person} went to the {place}. There the {person} {past} a {thing}. "
            "Then the {other} {past2} it.",
            "There was a {adjective} {person} in a {place}. One day the {person} {past} a {thing}, "
            "and the {other} {past2} it.",
            "A {other} and a {adjective} {person} met at the {place}. The {person} {past} a {thing}. "
            "The {other} {past2} it.",
        )
    ).format(person=person, other=other, place=place, thing=thing, past=past, past2=past2, adjective=adjective)
    questions = [
        (f"Who {past} a {thing}?", f"The {person} {past} a {thing}."),
        (f"What did the {person} {act}?", f"The {person} {past} a {thing}."),
        ("Where did it happen?", f"It happened at the {place}."),
        (f"What was the {person} like?", f"The {person} was {adjective}."),
        (f"Did the {other} {act2} it?", f"Yes, the {other} {past2} it."),
    ]
    if rng.random() < 0.3:
        return turn(rng.choice((f"Tell me a story about a {person}.", f"Write about a {person} and a {thing}.")), text)
    return before(rng, text, [message for pair in rng.sample(questions, rng.randint(1, 3)) for message in turn(*pair)])


def tool_use(rng: Random) -> Talk:
    """The answer comes from what a tool returned."""
    city, degrees = rng.choice(words.CITIES), str(rng.randint(-9, 35))
    sky = rng.choice(("sunny", "cloudy", "rainy", "windy"))
    return [
        Message(role="user", content=f"What is the weather in {city}?"),
        Message(
            role="assistant",
            content=f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>',
        ),
        Message(role="tool", content=json.dumps({"city": city, "degrees": degrees, "sky": sky})),
        Message(role="assistant", content=f"In {city} it is {sky} with {degrees} degrees."),
    ]


TASKS: tuple[tuple[Callable[[Random], Talk], float], ...] = (
    (letters, 42),
    (copying, 15),
    (lookup, 10),
    (extracting, 10),
    (stories, 6),
    (classifying, 5),
    (filling, 5),
    (general_knowledge, 4),
    (arithmetic, 3),
    (tool_use, 1),
)
