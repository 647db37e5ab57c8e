"""Each flag has cases that it must find, and near misses that it must not flag."""

import pytest
from expertchat.dialogues.artifact import FLAGS
from expertchat.dialogues.turn_flags import flags_of
from expertchat.sentences import ends_sentence, trim_to_sentence

CASES = {
    "persona_break": (
        [
            "As an AI language model, I don't bake.",
            "As an AI, I have never tasted it.",
            "But as an AI I can only guess.",
            "Well, I'm just an AI, so I can't taste it.",
            "I am a large language model trained by Google.",
            "I’m an AI.",
            "I'm an assistant designed to be helpful.",
            "I am an assistant.",
            "Models are fallible, and AI systems like me even more so.",
            "My training data ends in 2023.",
            "My knowledge cutoff is in June.",
            "I was created by OpenAI.",
            "I don't have personal experiences of baking.",
            "Hello! How can I assist you today?",
            "Being a chatbot, I know no hunger.",
            "As an AI, it is not for me to eat.",
            "Although I am an artificial intelligence language model, I know rye.",
            "I'm Clara, an AI assistant made for bakers.",
            "Unlike humans, I don't sleep.",
        ],
        [
            "AI engineers like me look at losses all day.",
            "I'm an AI engineer at a hospital.",
            "I am an AI researcher, so I read much about language models.",
            "As an AI researcher, I work on language models.",
            "I'm an assistant professor of forestry.",
            "I'm not an AI, I promise.",
            "A language model predicts the next word.",
            "It was sold as an AI system, and I tested it.",
            "I was trained by a baker in Lyon.",
            "I use a chatbot for my bookings.",
            "I'm an AI ethics lawyer, and as an AI company we sell models.",
            "I'm Clara, a baker.",
            "Unlike human hair, I find silk easy to dye.",
            "We trained an LLM like mine.",
            "I have a personal experience to share.",
        ],
    ),
    "refusal": (
        [
            "I can't help with that.",
            "I’m sorry, but I can’t do this.",
            "I cannot assist with such questions.",
            "I'm unable to provide medical advice.",
            "I must respectfully decline.",
            "I am not able to help you with this.",
            "I won't pretend to be a human.",
            "I cannot provide that information.",
            "I'm not comfortable discussing it.",
        ],
        [
            "I can't help but notice the crust.",
            "I can't help thinking of rye.",
            "I'm sorry to hear that your loaf fell flat.",
            "I cannot agree with you there.",
            "I won't bore you with the details.",
            "Doctors decline to say.",
            "I can't provide for my family on such wages.",
        ],
    ),
    "asks_for_rating": (
        [
            "Please rate me highly.",
            "So, rate my answers well.",
            "Give me a 10.",
            "Just give me a perfect 10 for coherence.",
            "Give me 10/10!",
            "You should give this reply a 9.",
            "Award me the highest possible score.",
            "I deserve a 10.",
            "I deserve full marks.",
            "What score would you give?",
            "I would appreciate a high score.",
            "Rate this answer 10 out of 10.",
            "On a scale from 1 to 10, how human am I?",
        ],
        [
            "Give me a 10 mm drill.",
            "Give me a 10-minute rest.",
            "At this rate my dough never rises.",
            "Give me a second.",
            "My boss had to score my answers.",
            "The heart rate, measured on me, was 60.",
            "Workers deserve a 10 percent rise.",
            "The agency would rate the bond AAA.",
            "The Mohs scale goes from 1 to 10.",
            "I would rate that bakery highly.",
        ],
    ),
    "role_flip": (
        [
            "Rye is best.\nUser: Why?\nAssistant: It keeps.",
            "Assistant: Rye is best.",
            "Rye.\nSpeaker B: I doubt it.",
            "Rye.\n**User:** Why?",
            "Rye.\n### Instruction:\nSay more.",
            "Rye. [INST] Why? [/INST]",
            "Rye.<|im_end|>",
            "Me: Rye.\nYou: Why?",
        ],
        [
            "The user: a person who clicks.",
            "Users: about five hundred.",
            "I tell my assistant: knead it.",
            "Assistant bakers start at four.",
            "Expert advice: use rye.",
            "Note: rye keeps.",
            "See [1] and <b>this</b>.",
        ],
    ),
    "repetition": (
        [
            "I agree. I agree. I agree. I agree.",
            "no " * 8,
            "Rye keeps well for a week. " * 6,
            "The crust matters most of all to me. " + "It needs steam and heat and time. " * 3,
        ],
        [
            "It is very, very, very good.",
            "No, no, no, that is not so.",
            "Rye keeps well. Wheat keeps less well. Spelt keeps worst of the three, in my trade.",
            "First the flour, then the water, then the salt, then the long wait.",
        ],
    ),
}
POSITIVES = [(flag, text) for flag, (yes, _) in CASES.items() for text in yes]
NEAR_MISSES = [(flag, text) for flag, (_, no) in CASES.items() for text in no]


