"""Tickets: a table of invented support tickets, about 200 a day; the same day always gives the same tickets.

The start of the example, in place of a table of yours.
"""

from datetime import UTC, date, datetime, timedelta
from random import Random

import pandas as pd

_TIERS = {"free": 60, "team": 30, "enterprise": 10}
_CHANNELS = {"email": 45, "web form": 35, "chat": 20}
_PRODUCTS = [
    "the iOS app",
    "the Android app",
    "the web dashboard",
    "the public API",
    "the Slack integration",
    "single sign-on",
    "CSV export",
]
_GREETINGS = ["Hi,", "Hello team,", "Good morning,", "Hey there,", "To whom it may concern,", ""]
_CLOSINGS = ["Thanks!", "Please advise.", "Can someone call me back?", "Best regards", "This is the second time I write.", ""]
_CONTEXTS = [
    "We have {seats} seats and this affects all of them.",
    "It started after last week's update.",
    "I have already cleared the cache and signed in again.",
    "Our month-end closing depends on it.",
    "No hurry, but I wanted you to know.",
    "My colleague sees the same.",
    "I could not find anything about it in the docs.",
]
_SUBJECTS = {
    "billing": [
        "We were charged ${amount} twice for invoice {invoice}.",
        "The card on file expired and now {product} says that our plan is suspended.",
        "Why did our bill go from ${small} to ${amount} this month?",
        "Please send invoice {invoice} again with our VAT number on it.",
        "I cancelled on the {day}th and was still charged ${amount}.",
    ],
    "bug": [
        "{product} crashes whenever I open a report with more than {seats} rows.",
        "Since this morning {product} answers every request with error {code}.",
        "Filters in {product} are lost when I go back to the list.",
        "The totals in {product} do not add up: it shows {seats} where there are {amount}.",
        "Uploads in {product} stop at {day} percent and never finish.",
    ],
    "account": [
        "I changed my phone and can no longer get past two-factor sign-in in {product}.",
        "Please transfer the ownership of our workspace to my successor.",
        "I never received the invitation for {product}, and the link says it has expired.",
        "Delete my account and all my data, please, and confirm when it is done.",
        "How do I add {seats} people to our workspace at once?",
    ],
    "question": [
        "Does {product} support working offline?",
        "Is there a limit on requests for {product}? We plan about {amount} an hour.",
        "Can I schedule a report in {product} for every {day}th of the month?",
        "Which regions is our data stored in, and can we choose?",
        "We love {product}! Is dark mode planned as well?",
    ],
}


def tickets_of(day: date) -> pd.DataFrame:
    """The tickets of a day: about 200 rows x (ticket_id, created_at, tier, channel, body), in the order they came in."""
    dice = Random(f"tickets of {day.isoformat()}")
    weekend = day.weekday() >= 5
    count = dice.randint(80, 110) if weekend else dice.randint(190, 225)
    seconds = sorted(dice.randrange(24 * 60 * 60) for _ in range(count))
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return pd.DataFrame(
        {
            "ticket_id": [f"T-{day:%y%m%d}-{n:04d}" for n in range(count)],
            "created_at": pd.to_datetime([midnight + timedelta(seconds=second) for second in seconds]),
            "tier": dice.choices(list(_TIERS), list(_TIERS.values()), k=count),
            "channel": dice.choices(list(_CHANNELS), list(_CHANNELS.values()), k=count),
            "body": [_body(dice) for _ in range(count)],
        }
    )


def _body(dice: Random) -> str:
    """A few sentences of a customer."""
    facts = {
        "product": dice.choice(_PRODUCTS),
        "amount": dice.randint(40, 900),
        "small": dice.randint(5, 39),
        "seats": dice.choice([3, 12, 40, 150, 800]),
        "invoice": f"INV-{dice.randint(10_000, 99_999)}",
        "code": dice.choice([400, 401, 429, 500, 503]),
        "day": dice.randint(2, 27),
    }
    subject = dice.choice(_SUBJECTS[dice.choice(list(_SUBJECTS))])
    contexts = dice.sample(_CONTEXTS, dice.randint(1, 3))
    sentences = [dice.choice(_GREETINGS), subject, *contexts, dice.choice(_CLOSINGS)]
    text = " ".join(sentence for sentence in sentences if sentence).format(**facts)
    return text[0].upper() + text[1:]
