"""The words of the generated texts, and what is known of them: kinds, opposites, words of one meaning."""

from typing import NamedTuple


class Verb(NamedTuple):
    """A verb with its forms: `he likes`, `they like`, `he liked it`, `it was liked`."""

    base: str
    third: str
    past: str
    participle: str


def _regular(base: str) -> Verb:
    past = base + ("d" if base.endswith("e") else "ed")
    return Verb(base, base + ("es" if base.endswith(("s", "sh", "ch", "x")) else "s"), past, past)


PEOPLE = ("nurse", "teacher", "farmer", "pilot", "baker", "singer", "painter", "judge", "sailor", "doctor")
ANIMALS = ("dog", "cat", "horse", "rabbit", "duck", "goat", "cow", "parrot")
KINDS = {
    "fruit": ("apple", "pear", "plum", "cherry", "melon"),
    "tool": ("hammer", "saw", "drill", "spade"),
    "instrument": ("violin", "drum", "flute", "trumpet"),
    "vehicle": ("car", "truck", "bike", "tractor"),
    "flower": ("rose", "tulip", "lily", "daisy"),
    "garment": ("coat", "shirt", "hat", "scarf"),
}
KIND_OF = {thing: kind for kind, things in KINDS.items() for thing in things}
THINGS = tuple(KIND_OF)
PLACES = ("in the garden", "in the kitchen", "at the market", "in the park", "in the office", "near the harbour")
TIMES = ("on monday", "on friday", "last night", "this morning", "in the summer", "after lunch")

SAME_VERBS = (
    (Verb("buy", "buys", "bought", "bought"), _regular("purchase")),
    (Verb("find", "finds", "found", "found"), _regular("discover")),
    (_regular("fix"), _regular("repair")),
    (Verb("carry", "carries", "carried", "carried"), _regular("transport")),
    (_regular("watch"), _regular("observe")),
    (Verb("hide", "hides", "hid", "hidden"), _regular("conceal")),
    (Verb("choose", "chooses", "chose", "chosen"), _regular("select")),
    (Verb("throw", "throws", "threw", "thrown"), _regular("toss")),
)
"""Pairs of one meaning."""
OPPOSITE_VERBS = (
    (Verb("buy", "buys", "bought", "bought"), Verb("sell", "sells", "sold", "sold")),
    (Verb("find", "finds", "found", "found"), Verb("lose", "loses", "lost", "lost")),
    (_regular("fix"), Verb("break", "breaks", "broke", "broken")),
    (Verb("hide", "hides", "hid", "hidden"), Verb("show", "shows", "showed", "shown")),
)
"""Pairs that cannot both be true of one thing at one time."""
VERBS = tuple(verb for pair in SAME_VERBS for verb in pair)
SAME_ADJECTIVES = (
    ("big", "large"),
    ("small", "little"),
    ("old", "ancient"),
    ("pretty", "beautiful"),
    ("quick", "fast"),
)
OPPOSITE_ADJECTIVES = (("big", "small"), ("old", "new"), ("clean", "dirty"), ("heavy", "light"), ("cheap", "expensive"))
ADJECTIVES = ("big", "small", "old", "new", "clean", "dirty", "heavy", "light", "cheap", "expensive", "pretty", "quick")

GOOD = ("wonderful", "brilliant", "charming", "delightful", "superb", "lovely", "clever", "touching", "fresh", "warm")
BAD = ("terrible", "dull", "boring", "awful", "clumsy", "tedious", "annoying", "bland", "dreadful", "cold")
LIKED = ("loved", "enjoyed", "admired", "praised", "recommended")
DISLIKED = ("hated", "disliked", "regretted", "criticised", "avoided")
WORKS = ("film", "book", "song", "play", "story", "show", "novel", "concert")
PARTS = ("plot", "acting", "ending", "music", "dialogue", "pace", "cast", "first half")
DEGREES = ("", "", "very ", "truly ", "rather ")

CHORES = (
    ("cook rice", "prepare rice"),
    ("learn french", "study french"),
    ("fix a flat tyre", "repair a flat tyre"),
    ("lose weight", "get thinner"),
    ("save money", "put money aside"),
    ("grow tomatoes", "raise tomatoes"),
    ("sleep better", "get better sleep"),
    ("clean a carpet", "wash a carpet"),
    ("write a letter", "compose a letter"),
    ("train a puppy", "teach a puppy"),
    ("paint a wall", "put paint on a wall"),
    ("find a job", "get a job"),
    ("bake bread", "make bread"),
    ("sell a house", "find a buyer for a house"),
    ("start a company", "found a company"),
    ("play chess", "win at chess"),
)
"""Things that one may ask how to do, each said in two ways."""
CIRCUMSTANCES = ("", "", "at home", "in a week", "without help", "for free", "as a beginner", "in winter")