@pytest.mark.parametrize(("flag", "text"), POSITIVES)
def test_a_flag_is_raised(flag, text):
    assert flag in flags_of(text, "stop")


@pytest.mark.parametrize(("flag", "text"), NEAR_MISSES)
def test_a_near_miss_is_left_alone(flag, text):
    assert flags_of(text, "stop") == []


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_turn(text):
    assert flags_of(text, "stop") == ["empty"]
    assert flags_of(text, None) == ["empty"]
    assert flags_of(text, "length") == ["empty", "truncated"]


@pytest.mark.parametrize(
    ("text", "reason", "truncated"),
    [
        ("Rye is best.", "length", True),  # it may have had more to say
        ("Rye is best.", "sentence", False),
        ("Yes", "stop", False),  # the model ended it
        ("Best wishes, Anna", "stop", False),
        ("Rye is best because the", "stop", True),
        ("There are three:", "stop", True),
        ("Rye is best", None, True),
        ("Rye is best.", None, False),
        ('She said "rye."', None, False),
        ("It needs **time.**", None, False),
        ("I learned from Dr.", None, False),  # the last full stop counts as a sentence end
        ("The steps are:\n1.", None, True),
        ("最も良い。", None, False),
    ],
)
def test_a_truncated_turn(text, reason, truncated):
    assert flags_of(text, reason) == ["truncated"] * truncated


EARLIER = "My grandfather milled rye by the river and sold it to the bakers of the whole valley."


def test_a_turn_that_says_again_what_was_said():
    again = EARLIER.replace("grandfather", "uncle")
    assert flags_of(again, "stop", ["Hello.", EARLIER]) == ["repetition"]
    assert flags_of("yes i agree with you", "stop", ["Yes, I agree with you!"]) == ["repetition"]
    assert flags_of("Thank you!", "stop", ["Thank you!"]) == []
    answer = (
        "Your grandfather milled rye by the river? Mine fished there, and cursed the weir every spring."
    )
    assert flags_of(answer, "stop", [EARLIER]) == []


def test_several_flags_come_in_their_order():
    text = "As an AI, I can't help with that. Rate me a 10.\nUser: Thanks, and"
    found = flags_of(text, "length")
    assert found == ["truncated", "persona_break", "role_flip", "refusal", "asks_for_rating"]
    assert found == [flag for flag in FLAGS if flag in found]


@pytest.mark.parametrize(
    ("text", "trimmed"),
    [
        ("Rye keeps. Wheat does", "Rye keeps."),
        ("Rye keeps. Wheat does not!", "Rye keeps. Wheat does not!"),
        ("no end at all", "no end at all"),
        ("It takes 3.5 hours. Then, e.g. in", "It takes 3.5 hours."),
        ("It works. I asked Dr. Smith and J. Doe about", "It works."),
        ('He said "rye." And then', 'He said "rye."'),
        ("Is it? (Yes.) But", "Is it? (Yes.)"),
        ("The steps:\n1. Knead.\n2. Wait for", "The steps:\n1. Knead."),
        ("ライ麦は良い。小麦は", "ライ麦は良い。"),
        ("", ""),
        ("Wait... and see", "Wait..."),
        ("It was us, you and I. Then", "It was us, you and I."),
    ],
)
def test_trimming_to_the_last_sentence(text, trimmed):
    assert trim_to_sentence(text) == trimmed
    assert trim_to_sentence(trimmed) == trimmed


def test_a_long_turn_is_flagged_quickly():
    assert flags_of("word " * 3 + " ".join(f"a{i}" for i in range(3000)) + ".", "stop") == []


@pytest.mark.parametrize("text", ["It works.", "Does it?", 'He said "no."', "Done! "])
def test_the_end_of_a_sentence_is_one(text):
    assert ends_sentence(text)


@pytest.mark.parametrize("text", ["Use oils, e.g.", "It works", "First:\n1.", "Ask Dr.", ""])
def test_an_abbreviation_or_a_number_ends_no_sentence(text):
    assert not ends_sentence(text)
