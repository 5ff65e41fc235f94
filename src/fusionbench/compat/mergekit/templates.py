"""The chat templates that mergekit has by name: Jinja texts of our own that say the same, letter by letter.

Blanks and line breaks that look like slips (before a tag of exaone, after an end of turn of llama3) are mergekit's too.
"""

_START = "{% if add_generation_prompt %}"
_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' ~ m['role'] ~ '\\n' ~ m['content'] ~ '<|im_end|>\\n' }}{% endfor %}"
    f"{_START}{{{{ '<|im_start|>assistant\\n' }}}}{{% endif %}}"
)
_LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' ~ m['role'] ~ '<|end_header_id|>\\n\\n' ~ m['content'].strip() ~ '<|eot_id|>\\n' }}"
    f"{{% endfor %}}{_START}{{{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}}}{{% endif %}}"
)
_MISTRAL = (
    "{{ bos_token }}{% set opening = messages[0]['role'] == 'system' %}{% for m in messages[1:] if opening %}"
    "{% set first = messages[0]['content'] ~ '\\n\\n' if loop.first else '' %}{% set turn = loop.index0 %}%TURN%"
    "{% endfor %}{% for m in messages if not opening %}"
    "{% set first = '' %}{% set turn = loop.index0 %}%TURN%{% endfor %}"
).replace(
    "%TURN%",
    "{% if m['role'] == 'user' and turn % 2 == 0 %}{{ ' [INST] ' ~ first ~ m['content'] ~ ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' and turn % 2 %}{{ ' ' ~ m['content'] ~ eos_token }}"
    "{% else %}{{ raise_exception('mistral: after one system message, user and assistant take turns.') }}{% endif %}",
)
_EXAONE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '        [|system|][|endofturn|]\\n\\n' }}{% endif %}"
    "{{ '    [|' ~ m['role'] ~ '|]' ~ m['content'] ~ '\\n        ' }}"
    "{{ '\\n\\n' if m['role'] == 'user' else '[|endofturn|]\\n\\n' }}{% endfor %}"
    f"{_START}{{{{ '    [|assistant|]\\n' }}}}{{% endif %}}"
)
_ALPACA = (
    "{% set known = {'user': 'Instruction', 'assistant': 'Response', 'user_context': 'Input'} %}"
    "{% for m in messages | selectattr('role', 'equalto', 'system') | list | reverse %}"
    "{% if loop.first %}{{ m['content'].strip() }}{% endif %}{% endfor %}{{ '\\n\\n' }}"
    "{% for m in messages %}{% if m['role'] in known %}"
    "{{ '### ' ~ known[m['role']] ~ ':\\n' ~ m['content'].strip() ~ ('' if loop.last else '\\n\\n') }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}{{ '### Response:\\n' }}{% endif %}"
)
TEMPLATES = {"alpaca": _ALPACA, "chatml": _CHATML, "exaone": _EXAONE, "llama3": _LLAMA3, "mistral": _MISTRAL}
