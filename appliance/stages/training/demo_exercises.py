"""Exercises of the demo model's pretraining text: to copy, look up, classify, extract, fill in and count."""

import json
from collections.abc import Callable

from appliance.stages.training import demo_words as words
from appliance.stages.training.demo_talk import Random, Talk, before, full_name, identifier, some_word, turn


def copying(rng: Random) -> Talk:
    """Say something again, whole or in part; several times in one conversation."""
    talk: Talk = []
    for _ in range(rng.randint(1, 3)):
        items = [some_word(rng) for _ in range(rng.randint(2, 7))]
        talk += rng.choice((_repeat, _pick_one, _rearrange, _quote))(rng, items)
    return talk


def _repeat(rng: Random, items: list[str]) -> Talk:
    text = " ".join(items)
    ask = rng.choice(("Repeat: {}", "Say this again: {}", "Copy these words: {}", 'Write "{}" once more.', "Echo {}"))
    return turn(ask.format(text), text)


def _pick_one(rng: Random, items: list[str]) -> Talk:
    place = rng.randrange(len(items))
    name = "last" if place == len(items) - 1 else ("first", "second", "third", "fourth", "fifth", "sixth")[place]
    ask = rng.choice(("What is the {} word of: {}", "Give the {} word: {}", "Name the {} of these words: {}"))
    return turn(ask.format(name, " ".join(items)), items[place])


def _rearrange(rng: Random, items: list[str]) -> Talk:
    """The same words with other marks between them."""
    marks = {"commas": ", ", "semicolons": "; ", "slashes": " / ", "dashes": " - ", "plus signs": " + ", "bars": " | "}
    name = rng.choice(list(marks))
    return turn(f"Put {name} between these words: {' '.join(items)}", marks[name].join(items))


def _quote(rng: Random, items: list[str]) -> Talk:
    """One code or name."""
    word = rng.choice((identifier(rng), full_name(rng), items[0]))
    ask = rng.choice(
        (
            "Write this number again: {}",
            "Repeat the code {}.",
            "Note down {}, please.",
            "The code is {}. What is the code?",
        )
    )
    return turn(ask.format(word), word)


def lookup(rng: Random) -> Talk:
    """A list or table, and questions whose answers stand in it."""
    makers: dict[str, Callable[[], str]] = {
        "phone number": lambda: f"{rng.randint(100, 999)}-{rng.randint(1000, 9999)}",
        "code": lambda: identifier(rng),
        "city": lambda: rng.choice(words.CITIES),
        "age": lambda: str(rng.randint(5, 90)),
        "job": lambda: rng.choice(words.KINDS["job"]),
        "surname": lambda: rng.choice(words.LAST_NAMES),
    }
    kind = rng.choice(list(makers))
    entries = {name: makers[kind]() for name in rng.sample(words.FIRST_NAMES, rng.randint(2, 6))}
    talk: Talk = []
    for name in rng.sample(list(entries), min(len(entries), rng.randint(1, 3))):
        ask = rng.choice(
            (f"What is the {kind} of {name}?", f"Give me {name}'s {kind}.", f"{kind.capitalize()} of {name}?")
        )
        talk += turn(
            ask, rng.choice((f"The {kind} of {name} is {entries[name]}.", entries[name], f"{name}: {entries[name]}"))
        )
    return before(rng, _listing(rng, kind, entries), talk)


def _listing(rng: Random, kind: str, entries: dict[str, str]) -> str:
    """The entries as lines or as a table."""
    if rng.random() < 0.25:
        return "\n".join(
            [f"| name | {kind} |", "|---|---|", *(f"| {name} | {value} |" for name, value in entries.items())]
        )
    line = rng.choice(("{}: {}", "{} - {}", "{} = {}", "{},{}", "{} ({})"))
    heading = rng.choice((f"name and {kind}\n", f"List of every {kind}:\n", ""))
    return heading + "\n".join(line.format(name, value) for name, value in entries.items())


