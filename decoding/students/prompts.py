"""Prompts that a target answers to teach its student, made from what every Python carries.

Requests of the kinds people make of a chat model (explain, summarise, translate, answer, compute,
write), around passages of the standard library's docstrings and plain words. Nothing is downloaded,
and nothing is taken from any benchmark.
"""

from __future__ import annotations

import random
import re

from ...probes.corpus import standard_library

TOPICS = (
    "the water cycle", "how bread rises", "why leaves change colour", "the history of writing",
    "how a bicycle stays upright", "the causes of earthquakes", "what inflation is", "photosynthesis",
    "how vaccines work", "the French Revolution", "black holes", "the rules of chess", "sleep",
    "renewable energy", "the Roman Empire", "how to learn a language", "volcanoes", "friendship",
    "the human heart", "computer viruses", "climate and weather", "jazz music", "the deep sea",
    "supply and demand", "how aeroplanes fly", "good study habits", "the invention of printing",
    "a healthy breakfast", "recycling", "the Silk Road", "machine learning", "democracy", "honey bees",
    "the moon landing", "time management", "mountains", "public libraries", "electric cars", "tea",
)  # fmt: skip
PEOPLE = ("Anna", "Ben", "Carla", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas")
THINGS = ("apples", "books", "marbles", "tickets", "cookies", "pencils", "coins", "stickers")
PLACES = (
    "Lisbon",
    "Kyoto",
    "Nairobi",
    "Oslo",
    "Lima",
    "Prague",
    "Hawaii",
    "Cairo",
    "Vienna",
    "Delhi",
)
GERMAN = (
    "Der Zug nach Hamburg hat heute zwanzig Minuten Verspätung.",
    "Die Regierung will im kommenden Jahr mehr Geld für Schulen ausgeben.",
    "Viele Menschen arbeiten inzwischen lieber von zu Hause aus.",
    "Das Museum zeigt ab Sonntag Bilder aus dem neunzehnten Jahrhundert.",
    "Wegen des starken Regens wurde das Spiel auf nächste Woche verschoben.",
    "Die Forscher fanden heraus, dass die Tiere auch im Winter aktiv sind.",
    "Der Bürgermeister dankte den Helfern für ihre Arbeit in der Nacht.",
    "In der Altstadt öffnet nächsten Monat ein neues Café.",
)
REQUESTS = (
    "Write a short story about {topic}.", "Explain {topic} to a child.", "What is {topic}?",
    "Give me five facts about {topic}.", "Write a blog post about {topic}.",
    "Compare {topic} and {other}.", "Who should care about {topic}, and why?",
    "Write a polite email to {person} about {topic}.", "Plan a lesson on {topic}.",
    "List the advantages and disadvantages of {topic}.", "Write a poem about {topic}.",
    "Describe a trip to {place} in {days} days.", "What is the capital of the country of {place}?",
    "Write a Python function that {task}.", "Imagine you are {person}. Talk about {topic}.",
)  # fmt: skip
TASKS = (
    "sorts a list of numbers", "counts the words in a text", "checks whether a string is a palindrome",
    "finds the largest common divisor", "reads a CSV file and sums a column", "removes duplicates",
    "reverses a linked list", "computes Fibonacci numbers", "merges two dictionaries",
)  # fmt: skip
SHORTEST_PASSAGE, LONGEST_PASSAGE = 300, 1500


def training_prompts(n: int, *, seed: int = 0) -> list[str]:
    """User messages for the target to answer, no two alike, the same ones for the same seed.

    Args:
        n: How many.
        seed: Seed of their choice.
    """
    draw = random.Random(seed)
    passages = _passages()
    makers = (_request, _request, _sum, _translation, lambda d: _about_passage(d, passages))
    found: dict[str, None] = {}
    while len(found) < n:
        found[draw.choice(makers)(draw)] = None
    return list(found)


def training_passages(n: int) -> list[str]:
    """Passages of the standard library's docstrings, spread evenly over those there are."""
    found = _passages()
    every = max(1, len(found) // max(n, 1))
    return found[::every][:n]


def _request(draw: random.Random) -> str:
    return draw.choice(REQUESTS).format(
        topic=draw.choice(TOPICS),
        other=draw.choice(TOPICS),
        person=draw.choice(PEOPLE),
        place=draw.choice(PLACES),
        task=draw.choice(TASKS),
        days=draw.randint(2, 9),
    )


def _sum(draw: random.Random) -> str:
    one, other = draw.sample(PEOPLE, 2)
    thing = draw.choice(THINGS)
    a, b, c = draw.randint(3, 60), draw.randint(2, 12), draw.randint(2, 9)
    return draw.choice((
        f"{one} has {a} {thing}. {other} has {b} times as many. How many {thing} have they in all?",
        f"A box holds {b} {thing}. {one} buys {c} boxes and gives {b} away. How many {thing} are left?",
        f"{one} reads {a} pages a day for {c} days, {other} {b} pages. How many pages is that in all?",
    ))


def _translation(draw: random.Random) -> str:
    text = " ".join(draw.sample(GERMAN, draw.randint(1, 2)))
    return f"Translate German to English: {text}"


def _about_passage(draw: random.Random, passages: list[str]) -> str:
    passage = draw.choice(passages)
    return draw.choice((
        f"Summarize: {passage}",
        f"Summarize the following text in two sentences.\n\n{passage}",
        f"{passage}\n\nWhat is this text about? Answer in a few sentences.",
        f"Use the passage to explain the main idea.\n\nPassage: {passage}",
    ))


def _passages() -> list[str]:
    """Docstrings of the standard library, of a length somebody might paste."""
    found: list[str] = []
    for document in standard_library():
        for text in re.findall(r'"""(.+?)"""', document.text, flags=re.DOTALL):
            passage = re.sub(r"[ \t]+", " ", text).strip()
            if SHORTEST_PASSAGE <= len(passage) <= LONGEST_PASSAGE:
                found.append(passage)
        if len(found) > 2000:
            break
    return found
