"""Which variables a chat template reads, so that a request can set them and no others."""

import re
from typing import Final

_GIVEN: Final = frozenset(
    "messages tools add_generation_prompt continue_final_message tokenize chat_template"
    " return_dict raise_exception strftime_now dict namespace".split()
)
"""What a template gets in any case: from the request's other fields, or from transformers."""
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
"""transformers' own tag, which marks what an assistant wrote, for training."""


def template_variables(template: str) -> frozenset[str]:
    """The variables that a chat template reads, besides those that it is given in any case; none
    if it is no template."""
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(_GENERATION.sub("", template))
    except TemplateSyntaxError:
        return frozenset()
    found = meta.find_undeclared_variables(tree) - _GIVEN
    return frozenset(name for name in found if not name.endswith("_token"))
