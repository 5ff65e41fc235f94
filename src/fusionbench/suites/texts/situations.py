"""What the generated questions with given answers are about: causes, activities, senses of words, laws, beliefs."""

CAUSES = (
    ("the {who} dropped the glass", "the glass of the {who} broke"),
    ("the {who} forgot the umbrella", "the {who} got wet"),
    ("the {who} ate too much cake", "the {who} felt sick"),
    ("the {who} missed the bus", "the {who} came late to work"),
    ("the {who} heard a joke", "the {who} laughed"),
    ("the {who} lost the key", "the {who} could not open the door"),
    ("the {who} ran a long way", "the {who} was out of breath"),
    ("the {who} did not sleep", "the {who} yawned all day"),
    ("the {who} watered the plants", "the plants of the {who} grew"),
    ("the {who} left the milk in the sun", "the milk of the {who} turned sour"),
    ("the {who} studied hard", "the {who} passed the exam"),
    ("the {who} drove too fast", "the {who} got a fine"),
    ("the {who} turned off the lamp", "the room of the {who} became dark"),
    ("the {who} lit a fire", "the room of the {who} became warm"),
    ("the {who} fell off a ladder", "the {who} broke a leg"),
    ("the {who} saw a spider", "the {who} screamed"),
    ("the {who} worked all week", "the {who} was paid"),
    ("the {who} left the window open", "a bird flew into the house of the {who}"),
    ("the {who} burned the toast", "the kitchen of the {who} filled with smoke"),
    ("the {who} fed the dog", "the dog of the {who} wagged its tail"),
    ("the {who} pulled the cat by the tail", "the cat scratched the {who}"),
    ("the {who} forgot the candle", "the curtain of the {who} caught fire"),
    ("the {who} shook the tree", "apples fell on the {who}"),
    ("the {who} cut an onion", "the {who} had tears in both eyes"),
    ("the {who} rode over a nail", "the tyre of the {who} went flat"),
    ("the {who} put ice into the tea", "the tea of the {who} became cold"),
    ("the {who} rang the bell", "somebody let the {who} in"),
    ("the {who} told a lie", "nobody believed the {who}"),
    ("the {who} won the race", "the {who} received a medal"),
    ("the {who} pushed the swing", "the swing hit the {who}"),
    ("the {who} bent over the baby", "the baby smiled at the {who}"),
    ("the {who} wrote a letter", "the {who} bought a stamp"),
)
"""Causes and what they lead to."""

ACTIVITIES = {
    "baking bread": (
        ("flour and water", "a bowl of dough", "yeast and flour"),
        ("kneads the dough .", "puts the loaf into the oven .", "takes the warm loaf out of the oven ."),
    ),
    "washing a car": (
        ("a bucket and a dirty car", "a sponge and a muddy car", "a hose and a dusty car"),
        ("rubs soap on the windows .", "rinses the wheels .", "dries the hood with a cloth ."),
    ),
    "playing tennis": (
        ("a racket and a ball", "a racket behind a net", "a ball behind a net"),
        ("serves the ball over the net .", "hits the ball out of the court .", "wins the last set ."),
    ),
    "catching fish": (
        ("a rod and a hook", "a net and a small boat", "a hook and some worms"),
        ("throws the line into the lake .", "pulls a trout out of the lake .", "waits until a trout bites ."),
    ),
    "cutting hair": (
        ("scissors and a comb", "a comb and a mirror", "scissors and a mirror"),
        ("trims the long curls .", "sweeps the curls off the floor .", "combs the curls back ."),
    ),
    "painting a fence": (
        ("a brush and white paint", "a can of paint", "a brush and a grey fence"),
        ("dips the brush into the can .", "covers the boards with a second coat .", "lets the boards dry ."),
    ),
    "riding a horse": (
        ("a saddle and a horse", "reins and a bridle", "a horse and a bridle"),
        ("gallops across the meadow .", "jumps over a hedge .", "leads the mare back to the stable ."),
    ),
    "planting a tree": (
        ("a spade and a seedling", "a seedling and a pot of soil", "a spade and a pot of soil"),
        ("digs a deep hole .", "covers the roots with earth .", "waters the young roots ."),
    ),
    "building a snowman": (
        ("much snow and a carrot", "two balls of snow", "snow and a pair of gloves"),
        ("rolls the biggest lump .", "sets the head on top .", "gives it a nose and two eyes of coal ."),
    ),
    "making tea": (
        ("a kettle and a cup", "a cup and some leaves", "a kettle and a lemon"),
        ("boils some water .", "pours a hot drink .", "adds sugar and stirs ."),
    ),
    "playing guitar": (
        ("a guitar and a stage", "six strings and a microphone", "a guitar and a microphone"),
        ("tunes the lowest string .", "strums a few chords .", "bows when people clap ."),
    ),
    "sewing a dress": (
        ("a needle and thread", "silk and a needle", "thread and some silk"),
        ("stitches the hem .", "sews on three buttons .", "makes a knot and cuts the end off ."),
    ),
}
"""By name: what one has for it, and what one then does."""

