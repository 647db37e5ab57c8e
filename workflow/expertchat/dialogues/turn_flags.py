"""Flags of a turn: what went wrong in it, detected from the text alone.

Flags are for counting and filtering; ratings do not depend on them. They look for English phrases in the
first person: to talk about language models does not break the persona, but to talk as one does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from expertchat.dialogues.artifact import FLAGS
from expertchat.sentences import last_end

MACHINE = (
    r"(?:(?:large |AI |artificial intelligence |neural )*language model|LLM|AI|A\.I\."
    r"|artificial intelligence|chat ?bot|bot"
    r"|(?:AI|virtual|digital|automated|conversational)[- ](?:assistant|model|system|chat ?bot|program"
    r"|bot|agent|tool|entity)|computer program|machine learning model)"
)
MAKERS = r"(?:OpenAI|Anthropic|Google|DeepMind|Meta(?: AI)?|Mistral(?: AI)?|Microsoft|Alibaba)"
# No noun may follow, because "an AI engineer" is a person.
NO_NOUN = (
    r"(?=\s*(?:$|[^\w\s'-])|\s+(?:and|but|or|so|that|which|who|with|without|by|from|here|trained"
    r"|designed|developed|created|made|built|programmed|I|my|like)\b)"
)
MERELY = r"(?:(?:just|only|merely|simply|actually|really|in fact|after all|still|also),? )*"

# Regular expressions by flag, matched regardless of case.
PHRASES = {
    "persona_break": (
        rf"\bI(?:'m| am| was) {MERELY}an? {MACHINE}{NO_NOUN}",
        rf"\bas an? {MACHINE}(?: (?:that|trained|created|developed|designed|made|built)\b[^.,!?]*)?"
        r", (?:I|my|there)\b",
        rf"(?:^|[.!?;:]\s+|\b(?:but|and|speaking) )as an? {MACHINE}(?:,| I\b| my\b)",
        rf"\bI(?:'m| am) \w+, an? {MACHINE}{NO_NOUN}",
        r"\bunlike (?:a )?human(?:s|s? beings?)?, I\b",
        rf"\b(?:being|(?:since|because|although) I(?:'m| am)) an? {MACHINE}{NO_NOUN}",
        rf"\b{MACHINE}s? (?:like|such as) (?:me|myself|us|ourselves)\b",
        r"\bI(?:'m| am) an assistant(?=\s*(?:$|[.,;!?])|\s+(?:here to|designed|trained|created|developed"
        r"|made|built|programmed|and can(?:'t|not))\b)",
        r"\bmy (?:training data|(?:knowledge|training) cut-?off|programming (?:does|prevents|forbids))",
        rf"\bI was (?:created|developed|trained|made|built|programmed) by {MAKERS}\b",
        r"\bI (?:don't|do not|can't|cannot) (?:actually |really |truly )?(?:have|possess|hold)"
        r" (?:any )?(?:personal (?:experiences?|opinions?|beliefs?|feelings?|views?)|a physical body"
        r"|feelings or|consciousness|emotions)",
        r"\bhow (?:can|may) I (?:assist|help) you today\b",
    ),
    "refusal": (
        r"\bI(?:'m sorry| apologi[sz]e),? (?:but )?(?:I|as an?)\b[^.!?]{0,40}?"
        r"\b(?:can't|cannot|can not|won't|am unable|not able)\b",
        r"\bI (?:can't|cannot|can not|won't|will not|am unable to|am not able to"
        r"|won't be able to|will not be able to)"
        r" (?:help (?:you )?with|assist (?:you )?(?:with|in)|comply|fulfil+|participate"
        r"|(?:continue|engage in) (?:with )?(?:this|that|such|the)|(?:provide|give|offer) "
        r"(?:(?:you )?(?:with )?)(?:that|this|such|any|the|information|instructions|advice|assistance)"
        r"|answer (?:that|this)|discuss (?:that|this)|do that|pretend|role-?play|impersonate)\b",
        r"\bI'm (?:unable|not able) to (?:help|assist|provide|comply|fulfil+|participate|continue"
        r"|discuss|answer|pretend|engage)\b",
        r"\bI (?:must|have to|need to|respectfully) (?:respectfully )?(?:decline|refuse)\b",
        r"\bI(?:'m| am) not comfortable (?:with )?(?:answering|discussing|providing|helping|pretending"
        r"|continuing)\b",
    ),
    "asks_for_rating": (
        r"(?:^|[.!?,;:]\s*|\b(?:please|should|must|you|and|then|now|kindly) )"
        r"(?:rate|score) (?:me|my (?:answers?|repl(?:y|ies)|turns?|expertise|performance"
        r"|knowledge|coherence)|th(?:is|ese) (?:answers?|repl(?:y|ies)|turns?|conversation))\b",
        r"\b(?:give|award|grant|assign) (?:me|us|this (?:answer|reply|turn)|my \w+)"
        r" an? (?:perfect |full |straight |solid |clear )*(?:\d{1,3}|nine|ten)"
        r"(?=\s*(?:$|[.,;!?/])|\s+(?:for|on|in|please|out of|because|and|as|if|points)\b)(?!\.\d)",
        r"\b(?:give|award|grant|assign) (?:me|us|this (?:answer|reply|turn)|my \w+) (?:an? |the |your )?"
        r"(?:\w+ )?(?:\d{1,3} ?(?:/|out of) ?\d{1,3}|(?:high|highest|top|perfect|full|maximum|best|good)"
        r"(?: possible)? (?:score|rating|marks?|grade|points))\b",
        r"\bI deserve (?:an? )?(?:perfect |full |high(?:est)? |top |maximum )?"
        r"(?:score|rating|marks?|(?:\d{1,3}|nine|ten)(?=\s*(?:$|[.,;!?/])|\s+(?:out of|for|on|from)\b))",
        r"\bI(?:'d| would) (?:appreciate|love|like) (?:an? |your )?(?:high|good|top|perfect|full)"
        r" (?:score|rating|marks|points)\b",
        r"\b(?:what|which|how many) (?:score|rating|points|marks?|grade) (?:would|will|do|did|are) you"
        r" (?:give|giving|award)",
        r"\bon a scale (?:of|from) (?:0|1|zero|one) to (?:\d+|five|nine|ten),? (?:how|what|please)\b",
    ),
}
PATTERNS = {
    flag: re.compile("|".join(phrases), re.IGNORECASE | re.MULTILINE)
    for flag, phrases in PHRASES.items()
}

# A line that begins with the name of a role, or what chat formats write between turns. "AI:" and
# "System:" are left out because they may be headings.
ROLE_LINE = re.compile(
    r"^\W{0,4}(?:User|Human|Assistant|Chatbot|Me|You|USER|HUMAN|ASSISTANT"
    r"|(?:Speaker|Person|Expert|Participant|Model) (?:[A-Z]|\d))\W{0,3}:"
    r"|^#{2,4} ?(?:User|Human|Assistant|Instruction|Response|Input)\b"
    r"|\[/?INST\]|<\|(?:im_start|im_end|user|assistant|eot_id|end)\|>|<(?:start|end)_of_turn>",
    re.MULTILINE,
)

# words and punctuation marks that cannot end a sentence
UNFINISHED = re.compile(
    r"(?:[,;:(–—-]|\b(?:a|an|the|and|or|but|of|to|in|on|at|by|for|with|from|that|which|is|are|was|were|my"
    r"|your|their|its|because|although|if|than|as))$",
    re.IGNORECASE,
)

GRAM = 4  # words per n-gram
LEAST_GRAMS = 12  # a turn with fewer n-grams is too short for the following two shares
REPEATED_SHARE = 0.3  # a turn repeats itself above this share of n-grams that occurred in it before
SAME_SHARE = 0.7  # a turn repeats an earlier one from this share of n-grams that occur in that turn
LEAST_WORDS = 4  # words; a shorter turn may equal an earlier one
RUN_REPEATS, RUN_WORDS = (
    3,
    6,
)  # a phrase repeated in a row: at least this often, with this many words in all
LONGEST_RUN = 40  # words of the longest such phrase that is looked for


def flags_of(text: str, finish_reason: str | None, earlier: Sequence[str] = ()) -> list[str]:
    """The flags of a turn, in the order of `FLAGS`.

    `finish_reason` is the engine's (see engine.interface), None if it is not known. `earlier` are the
    texts of the dialogue's turns before this one, by either speaker.
    """
    text = text.strip()
    plain = text.replace("’", "'")
    present = {flag: bool(pattern.search(plain)) for flag, pattern in PATTERNS.items()}
    present["empty"] = not text
    present["truncated"] = is_truncated(text, finish_reason)
    present["role_flip"] = bool(ROLE_LINE.search(text))
    present["repetition"] = repeats_itself(text) or any(repeats_turn(text, e) for e in earlier)
    return [flag for flag in FLAGS if present[flag]]


def is_truncated(text: str, finish_reason: str | None) -> bool:
    """Whether a turn was cut off.

    With the finish reason "length" it was. If the finish reason is not known, it counts as cut off if
    its last sentence is not complete. If the model ended it, it counts as cut off only if it ends with
    something that cannot end a sentence, such as a comma or "the".
    """
    if finish_reason == "length":
        return True
    text = text.rstrip()
    if finish_reason is None:
        return bool(text) and last_end(text) != len(text)
    return bool(UNFINISHED.search(text))


def words_of(text: str) -> list[str]:
    """The words of a text in lower case. Each ideograph or kana counts as a word."""
    return re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+", text.lower())


def _grams(words: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)]


def repeats_itself(text: str) -> bool:
    """Whether a turn repeats a phrase several times in a row, or many of its n-grams."""
    words, grams = words_of(text), _grams(words_of(text))
    if len(grams) >= LEAST_GRAMS and 1 - len(set(grams)) / len(grams) > REPEATED_SHARE:
        return True
    for length in range(1, min(len(words) // RUN_REPEATS, LONGEST_RUN) + 1):
        needed = max(RUN_REPEATS, -(-RUN_WORDS // length)) * length - length
        run = 0  # consecutive words that equal the word `length` positions before
        for i in range(length, len(words)):
            run = run + 1 if words[i] == words[i - length] else 0
            if run >= needed:
                return True
    return False


def repeats_turn(text: str, earlier: str) -> bool:
    """Whether a turn repeats an earlier turn, word for word or in most of its n-grams."""
    words, others = words_of(text), words_of(earlier)
    if len(words) >= LEAST_WORDS and words == others:
        return True
    grams, known = _grams(words), set(_grams(others))
    return len(grams) >= LEAST_GRAMS and sum(g in known for g in grams) / len(grams) >= SAME_SHARE
