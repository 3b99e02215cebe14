"""The places that the demo model's pretraining text writes to, and what people write to them about."""

import re
from typing import Final, NamedTuple


class Problem(NamedTuple):
    """One thing people write to a desk about."""

    topic: str
    sentences: tuple[str, ...]


class Desk(NamedTuple):
    """A place that receives messages: what its reference numbers are called, and who there handles what."""

    place: str
    reference: str
    teams: dict[str, tuple[Problem, ...]]


def _problems(text: str) -> tuple[Problem, ...]:
    """One problem a line: `topic: sentence / sentence`; a line that starts with a slash goes on from the one before."""
    lines = (line.split(": ", 1) for line in re.sub(r"\n\s*/", " /", text.strip()).splitlines())
    return tuple(
        Problem(topic.strip(), tuple(_punctuated(each) for each in rest.split(" / "))) for topic, rest in lines
    )


def _words(text: str) -> list[str]:
    return text.split()


def _punctuated(sentence: str) -> str:
    asks = sentence.startswith(("when ", "can ", "how ", "is ", "are ", "may ", "where "))
    return f"{sentence[0].upper()}{sentence[1:]}{'?' if asks else '.'}"


SHOP: Final = Desk(
    "an online shop",
    "order",
    {
        "billing": _problems("""
            the double charge: my card was charged twice for the {item} / you took the money for the {item} two times
            the wrong invoice: the invoice for the {item} shows the wrong amount / the bill for my {item} is too high
            the missing refund: I am still waiting for my money back for the {item}
                / the refund for the {item} never came
            the payment error: my payment for the {item} was refused
                / I cannot pay for the {item}, the payment always fails
            the discount code: the discount code did not work for the {item} / I forgot to use my voucher for the {item}
            the receipt: I need a receipt for the {item} for my tax papers
                / please send me a copy of the receipt for the {item}
        """),
        "shipping": _problems("""
            the late parcel: the {item} has not arrived yet
                / I have been waiting two weeks for the {item} to be delivered
            the lost parcel: the tracking says the {item} was delivered but nothing is here
                / the courier seems to have lost the {item}
            the new address: I have moved, please send the {item} to my new address
                / can you change the delivery address for the {item}
            the customs fee: the courier wants a customs fee for the {item} / the {item} is stuck at customs
            the delivery date: when will the {item} be delivered / can the {item} come on a Saturday
            the tracking link: the tracking link for the {item} does not open
                / I never got a tracking number for the {item}
        """),
        "returns": _problems("""
            the damaged item: the {item} came broken / the {item} has a deep scratch on one side
            the wrong item: you sent me a different {item} than I chose / I got the wrong {item}
            the wrong size: the {item} is too small for me / the {item} is much too large
            the return label: I want to send the {item} back and need a return label
                / how do I send the {item} back to you
            the missing part: a part of the {item} was missing in the box / the {item} came without its screws
            the exchange: I would like to exchange the {item} for another colour / can I swap the {item} for a blue one
        """),
        "account": _problems("""
            the login: I cannot log in to see my {item} / your site does not let me sign in to check the {item}
            the password: I forgot my password and want to buy a {item}
                / the password mail never came, so the {item} stays in the basket
            the email address: please change the email address on my account, I only see an old {item} there
                / my mail about the {item} went to an old email address
            the deleted account: please delete my account, the {item} was the last thing I bought
                / close my account once the {item} is here
            the newsletter: I get the newsletter about the {item} every day and want it to stop
                / please stop sending me adverts for the {item}
            the wrong name: my name is spelled wrong on the account with the {item}
                / my account with the {item} shows somebody else's name
        """),
        "technical": _problems("""
            the update: the {item} stopped working after the update / since the last update the {item} does nothing
            the battery: the battery of the {item} is empty after an hour / the {item} does not charge any more
            the manual: I cannot find the manual for the {item} / how do I set up the {item}, the manual is not clear
            the noise: the {item} makes a loud noise / there is a strange humming sound from the {item}
            the app: the app does not find the {item} / the {item} does not connect to the app
            the warranty: is the {item} still under warranty / the {item} died after a month, does the warranty cover it
        """),
    },
)

