"""A prompt file gives the messages that a model reads: system text, user's text, begun reply."""

import pytest
from expertchat import prompts
from expertchat.prompts import VALUES, template_faults

PARTS = (
    "{% block system %}\nYou judge {{ topic }}.\n{% endblock %}\n"
    "Rate {{ rated }}.\n"
    "{% block reply %}\nNumber: {% endblock %}\n"
)


def test_the_blocks_are_messages_of_their_own_and_not_part_of_the_users_text():
    assert prompts.messages(PARTS, topic="bread", rated="A") == [
        {"role": "system", "content": "You judge bread."},
        {"role": "user", "content": "Rate A."},
        {"role": "assistant", "content": "Number: "},
    ]
    assert prompts.fill(PARTS, topic="bread", rated="A") == "Rate A."


def test_a_file_without_blocks_is_the_users_text_and_blank_blocks_count_as_missing():
    alone = [{"role": "user", "content": "Rate."}]
    assert prompts.messages("Rate.\n") == alone
    blank = "{% block system %}\n{% if no %}x{% endif %}\n{% endblock %}"
    blank += "Rate.{% block reply %} {% endblock %}"
    assert prompts.messages(blank, no=False) == alone


def test_a_space_at_the_end_of_the_begun_reply_stays_and_line_breaks_do_not():
    def begun(text):
        return prompts.messages("Rate.{% block reply %}" + text + "{% endblock %}")[-1]["content"]

    assert begun("Number: ") == "Number: "
    assert begun("\nNumber:\n") == "Number:"
    assert begun("Reasons: none.\n\nNumber: \n") == "Reasons: none.\n\nNumber: "


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rating", "x\n{% block reply %}{{ scor }}{% endblock %}", "line 2: unknown name 'scor'"),
        ("rating", "{{ note }}", "line 1: unknown name 'note'"),  # raters are not told what speakers are
        ("rating", "x\n{% block reply %}", "line 2: Unexpected end of template"),
        ("rating", "\n{% block sytem %}x{% endblock %}", "unknown block 'sytem'; known: system, reply"),
        ("speaker", "x{% block reply %}I{% endblock %}", "unknown block 'reply'; known: none in this"),
        (
            "topic",
            "{% if kind %}\n{% block reply %}A{% endblock %}{% endif %}",
            "line 2: block 'reply' stands inside another tag",
        ),
        ("topic", "{% block reply %}{% endblock %}\n{% block reply %}{% endblock %}", "line 2: block"),
    ],
)
def test_a_fault_in_a_block_is_named_with_its_line(tmp_path, name, text, message):
    path = tmp_path / f"{name}.jinja"
    path.write_text(text, encoding="utf-8")
    (fault,) = template_faults(path, VALUES.get(name, VALUES["opening"]))
    assert message in fault


@pytest.mark.parametrize("name", ["topic", "rating"])
def test_topics_and_ratings_come_with_a_system_text_and_a_begun_reply(root, name):
    """Some chat templates put a system text of their own where none is given."""
    values = dict.fromkeys(VALUES[name], "x") | {"turns": [], "taken": []}
    template = prompts.read_prompts(root / "config/prompts")[name]
    asked = prompts.messages(template, **values)
    assert [message["role"] for message in asked] == ["system", "user", "assistant"]
    assert asked[-1]["content"].endswith(": ")


def test_a_conversation_without_a_topic_is_rated_without_the_word_topic(root):
    template = (root / "config/prompts/rating.jinja").read_text(encoding="utf-8")
    texts = [
        prompts.messages(
            template,
            **prompts.rating_values(
                topic=topic,
                turns=[("A", "I weigh all of it.")],
                rated="A",
                scope="dialogue",
                category="expertise",
                description="knows",
                low=1,
                high=7,
                fence="#7f",
            ),
        )[1]["content"]
        for topic in ("Scales", "")
    ]
    assert "#7f BEGIN. Topic: Scales\n" in texts[0]
    assert "#7f BEGIN.\n" in texts[1] and "Topic" not in texts[1]
