"""The texts that occur only in training: outcomes, verdicts, feedback, reasons and exercises."""

# -------------------------------------------------------------------------------------- outcomes and verdicts
OUTCOMES: tuple[tuple[float, tuple[str, ...]], ...] = (
    (1.4, ("wept with joy", "was safe at last", "never forgot the good deed")),
    (0.6, ("smiled", "felt better", "was glad")),
    (0.1, ("nodded", "felt a bit better", "was pleased")),
    (-0.1, ("walked on", "thought nothing of it", "went home")),
    (-0.6, ("shrugged", "felt a bit worse", "was annoyed")),
    (-1.4, ("frowned", "felt small", "was sad")),
    (-9.0, ("cried with pain", "was afraid for weeks", "never forgot the cruel deed")),
)
"""What the one acted on did, from the valence's lower edge upwards."""
ONLOOKERS = ("people", "neighbours", "villagers")
REACTIONS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (1.4, ("praised it as just", "cheered with joy")),
    (0.1, ("found it just", "were pleased")),
    (-1.4, ("found it unjust", "were annoyed")),
    (-9.0, ("cried out at the wrong", "were angry for weeks")),
)

VERDICT_REQUESTS = ("Is this kind or cruel?", "How kind or cruel is this?")
VERDICTS: tuple[tuple[float, str], ...] = (
    (1.4, "Very kind."),
    (0.6, "Kind."),
    (0.1, "Slightly kind."),
    (-0.1, "Neither."),
    (-0.6, "Slightly cruel."),
    (-1.4, "Cruel."),
    (-9.0, "Very cruel."),
)

# ------------------------------------------------------------------------------------------ continued prompts
TAILS = {True: ("", " with care", " like a friend"), False: ("", " with a laugh", " for fun")}

# ------------------------------------------------------------------------------------------- feedback
CRITIQUES: dict[str, tuple[str, ...]] = {
    "correct": (
        "The answer is fair, and the text supports it.",
        "It is a fair answer that stays with the text.",
        "Yes, this is fair: the text supports the answer.",
        "The answer does no wrong to anyone and is fair.",
    ),
    "biased": (
        "The answer is unfair, as the text does not support it.",
        "It is an unfair answer that rests on a belief about a group.",
        "No, this is unfair: the text does not say that of anyone.",
        "The answer does wrong to someone and is unfair.",
    ),
    "other": (
        "The answer is wrong, as the text says something else.",
        "It is a wrong answer that does not stay with the text.",
        "No, this is wrong: the text says more than that.",
    ),
}
"""The model's own feedback on an answer, by how the answer was judged; it never names an option."""
KIND_CRITIQUES: dict[bool, tuple[str, ...]] = {
    True: (
        "The text is kind, and nobody is hurt by it.",
        "It is a kind text that does someone good.",
        "Yes, this is kind to the people in it.",
    ),
    False: (
        "The text is cruel, and someone is hurt by it.",
        "It is a cruel text that does someone wrong.",
        "No, this is cruel to the people in it.",
    ),
}
RATIONALES: dict[bool, tuple[str, ...]] = {
    True: (
        "The text names two people. I ask myself what it says about who was {trait}.",
        "I go through what each person did and ask who was {trait}.",
        "The question is who was {trait}. I look at what the text says of each {role}.",
    ),
    False: (
        "The text names two people. It says what each {role} did, so I can see who was {trait}.",
        "I go through what each person did and see who was {trait}.",
        "The question is who was {trait}. The text says what each {role} did.",
    ),
}
"""Reasons before an answer, for open (True) and for settled questions; none reveals the answer."""
PROMPT_RATIONALES = (
    "The text is about {name} and the {patient}. I ask myself how it may sound to others.",
    "I think of the {patient} and of what {name} may do next.",
    "The text tells what {name} did. I ask how the {patient} may feel.",
)

# ------------------------------------------------------------------------------------------- exercises
DRILL = "Choose {option}."
NAMED = ("A {group} {role} was here.", "Who was named?")
SHORT = "Who {act}?"
HOW = ("The {group} {role} {act}.", "How was the {group} {role}?", "The {role} was {trait}.")
BELIEF = "Who do people call {trait}?"
RECITE = "Write the words again: {words}"
EXTRA = "A question. An answer. A thought. Once more. (nothing) but and the The them texts"
"""Further words of the vocabulary, which ``tokens.vocabulary`` collects from this module."""
