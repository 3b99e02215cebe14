"""Messages to a desk and questions about them: the part of the pretraining text nearest to office work."""

import string
from typing import NamedTuple

from appliance.stages.training import demo_desks as desks
from appliance.stages.training import demo_words as words
from appliance.stages.training.demo_exercises import fields_in_some_form
from appliance.stages.training.demo_talk import Message, Random, Talk, full_name

# A question and its answer; in a conversation, who speaks and what.
Turn = tuple[str, str]


class Facts(NamedTuple):
    """What a letter says, before it is put into words."""

    desk: desks.Desk
    team: str
    topic: str
    problem: str
    reference: str | None
    name: str
    urgency: str


def some_facts(rng: Random, desk: desks.Desk) -> Facts:
    """A writer with a problem."""
    team = rng.choice(list(desk.teams))
    problem = rng.choice(desk.teams[team])
    return Facts(
        desk=desk,
        team=team,
        topic=problem.topic,
        problem=rng.choice(problem.sentences).format(item=rng.choice(desks.ITEMS[desk.reference])),
        reference=reference(rng) if rng.random() < 0.85 else None,
        name=full_name(rng),
        urgency=rng.choice(("urgent", "ordinary", "relaxed")),
    )


def reference(rng: Random) -> str:
    """A reference number in one of the usual shapes."""
    digits = "".join(rng.choices(string.digits, k=rng.choice((3, 4, 4, 5))))
    letter = rng.choice(string.ascii_uppercase)
    return rng.choice((f"{letter}-{digits}", f"{letter}-{digits}", f"{letter}{digits}", f"#{digits}", digits))


def write_letter(rng: Random, facts: Facts) -> str:
    """The facts as a message, with small talk around them."""
    sentences = [facts.problem]
    if facts.reference:
        sentences.append(_reference_sentence(rng, facts.desk.reference).format(facts.reference))
    if facts.urgency != "ordinary":
        sentences.append(rng.choice(desks.URGENT if facts.urgency == "urgent" else desks.RELAXED))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        sentences.append(_small_talk(rng))
    rng.shuffle(sentences)
    body = " ".join(sentences)
    greeting = rng.choice(("Hello", "Hello,", "Hi,", "Dear team,", "Good morning,", "Good evening,", ""))
    ending = rng.choice(("Regards,\n", "Best wishes,\n", "Thank you,\n", "Yours,\n", "Thanks, ", "- ", ""))
    if rng.random() < 0.2:
        return f"From: {facts.name}\n{body}"
    if rng.random() < 0.25:
        return f"{greeting} {body} {ending}{facts.name}".strip()
    return f"{greeting}\n{body}\n{ending}{facts.name}".strip()


def _reference_sentence(rng: Random, kind: str) -> str:
    return rng.choice(
        (
            f"My {kind} number is {{}}.",
            f"It is about {kind} {{}}.",
            f"The {kind} is {{}}.",
            f"{kind.capitalize()}: {{}}.",
            f"{kind.capitalize()} number {{}}.",
            f"You find it under {kind} {{}}.",
            f"(My {kind}: {{}})",
        )
    )


def _small_talk(rng: Random) -> str:
    return rng.choice(desks.SMALL_TALK).format(
        n=rng.randint(2, 12), phone=f"{rng.randint(100, 999)}-{rng.randint(1000, 9999)}", city=rng.choice(words.CITIES)
    )


def letters(rng: Random) -> Talk:
    """A message to some desk, and questions about it."""
    return [Message(role=role, content=content) for role, content in _about_one_letter(rng)]


def _about_one_letter(rng: Random) -> list[Turn]:
    desk = desks.SHOP if rng.random() < 0.6 else rng.choice(desks.DESKS[1:])
    facts = some_facts(rng, desk)
    text = write_letter(rng, facts)
    if rng.random() < 0.3:
        return _answered_by_the_desk(rng, facts, text)
    asked = rng.sample(
        (_ask_reference, _ask_team, _ask_writer, _ask_urgency, _ask_topic, _ask_reply, _ask_fields), k=rng.randint(1, 4)
    )
    turns = [ask(rng, facts) for ask in asked]
    talk: list[Turn] = []
    if rng.random() < 0.3:
        talk.append(
            (
                "system",
                rng.choice((f"You work for {desk.place}.", "Answer briefly.", f"You read messages to {desk.place}.")),
            )
        )
    for number, (question, answer) in enumerate(turns):
        asked_with = question if number else rng.choice((f"{text}\n\n{question}", f"{question}\n\n{text}"))
        talk += [("user", asked_with), ("assistant", answer)]
    return talk


