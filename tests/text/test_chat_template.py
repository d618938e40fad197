import pytest

from server.errors import InvalidRequestError
from server.text.chat_template import ChatTemplate
from tests.doubles import BOS, BOS_ID, EOS, byte_backend, byte_tokenizer

TEMPLATE = """{{ bos_token }}{% for m in messages %}\
{% if m.role == 'system' and not loop.first %}{{ raise_exception('system must come first') }}\
{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}\
{% if add_generation_prompt %}<assistant>{% endif %}"""


def chat_template(template: str | None) -> ChatTemplate:
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=byte_backend(), bos_token=BOS, eos_token=EOS, chat_template=template
    )
    return ChatTemplate(fast, "tiny")


def test_renders_up_to_the_assistants_turn() -> None:
    text = chat_template(TEMPLATE).render([{"role": "user", "content": "hi"}])
    assert text == "<s><user>hi<assistant>"


def test_start_token_is_not_doubled() -> None:
    text = chat_template(TEMPLATE).render([{"role": "user", "content": "hi"}])
    token_ids = byte_tokenizer().encode(text, add_special_tokens=False)
    assert token_ids.count(BOS_ID) == 1


def test_a_template_may_refuse_the_messages() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "system", "content": "x"}]
    with pytest.raises(InvalidRequestError, match="system must come first") as caught:
        chat_template(TEMPLATE).render(messages)
    assert caught.value.param == "messages"


def test_a_template_that_quotes_the_chat_is_cut_short() -> None:
    quoting = chat_template("{{ raise_exception(messages[0].content) }}")
    with pytest.raises(InvalidRequestError, match="xxx") as caught:
        quoting.render([{"role": "user", "content": "x" * 10_000}])
    assert len(str(caught.value)) < 300


def test_no_template() -> None:
    with pytest.raises(InvalidRequestError, match="'tiny' has no chat template"):
        chat_template(None).render([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ nothing.at.all }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[0].content | int // 0 }}",
        "{{ messages[0].content.index('z') }}",
        "{{ '%d' % messages[0].content }}",
        "{{ '%(name)s' % messages[0] }}",
    ],
)
def test_template_errors_blame_the_messages(template: str) -> None:
    """Sandboxed: a template can't reach into Python."""
    with pytest.raises(InvalidRequestError):
        chat_template(template).render([{"role": "user", "content": "hi"}])
