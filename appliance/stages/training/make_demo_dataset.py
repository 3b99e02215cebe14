"""Make the sample dataset: `python -m appliance.stages.training.make_demo_dataset` writes `support-tickets.jsonl`.

Tickets to an online shop, each answered in one fixed line: who handles it, how soon, which order, and a reply. All of
it follows from the ticket, so that an answer is right or wrong.
"""

import argparse
import json
import re
from pathlib import Path

from appliance.stages.training import demo_desks as desks
from appliance.stages.training import demo_words as words
from appliance.stages.training.demo_talk import Message, Random, Talk

OUT = Path(__file__).parents[2] / "demo" / "support-tickets.jsonl"
ROWS = 500
SYSTEM = "You are the help desk of an online shop. Sort the ticket and draft the reply."
ANSWER_FORM = re.compile(
    r"team: (?P<team>billing|shipping|returns|account|technical) \| priority: (?P<priority>high|normal|low)"
    r" \| order: (?P<order>[A-Z]-\d{4}|none) \| reply: (?P<reply>\S.*)"
)
# What a priority is called, what in the ticket says so, and what the reply then promises.
PRIORITIES = (
    ("high", desks.URGENT, "today"),
    ("normal", ("",), "within two days"),
    ("low", desks.RELAXED, "this month"),
)
ORDER_SENTENCES = (
    "Order {}.",
    "My order number is {}.",
    "It is about order {}.",
    "The order is {}.",
    "I mean order {}, please check.",
    "You find it under order {}.",
)


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=3407)
    arguments = parser.parse_args()
    rows = (json.dumps({"messages": talk}) for talk in tickets(arguments.seed))
    arguments.out.write_text("".join(f"{row}\n" for row in rows))


def tickets(seed: int) -> list[Talk]:
    """The rows: no two tickets alike, the same for the same seed."""
    rng = Random(seed)
    found: dict[str, Talk] = {}
    while len(found) < ROWS:
        talk = ticket(rng)
        found.setdefault(talk[1]["content"], talk)
    return list(found.values())


def ticket(rng: Random) -> Talk:
    """One ticket and the line that answers it."""
    team = rng.choice(list(desks.SHOP.teams))
    problem = rng.choice(desks.SHOP.teams[team])
    first, last = rng.choice(words.FIRST_NAMES), rng.choice(words.LAST_NAMES)
    order = f"{rng.choice('ABCDEFGHJKLMNPRSTUVWXYZ')}-{rng.randint(1000, 9999)}" if rng.random() < 0.9 else "none"
    priority, cues, when = rng.choice(PRIORITIES)
    parts = [rng.choice(problem.sentences).format(item=rng.choice(desks.ITEMS["order"]))]
    if order != "none":
        parts.append(rng.choice(ORDER_SENTENCES).format(order))
    if rng.random() < 0.5:
        parts.append(
            rng.choice(desks.SMALL_TALK).format(n=rng.randint(2, 12), phone=_phone(rng), city=rng.choice(words.CITIES))
        )
    if cue := rng.choice(cues):
        parts.insert(rng.randint(1, len(parts)), cue)
    greeting, ending = (
        rng.choice(("Hello,", "Hi,", "Good morning,", "Dear team,")),
        rng.choice(("Regards,", "Thank you,", "Best wishes,")),
    )
    reply = f"Hello {first}, sorry about {problem.topic}. Our {team} team will write to you {when}."
    return [
        Message(role="system", content=SYSTEM),
        Message(role="user", content=f"{greeting}\n{' '.join(parts)}\n{ending}\n{first} {last}"),
        Message(role="assistant", content=f"team: {team} | priority: {priority} | order: {order} | reply: {reply}"),
    ]


def _phone(rng: Random) -> str:
    return f"{rng.randint(100, 999)}-{rng.randint(1000, 9999)}"


if __name__ == "__main__":
    main()
