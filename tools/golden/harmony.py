"""Goldens of a template that goes by channels, as gpt-oss' does: what transformers renders of conversations with thoughts
and tool calls, and which of it is the assistant's, by {% generation %} marks that the tests take out of the template."""
from transformers.utils.chat_template_utils import render_jinja_template
from record import versions, write

# Our own words. As there: thoughts stand in the last turn, and with tool calls as long as no answer has followed; the very
# last answer ends with <|return|>, earlier ones with <|end|>, which is nobody's to say; a tool's result names its caller.
TEMPLATE = """{{- '<|start|>system<|message|>Reasoning: ' + (reasoning_effort | default('medium')) + '. Channels: analysis, commentary, final.<|end|>' -}}
{%- if messages[0].role in ['system', 'developer'] -%}{%- set word = messages[0].content -%}{%- set turns = messages[1:] -%}
{%- else -%}{%- set word = '' -%}{%- set turns = messages -%}{%- endif -%}
{%- if word or tools -%}
  {{- '<|start|>developer<|message|>' + word -}}
  {%- for tool in tools or [] -%}
    {{- '\\ntype ' + tool.function.name + ' = ' + tool.function.parameters | tojson -}}
  {%- endfor -%}
  {{- '<|end|>' -}}
{%- endif -%}
{%- set called = namespace(name=none) -%}
{%- for turn in turns -%}
  {%- if turn.role == 'assistant' -%}
    {{- '<|start|>assistant' -}}
    {%- if 'tool_calls' in turn -%}
      {%- set answered = namespace(yes=false) -%}
      {%- for later in turns[loop.index:] -%}{%- if later.role == 'assistant' and 'tool_calls' not in later -%}{%- set answered.yes = true -%}{%- endif -%}{%- endfor -%}
      {%- set call = turn.tool_calls[0].function -%}
      {%- set called.name = call.name -%}
      {%- generation -%}
      {%- if turn.thinking and not answered.yes -%}{{- '<|channel|>analysis<|message|>' + turn.thinking + '<|end|><|start|>assistant' -}}{%- endif -%}
      {{- ' to=functions.' + call.name + '<|channel|>commentary json<|message|>' + call.arguments | tojson + '<|call|>' -}}
      {%- endgeneration -%}
    {%- elif loop.last and not add_generation_prompt -%}
      {%- generation -%}
      {%- if turn.thinking -%}{{- '<|channel|>analysis<|message|>' + turn.thinking + '<|end|><|start|>assistant' -}}{%- endif -%}
      {{- '<|channel|>final<|message|>' + turn.content + '<|return|>' -}}
      {%- endgeneration -%}
    {%- else -%}
      {%- generation -%}{{- '<|channel|>final<|message|>' + turn.content -}}{%- endgeneration -%}
      {{- '<|end|>' -}}
    {%- endif -%}
  {%- elif turn.role == 'tool' -%}
    {{- '<|start|>functions.' + called.name + ' to=assistant<|channel|>commentary<|message|>' + turn.content | tojson + '<|end|>' -}}
  {%- else -%}
    {{- '<|start|>' + turn.role + '<|message|>' + turn.content + '<|end|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}"""

TOOLS = [{"type": "function", "function": {"name": name, "description": "", "parameters": {
    "type": "object", "properties": {key: {"type": kind}}, "required": [key]}}}
    for name, key, kind in (("tide", "harbor", "string"), ("sum", "terms", "array"))]


def user(content):
    return {"role": "user", "content": content}


def answer(content, **more):
    return {"role": "assistant", "content": content, **more}


def call(name, arguments, **more):
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}], **more}


def result(content):
    return {"role": "tool", "content": content}


RULES = {"role": "developer", "content": "Answer in one line."}
ROWS = {
    "one answer": ([user("When is high tide?"), answer("At six.")], None),
    "a thought": ([RULES, user("When is high tide?"), answer("At six.", thinking="Moon up <i>now</i>.")], None),
    "two answers": ([user("A?"), answer("Yes.", thinking="Easy."), user("B?"), answer("No.\nNever.", thinking="Hard.")], None),
    "the same answer twice": ([user("A?"), answer("Yes."), user("B?"), answer("Yes.")], None),
    "a call at the end": ([user("Tide?"), call("tide", {"harbor": "Bergen"}, thinking="Ask.")], TOOLS),
    "a call and its answer": ([RULES, user("Tide?"), call("tide", {"harbor": "Bergen"}, thinking="Ask."), result("6 am"),
                              answer("At six.", thinking="Read it out.")], TOOLS),
    "two calls": ([user("Tide?"), call("tide", {"harbor": "Bergen"}, thinking="Ask."), result('{"h": 6}'),
                  call("sum", {"terms": [6, 12.5]}, thinking="Add."), result("18"), answer("At 18.")], TOOLS),
    "two calls, no answer yet": ([user("Tide?"), call("tide", {"harbor": "Bergen"}, thinking="Ask."), result("6"),
                                 call("sum", {"terms": [6, 12]}, thinking="Add.")], TOOLS),
    "a call, an answer, and on": ([user("Tide?"), call("tide", {"harbor": "Bergen"}, thinking="Ask."), result("6"), answer("At six."),
                                  user("Sum?"), call("sum", {"terms": [1, 2]}), result("3"), answer("Three.", thinking="Done.")], TOOLS),
}


def main():
    cases = {}
    for name, (messages, tools) in ROWS.items():
        (text,), (spans,) = render_jinja_template(
            conversations=[messages], tools=tools, chat_template=TEMPLATE, return_assistant_tokens_mask=True)
        cases[name] = {"messages": messages, "tools": tools, "text": text, "said": [text[start:end] for start, end in spans]}
    write("harmony.json", {"versions": versions("transformers", "jinja2"), "template": TEMPLATE, "cases": cases})


if __name__ == "__main__":
    main()