DESKS: Final = (
    SHOP,
    Desk(
        "a hotel",
        "booking",
        {
            "reception": _problems("""
                the early arrival: we arrive early in the morning and need the {item} room at once
                    / can we have the {item} room before noon
                the room key: the key of the {item} room does not open the door / I lost the key of the {item} room
                the late checkout: may we stay in the {item} room until the afternoon
                    / we would like to leave the {item} room a little later
            """),
            "housekeeping": _problems("""
                the towels: there are no towels in the {item} room / we need two more towels in the {item} room
                the dirty room: the {item} room was not cleaned / the floor of the {item} room is dirty
                the pillow: the pillow in the {item} room is too hard / please bring one more pillow to the {item} room
            """),
            "kitchen": _problems("""
                the breakfast: is there a breakfast without milk for the {item} room
                    / the breakfast for the {item} room came cold
                the allergy: our guest in the {item} room may not eat nuts / please note an allergy for the {item} room
                the dinner: we want to book dinner for the {item} room / can dinner be brought to the {item} room
            """),
            "maintenance": _problems("""
                the heating: the heating in the {item} room does not work / it is very cold in the {item} room
                the shower: the shower in the {item} room is leaking / there is no hot water in the {item} room
                the lamp: the lamp in the {item} room is broken / the light in the {item} room goes on and off
            """),
        },
    ),
    Desk(
        "the town hall",
        "case",
        {
            "roads": _problems("""
                the hole in the road: there is a deep hole in the road near the {item}
                    / cars hit the hole by the {item} every day
                the street lamp: the street lamp by the {item} is dark / no light burns near the {item} at night
                the sign: the traffic sign at the {item} fell over / somebody painted over the sign at the {item}
            """),
            "waste": _problems("""
                the full bin: the bin at the {item} is full / nobody empties the bin near the {item}
                the rubbish: there is rubbish all over the {item} / somebody left an old sofa by the {item}
                the collection: the waste was not collected at the {item} / when is paper collected at the {item}
            """),
            "parks": _problems("""
                the fallen tree: a tree fell on the path at the {item} / a tree near the {item} is about to fall
                the bench: the bench at the {item} is broken / we would like a bench near the {item}
                the playground: the swing near the {item} is not safe / the playground at the {item} needs new sand
            """),
            "water": _problems("""
                the leak: water runs out of the ground at the {item} / a pipe burst near the {item}
                the brown water: the water at the {item} is brown / our water near the {item} tastes strange
                the flood: the cellar by the {item} is full of water / the drain near the {item} is blocked
            """),
        },
    ),
    Desk(
        "a clinic",
        "patient file",
        {
            "appointments": _problems("""
                the new appointment: I need an appointment for my {item} / when can a doctor look at my {item}
                the cancelled visit: I have to cancel the visit for my {item}
                    / I cannot come to the visit about my {item}
            """),
            "pharmacy": _problems("""
                the prescription: I need a new prescription for my {item} / the tablets for my {item} are used up
                the side effects: the tablets for my {item} make me tired
                    / since I take drops for my {item} I sleep badly
            """),
            "laboratory": _problems("""
                the blood test: are the blood results for my {item} ready / where is the blood test for my {item} done
                the x-ray: please send the x-ray of my {item} to my doctor / the x-ray of my {item} is missing
            """),
        },
    ),
)

ITEMS: Final = {
    "order": _words(
        """
        lamp kettle backpack jacket keyboard headphones watch blender tent camera mirror carpet printer bicycle
        guitar helmet sofa drill scarf speaker router toaster suitcase monitor clock chair
        """
    ),
    "booking": _words("double single family blue garden corner quiet green attic upper"),
    "case": _words(
        """
        station market bridge school church museum river hospital harbour library
        """
    ),
    "patient file": _words("knee back shoulder hand eye ear foot stomach neck heart"),
}
URGENT: Final = (
    "This is urgent.",
    "Please answer today.",
    "I need help as soon as possible.",
    "It cannot wait any longer.",
    "Please act immediately.",
    "I need this solved by tonight.",
    "Please hurry.",
    "This is an emergency for me.",
)
RELAXED: Final = (
    "There is no hurry.",
    "Whenever you have time.",
    "It is not important.",
    "Take your time.",
    "This can wait.",
    "I am just curious.",
    "No need to rush.",
    "Any time next month is fine.",
)
SMALL_TALK: Final = (
    "I hope you are well.",
    "I have been a customer for {n} years.",
    "My phone number is {phone}.",
    "I wrote to you {n} days ago.",
    "The weather is bad here.",
    "We are {n} people.",
    "My neighbour had the same trouble.",
    "I already asked a friend.",
    "I live in {city}.",
    "I tried it {n} times.",
)
