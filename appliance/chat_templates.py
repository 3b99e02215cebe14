"""Chat templates for bases that have none of their own, by the names a recipe may use. Written for this project. Pure.

A template is a program, so a recipe never brings its own; it names one of these.
"""

from collections.abc import Container, Mapping
from typing import Final

_CHATML: Final = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + END + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

_ALPACA: Final = """\
{%- if messages[0].role != 'system' -%}
    {{- 'Below is an instruction that describes a task. Write a response that completes the request.\\n\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}
        {{- message.content + '\\n\\n' -}}
    {%- elif message.role == 'user' -%}
        {{- '### Instruction:\\n' + message.content + '\\n\\n' -}}
    {%- elif message.role == 'assistant' -%}
        {{- '### Response:\\n' + (message.content or '') + eos_token + '\\n\\n' -}}
    {%- else -%}
        {{- raise_exception('the roles are system, user and assistant, not ' + message.role) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '### Response:\\n' -}}
{%- endif -%}
"""

_ZEPHYR: Final = """\
{%- for message in messages -%}
    {{- '<|' + message.role + '|>\\n' + (message.content or '') + eos_token + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>\\n' -}}
{%- endif -%}
"""

_LLAMA_3: Final = """\
{%- for message in messages -%}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + (message.content or '') | trim -}}
    {{- '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""

KNOWN: Final[Mapping[str, str]] = {"chatml": _CHATML, "alpaca": _ALPACA, "zephyr": _ZEPHYR, "llama-3": _LLAMA_3}
# Tokens that a template cannot do without: spelled out in letters they would not end a turn.
NEEDED_TOKENS: Final[Mapping[str, tuple[str, ...]]] = {
    "llama-3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
}


def usable_names(tokens: Container[str]) -> list[str]:
    """The known templates that a tokenizer with these special tokens can use."""
    return [name for name in KNOWN if all(token in tokens for token in NEEDED_TOKENS.get(name, ()))]


def known_template(name: str, *, tokens: Container[str], begins_with_bos: bool) -> str:
    """A known template fitted to a tokenizer: its own end-of-turn token, and its BOS when it uses one."""
    end = "'<|im_end|>'" if "<|im_end|>" in tokens else "eos_token"
    start = "{{- bos_token -}}\n" if begins_with_bos else ""
    return start + KNOWN[name].replace("END", end)
