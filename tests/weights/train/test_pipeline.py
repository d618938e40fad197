from pathlib import Path

from weights.train.pipeline import closing_words


def test_a_draft_that_has_seen_next_to_nothing_is_not_praised() -> None:
    few = "\n".join(closing_words(12, False, "m", Path("drafts/x")))
    assert few.startswith("warning: the draft in drafts/x has seen 12 tokens of text")
    assert "more --minutes" in few and few.endswith("--model m --draft drafts/x")
    enough = closing_words(12, True, "m", Path("drafts/x"))
    assert enough == ["the draft is in drafts/x; serve it with", few.splitlines()[-1]]
