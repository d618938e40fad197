"""A chat's request → jobs for the engine."""

from dataclasses import replace
from functools import partial

from server.api.chat.messages import checked_continuation, is_long, template_messages
from server.api.chat.schema import ChatRequest
from server.api.deps import Parts
from server.api.generation.job_group import JobGroup, PromptJobs
from server.api.generation.prompt_tokens import encode_text, most_prompt_tokens
from server.api.generation.structured import (
    answer_grammar,
    check_schemas,
    compile_grammar,
    schema_grammar,
)
from server.api.generation.thinking import (
    ThinkingUse,
    check_calls,
    demanded_call,
    thinking_prompt,
    thinking_use,
)
from server.api.generation.tools import ToolUse, tool_places, tool_use
from server.api.generation.translate import (
    answer_length,
    check_common,
    group_name,
    prompt_jobs,
    sampling_params,
)
from server.engine.types import Grammar
from server.errors import InvalidRequestError
from server.text.tools.functions import FunctionTool
from server.text.tools.grammar import arguments_schema


async def chat_jobs(
    body: ChatRequest, parts: Parts, *, usual_tokens: int | None = None
) -> JobGroup:
    """The jobs of a chat: one for each of its answers.

    Args:
        usual_tokens: Most tokens of an answer where the body says nothing and the context has
            room for them; None for all that it has left.

    Raises:
        RequestError: the body asks for something that can't be done.
    """
    check_common(body, parts)
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError("top_logprobs: needs logprobs to be true", "top_logprobs")
    tools = await _tools(body, parts)
    prompt, thinking = await _prompt(body, tools, parts)
    given, max_model_len = _max_tokens(body), parts.engine.max_model_len
    limit = answer_length("messages", len(prompt), max_model_len, given, default=usual_tokens)
    num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    params = sampling_params(body, limit, num_logprobs, parts.info)
    tools = replace(tools, content=await answer_grammar(body, parts))
    check_calls(tools, parts.chat_template)
    grammar = await _grammar(body, tools, parts)
    told = thinking.for_engine(
        parts.tokenizer, body.thinking_token_budget, tools, has_grammar=grammar is not None
    )
    params = replace(params, grammar=grammar, thinking=told)
    name = group_name("chatcmpl")
    jobs = prompt_jobs(
        name,
        0,
        body.n or 1,
        body,
        prompt,
        params,
        parts,
        tools,
        thinking,
        continues_text=bool(body.continue_final_message),
    )
    return JobGroup(name, (PromptJobs(jobs, len(jobs)),))


async def _grammar(body: ChatRequest, tools: ToolUse, parts: Parts) -> Grammar | None:
    """What the answer may be: calls, or what is asked of its content."""
    form = parts.chat_template.thinking_format
    if form is not None and form.has_calls and tools.is_active:
        demanded = demanded_call(tools, form)
        return None if demanded is None else await _arguments(body, demanded, parts)
    grammar = tools.grammar(parts.chat_template.tool_format)
    if grammar is not None and grammar is not tools.content:
        places = tool_places(body.tools or [])
        schemas = {
            f"{places[tool.name]}.function.parameters": dict(tool.parameters)
            for tool in tools.enforced()
        }
        if parts.grammars.find(grammar) is None:
            await check_schemas(schemas, parts)
        await compile_grammar("tools", grammar, parts)
    return grammar


async def _arguments(body: ChatRequest, tool: FunctionTool, parts: Parts) -> Grammar:
    """What a call's arguments may be, where the call itself is no text of the grammar's."""
    field = f"{tool_places(body.tools or [])[tool.name]}.function.parameters"
    grammar = schema_grammar(field, arguments_schema(tool))
    await compile_grammar(field, grammar, parts)
    return grammar


async def chat_prompt(body: ChatRequest, parts: Parts) -> list[int]:
    """The token ids that the model is shown, however many.

    Raises:
        RequestError: the body asks for something that can't be done.
    """
    check_common(body, parts)
    tools = await _tools(body, parts)
    prompt, _ = await _prompt(body, tools, parts, has_to_fit=False)
    return prompt


def chat_tools(body: ChatRequest, *, drops_others: bool) -> ToolUse:
    """What the request says of tools; see `tool_use`."""
    parallel = body.parallel_tool_calls is not False
    return tool_use(
        body.tools or [], body.tool_choice, parallel=parallel, drops_others=drops_others
    )


async def _tools(body: ChatRequest, parts: Parts) -> ToolUse:
    read = partial(chat_tools, body, drops_others=parts.info.drops_other_tools)
    return await parts.long_work.run(_is_long(body), read)


def _is_long(body: ChatRequest) -> bool:
    return is_long(body.messages, body.tools, body.chat_template_kwargs)


async def _prompt(
    body: ChatRequest, tools: ToolUse, parts: Parts, *, has_to_fit: bool = True
) -> tuple[list[int], ThinkingUse]:
    """The prompt's token ids, and how the answer to it thinks.

    Args:
        has_to_fit: What is longer than the context may be refused unread.
    """
    template = parts.chat_template
    continues = checked_continuation(
        body.messages, body.continue_final_message, body.add_generation_prompt
    )

    def render() -> str:
        said = thinking_prompt(body.reasoning_effort, body.chat_template_kwargs, template)
        messages = said.messages(template_messages(body.messages, template.tool_format))
        return template.render(
            messages,
            tools.schemas(),
            add_generation_prompt=body.add_generation_prompt is not False,
            continue_final_message=continues,
            variables=said.variables,
        )

    text = await parts.long_work.run(_is_long(body), render)
    most = most_prompt_tokens(
        body.truncate_prompt_tokens, parts.engine.max_model_len, (_max_tokens(body) or ("", 1))[1]
    )
    token_ids = await encode_text(
        "messages", text, parts, add_special_tokens=False, most=most, has_to_fit=has_to_fit
    )
    if not token_ids:
        raise InvalidRequestError("messages: the chat template makes nothing of them", "messages")
    begun = body.messages[-1].text if continues else None
    return token_ids, thinking_use(template, text, begun)


def _max_tokens(body: ChatRequest) -> tuple[str, int] | None:
    """The field that limits the answer, and its value."""
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequestError(
            f"max_tokens: is {old}, but max_completion_tokens is {new}", "max_tokens"
        )
    if new is not None:
        return "max_completion_tokens", new
    return None if old is None else ("max_tokens", old)