SENSES = {
    "bank": (
        ("the {who} put money into the bank", "the bank gave the {who} a loan", "the {who} owed money to the bank"),
        (
            "the {who} sat on the bank of the river",
            "a boat brought the {who} to the bank",
            "the {who} swam to the bank",
        ),
    ),
    "bat": (
        ("the {who} hit the ball with a bat", "the {who} swung the bat", "the {who} broke the bat on the ball"),
        ("a bat flew over the {who}", "the {who} saw a bat in the cave", "the {who} heard the wings of a bat"),
    ),
    "spring": (
        (
            "the {who} waited for spring and for summer",
            "the {who} planted roses in spring",
            "in spring the {who} was warm",
        ),
        (
            "a spring in the bed hurt the {who}",
            "the {who} bent the metal spring",
            "the {who} put a spring into a clock",
        ),
    ),
    "ring": (
        ("the {who} wore a gold ring", "the {who} put the ring on a finger", "the {who} lost a ring of silver"),
        ("the {who} heard the phone ring", "the {who} let the bell ring", "the alarm began to ring for the {who}"),
    ),
    "watch": (
        (
            "the {who} wore a watch",
            "the {who} looked at the time on the watch",
            "the hands of the watch of the {who} stopped",
        ),
        ("the {who} liked to watch films", "the {who} came to watch a game", "the {who} wanted to watch the news"),
    ),
    "seal": (
        ("the {who} fed a fish to the seal", "the seal swam past the {who}", "the {who} saw a seal on the ice"),
        (
            "the {who} broke the seal of the letter",
            "the {who} put wax on the seal",
            "the {who} pressed a seal on the paper",
        ),
    ),
    "letter": (
        (
            "the {who} sent a letter by post",
            "the {who} wrote a letter to a friend",
            "the {who} put a stamp on the letter",
        ),
        (
            "the {who} spelled the word with one letter less",
            "the {who} read the first letter of the word",
            "the {who} forgot a letter of the alphabet",
        ),
    ),
    "palm": (
        (
            "the {who} held a coin in the palm",
            "the {who} read the lines of a palm",
            "the {who} cut a finger and the palm",
        ),
        (
            "the {who} climbed the palm on the beach",
            "the {who} slept in the shade of a palm",
            "the {who} picked a nut from a palm",
        ),
    ),
    "trunk": (
        (
            "the {who} leaned on the trunk of an oak",
            "the {who} sawed the trunk and the branches",
            "the {who} carved a heart into the trunk",
        ),
        (
            "the elephant raised its trunk at the {who}",
            "the trunk of the elephant touched the {who}",
            "the {who} fed the trunk of the elephant",
        ),
    ),
    "pen": (
        ("the {who} signed with a pen", "the {who} filled the pen with ink", "the {who} wrote with a blue pen"),
        (
            "the {who} kept pigs in the pen",
            "the {who} drove the sheep into the pen",
            "the {who} fed the pigs of the pen",
        ),
    ),
    "club": (
        (
            "the {who} became a member of the club",
            "the {who} met members at the club",
            "the {who} paid to join the club",
        ),
        (
            "the {who} swung a club at the golf ball",
            "the {who} hit a stone with a club",
            "the {who} carried a wooden golf club",
        ),
    ),
    "match": (
        (
            "the {who} lit a fire with a match",
            "the {who} burned a finger on the match",
            "the {who} lit a candle with a match",
        ),
        ("the {who} won the match", "the {who} scored a goal in the match", "the team of the {who} lost the match"),
    ),
}
"""Words with two senses, and sentences of each."""

DEEDS = {
    "nurse": ("worked on a ward", "bandaged a knee", "calmed a patient"),
    "teacher": ("taught a class", "marked an exam", "explained a sum"),
    "farmer": ("kept cows", "grew corn", "mowed a field"),
    "pilot": ("flew a plane", "landed on a runway", "wore a parachute"),
    "baker": ("sold bread", "needed flour", "lit an oven"),
    "singer": ("sang a song", "gave a concert", "owned a microphone"),
    "painter": ("mixed colours", "bought a brush", "sold a portrait"),
    "judge": ("sat in court", "ruled on a crime", "fined a driver"),
    "sailor": ("steered a boat", "crossed an ocean", "tied a knot"),
    "doctor": ("prescribed a pill", "treated a fever", "cured a cough"),
}
"""What each of the people does, and nobody else in these texts. Nothing of it has "he" in it."""
MEETINGS = ("met", "called", "waited for", "wrote to", "looked for", "sat beside", "spoke to", "asked for")

LAWS = ("heat", "light", "water", "salt", "wind", "sugar", "air", "noise", "sand", "oil")
"""Of what more or less may be given."""
COMPARATIVES = (
    ("faster", "slower"),
    ("bigger", "smaller"),
    ("warmer", "colder"),
    ("stronger", "weaker"),
    ("louder", "quieter"),
    ("cleaner", "dirtier"),
    ("heavier", "lighter"),
    ("longer", "shorter"),
)
PROPERTIES = ("sweet", "hard", "wet", "sharp", "soft", "green", "hot", "loud", "shiny", "round")
POWERS = (
    "attracts bees",
    "breaks glass",
    "cools skin",
    "cuts paper",
    "keeps warmth",
    "feeds goats",
    "melts snow",
    "scares birds",
    "reflects light",
    "rolls away",
)
"""What things with a property may do."""

BELIEFS = (
    (
        "the {who} knows that {it}",
        "the {who} saw that {it}",
        "the {who} regrets that {it}",
        "the {who} proved that {it}",
    ),
    (
        "the {who} lied that {it}",
        "the {who} pretended that {it}",
        "the {who} refuted that {it}",
        "the {who} wrongly said that {it}",
    ),
    (
        "the {who} hopes that {it}",
        "the {who} guesses that {it}",
        "the {who} wonders whether {it}",
        "the {who} fears that {it}",
    ),
)
"""Ways to speak of something that is so, is not so, and of which it is left open."""

MOODS = (("happy", "proud", "cheerful", "glad"), ("sad", "angry", "lonely", "upset"))
FEELINGS = (
    ("smiled and sang a song .", "danced with joy .", "laughed with friends ."),
    ("sat down and cried .", "wept all night .", "stayed alone in bed ."),
)
"""What is done in a good and in a bad mood."""