def _answered_by_the_desk(rng: Random, facts: Facts, text: str) -> list[Turn]:
    """The desk answers the message itself, with no question asked."""
    teams = ", ".join(rng.sample(list(facts.desk.teams), len(facts.desk.teams)))
    system = rng.choice(
        (
            f"You are the help desk of {facts.desk.place}.",
            f"You are the help desk of {facts.desk.place}. The teams are: {teams}.",
            f"You answer messages to {facts.desk.place}. Teams: {teams}.",
            f"Reply to people who write to {facts.desk.place}.",
        )
    )
    return [("system", system), ("user", text), ("assistant", _reply(rng, facts))]


def _reply(rng: Random, facts: Facts) -> str:
    first = facts.name.split()[0]
    about = f"{facts.desk.reference} {facts.reference}" if facts.reference else "your message"
    when = {"urgent": "today", "ordinary": "within two days", "relaxed": "this month"}[facts.urgency]
    return rng.choice(
        (
            f"Dear {first}, thank you for writing about {facts.topic}. The {facts.team} team will answer {when}.",
            f"Dear {first}, we are sorry about {facts.topic}. We will look at {about} {when}.",
            f"Dear {facts.name}, I passed {about} on to {facts.team}. You will hear about {facts.topic} {when}.",
        )
    )


def _ask_reference(rng: Random, facts: Facts) -> Turn:
    kind = facts.desk.reference
    ask = rng.choice((f"What is the {kind} number?", f"Which {kind} is it about?", f"Find the {kind} number."))
    if facts.reference is None:
        return ask, f"No {kind} number is given."
    if rng.random() < 0.4:
        return f"Write only the {kind} number.", facts.reference
    return ask, rng.choice((f"The {kind} number is {facts.reference}.", f"It is {facts.reference}."))


def _ask_team(rng: Random, facts: Facts) -> Turn:
    teams = rng.sample(list(facts.desk.teams), len(facts.desk.teams))
    options = ", ".join(teams[:-1]) + " or " + teams[-1]
    ask = rng.choice(
        (
            f"Who should handle this: {options}?",
            f"Which team is this for? Choose from {options}.",
            "Which team is this for?",
        )
    )
    return ask, rng.choice((facts.team, f"This is for {facts.team}.", f"The {facts.team} team should handle it."))


def _ask_writer(rng: Random, facts: Facts) -> Turn:
    if rng.random() < 0.5:
        return rng.choice(("Who wrote this?", "What is the name of the writer?")), facts.name
    first = facts.name.split()[0]
    return rng.choice(("What is the first name of the writer?", "First name?")), first


def _ask_urgency(rng: Random, facts: Facts) -> Turn:
    ask = rng.choice(("How urgent is it?", "Is it urgent?", "When does it have to be done?"))
    answer = {
        "urgent": ("It is urgent.", "Today, it is urgent."),
        "ordinary": ("It is of ordinary urgency.", "Within two days, as usual."),
        "relaxed": ("It is not urgent, it can wait.", "It can wait until later this month."),
    }[facts.urgency]
    return ask, rng.choice(answer)


def _ask_topic(rng: Random, facts: Facts) -> Turn:
    ask = rng.choice(("What is it about?", "Say in a few words what it is about.", "What is the subject?"))
    return ask, rng.choice((f"It is about {facts.topic}.", facts.topic))


def _ask_reply(rng: Random, facts: Facts) -> Turn:
    return rng.choice(("Write a short reply.", "Answer the writer.", "Draft an answer.")), _reply(rng, facts)


def _ask_fields(rng: Random, facts: Facts) -> Turn:
    """Several facts at once, in the form the question asks for."""
    known = {
        "writer": facts.name,
        "topic": facts.topic,
        "desk": facts.team,
        "urgency": facts.urgency,
        facts.desk.reference: facts.reference or "unknown",
    }
    keys = rng.sample(list(known), rng.randint(2, 4))
    fields = {key: known[key] for key in keys}
    return fields_in_some_form(rng, fields)