def classifying(rng: Random) -> Talk:
    """Which kind of thing is it? The instruction names the kinds."""
    kinds = rng.sample(list(words.KINDS), rng.randint(2, 4))
    options = ", ".join(kinds[:-1]) + " or " + kinds[-1]
    talk: Talk = []
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice(kinds)
        word = rng.choice(words.KINDS[kind])
        ask = f"Is this a word for a {options}: {word}" if not talk else f"And {word}?"
        talk += turn(ask, rng.choice((kind, f"It is a word for a {kind}.")) if not talk else kind)
    return talk


def extracting(rng: Random) -> Talk:
    """A sentence about somebody; some of its facts, in the form the instruction asks for."""
    facts = {
        "name": full_name(rng),
        "city": rng.choice(words.CITIES),
        "job": rng.choice(words.KINDS["job"]),
        "age": str(rng.randint(18, 80)),
        "code": identifier(rng),
    }
    sentence = rng.choice(
        (
            "{name}, {age}, works as a {job} in {city} and has the code {code}.",
            "Code {code} belongs to {name}. {name} is a {job}, {age} years old, and lives in {city}.",
            "In {city} there is a {job} called {name} who is {age} years old. The code is {code}.",
            "{name} moved to {city} at {age} to become a {job}. Please note the code {code}.",
        )
    ).format(**facts)
    talk: Talk = []
    for _ in range(rng.randint(1, 2)):
        keys = rng.sample(list(facts), rng.randint(1, 4))
        talk += turn(*fields_in_some_form(rng, {key: facts[key] for key in keys}))
    return before(rng, sentence, talk)


def fields_in_some_form(rng: Random, fields: dict[str, str]) -> tuple[str, str]:
    """An instruction that asks for these fields in some form, and the answer to it."""
    names = ", ".join(fields)
    pairs = list(fields.items())
    forms = (
        (f"Give as JSON: {names}", json.dumps(fields)),
        (f"Give {names}, one per line.", "\n".join(f"{key}: {value}" for key, value in pairs)),
        (f"Give {names} as key=value.", " ".join(f"{key}={value}" for key, value in pairs)),
        (f"Give {names}, separated by semicolons.", "; ".join(fields.values())),
        (f"Give {names}, separated by commas.", ", ".join(fields.values())),
        (f"Give {names} with dashes.", "\n".join(f"- {key} {value}" for key, value in pairs)),
        (f"Give {names} in brackets.", " ".join(f"[{key}: {value}]" for key, value in pairs)),
        (f"State {names}.", " ".join(f"The {key} is {value}." for key, value in pairs)),
    )
    return rng.choice(forms)


def filling(rng: Random) -> Talk:
    """A text with gaps and what goes into them."""
    name, thing, day = rng.choice(words.FIRST_NAMES), rng.choice(words.THINGS), rng.choice(words.WEEKDAYS)
    city, code = rng.choice(words.CITIES), identifier(rng)
    text = rng.choice(
        (
            "Dear [name], your [thing] {code} comes on [day].",
            "[name] left a [thing] in [city] on [day].",
            "On [day], [name] takes the [thing] to [city].",
            "Hello [name], the [thing] with code [code] is ready in [city].",
            "[day]: [thing] for [name], code [code].",
        )
    ).replace("{code}", code)
    values = {"name": name, "thing": thing, "day": day, "city": city, "code": code}
    given = [f"{key} = {value}" for key, value in values.items() if f"[{key}]" in text]
    rng.shuffle(given)
    filled = text
    for key, value in values.items():
        filled = filled.replace(f"[{key}]", value)
    return turn(f"Fill in the gaps: {text}\n" + rng.choice(("\n", ", ")).join(given), filled)


def arithmetic(rng: Random) -> Talk:
    """Sums of small numbers, in figures and in words."""
    talk: Talk = []
    for _ in range(rng.randint(1, 3)):
        one, other = rng.randint(0, 20), rng.randint(0, 20)
        if rng.random() < 0.5:
            talk += turn(rng.choice((f"{one} + {other} =", f"How much is {one} plus {other}?")), str(one + other))
        else:
            one, other = max(one, other), min(one, other)
            talk += turn(rng.choice((f"{one} - {other} =", f"How much is {one} minus {other}?")), str(one - other))
    return talk
