"""Write the wordings of the TIES papers' tasks, and what promptsource itself makes of rows with them.

Run where promptsource 0.2.3 can be imported (it asks for Python < 3.10; its source distribution on the path will do):
    PYTHONPATH=promptsource-0.2.3 python tests/reference/make_promptsource_wordings.py
Which wordings: those of the original task with the metric accuracy, without the ones that the papers' code leaves out
(corrections to the specifications, P 1.15). The papers' T5 models use the first of each; only that is kept where no
other is needed.
"""

import json
from pathlib import Path

import yaml
from promptsource.templates import DatasetTemplates, Template

ROOT = Path(__file__).resolve().parents[2]
WORDINGS = ROOT / "src" / "fusionbench" / "presets" / "wordings"
GOLDEN = Path(__file__).parent / "golden" / "promptsource.json"
LABEL = "{{ label }}"
LETTER = "{{ 'ABCDEFGH'.index(answerKey) }}"
# Of a wording that draws one of several sentences, the papers' code takes each as a wording of its own.
DRAWN = (
    "Can you pick the correct ending for the sentence: {{ctx}}",
    "The task is to generate the ending for the sentence: {{ctx}}",
    "How does this sentence end? {{ctx}}",
    "From the list of endings described below, what ending makes the most sense for the sentence {{ctx}}",
)
SETS = {  # name: (promptsource's, choices, label, wordings left out, only the first)
    "paws": (("paws", "labeled_final"), 2, LABEL, (), True),
    "qasc": (("qasc",), 8, LETTER, (), True),
    "quartz": (("quartz",), 2, LETTER, (), True),
    "wiki_qa": (("wiki_qa",), 2, LABEL, (), True),
    "story_cloze": (("story_cloze", "2016"), 2, "{{ answer_right_ending | int - 1 }}", (), False),
    "winogrande": (("winogrande", "winogrande_xl"), 2, "{{ answer | int - 1 }}", (), False),
    "wsc": (("super_glue", "wsc.fixed"), 2, LABEL, (), False),
    "rte": (("super_glue", "rte"), 2, LABEL, (), False),
    "cb": (("super_glue", "cb"), 3, LABEL, (), False),
    "wic": (("super_glue", "wic"), 2, LABEL, (), False),
    "copa": (
        ("super_glue", "copa"), 2, LABEL,
        ("…which may be caused by", "…What could happen next, C1 or C2?", "…As a result, C1 or C2?", "…why? C1 or C2"),
        False,
    ),
    "hellaswag": (("hellaswag",), 4, "{{ label | int }}", ("Randomized prompts template",), False),
    "anli": (("anli",), 3, LABEL, (), False),
}  # fmt: skip
PAIR = {"premise": "The cat sat. It purred.", "hypothesis": "A cat was {there}"}
QUESTION = {
    "question": "What makes ice melt?", "answerKey": "B",
    "choices": {"text": ["cold", "warmth."], "label": ["A", "B"]},
}  # fmt: skip
STORY = {f"input_sentence_{number}": f"Sentence {number}." for number in range(1, 5)}
ROWS = {
    "paws": [{"sentence1": "A b.", "sentence2": "B a | c.", "label": label} for label in (0, 1)],
    "qasc": [
        QUESTION | {
            "fact1": "heat melts Things.", "fact2": "Ice is a thing.", "answerKey": key,
            "choices": {"text": list("stuvwxyz"), "label": list("ABCDEFGH")},
        }
        for key in "AH"
    ],
    "quartz": [
        QUESTION | {"para": "Ice melts when it is warm."},
        QUESTION | {"question": "Ice melts by _____?", "para": "So.", "answerKey": "A"},
    ],
    "wiki_qa": [{"question": "who was first", "answer": "Adam ||| Eve.", "label": label} for label in (0, 1)],
    "story_cloze": [
        STORY | {"sentence_quiz1": "They sang.", "sentence_quiz2": "They left.", "answer_right_ending": n}
        for n in (1, 2)
    ],
    "winogrande": [
        {"sentence": "Ann beat Bea since _ was quick.", "option1": "Ann", "option2": "Bea", "answer": n}
        for n in "12"
    ],
    "wsc": [
        {"text": "Mark told Pete. He went.", "span1_text": "Mark", "span2_text": "He",
         "span1_index": 0, "span2_index": 3, "label": n} for n in (0, 1)
    ],
    "rte": [PAIR | {"label": label} for label in (0, 1)],
    "cb": [PAIR | {"label": label} for label in (0, 1, 2)],
    "wic": [
        {"word": "bank", "sentence1": "A bank lends.", "sentence2": "By the bank.", "label": n} for n in (0, 1)
    ],
    "copa": [
        {"premise": "It rained.", "choice1": "It was wet.", "choice2": "It was dry.", "question": kind, "label": n}
        for n, kind in enumerate(("effect", "cause"))
    ],
    "hellaswag": [
        {
            "activity_label": "Baking", "ctx_a": "She mixes.", "ctx_b": "then she", "ctx": "She mixes. then she",
            "endings": ["bakes.", "sleeps.", "flies.", "eats."], "label": n,
        }
        for n in "03"
    ],
    "anli": [PAIR | {"label": label} for label in (0, 1, 2)],
}  # fmt: skip


def question_of(jinja: str) -> str:
    """The part before the answer, where that can stand alone."""
    first = jinja.split("|||")[0]
    opened = first.count("{% if") + first.count("{% for") + first.count("{%if")
    closed = first.count("{% endif") + first.count("{% endfor") + first.count("{%endif")
    return first if opened == closed else jinja


def main() -> None:
    """Write one file of wordings a data set, and one of what promptsource makes of rows."""
    WORDINGS.mkdir(exist_ok=True)
    golden = {}
    for name, (source, choices, label, left_out, first) in SETS.items():
        held = DatasetTemplates(*source).templates.values()
        kept = [t for t in held if t.metadata.original_task and set(t.metadata.metrics) <= {"Accuracy"}]
        kept = [t for t in kept if t.name not in left_out]
        if name == "hellaswag":
            text = "{} ||| {{{{answer_choices [label | int()]}}}}"
            kept += [
                Template(f"randomized prompt {n}", text.format(drawn), "", answer_choices='{{endings | join("|||")}}')
                for n, drawn in enumerate(DRAWN, start=1)
            ]
        kept = kept[:1] if first else kept
        document = {
            "source": f"promptsource 0.2.3, {'/'.join(source)} (arXiv:2202.01279)",
            "license": "Apache-2.0; changed: without the answers, which follow from the label",
            "choices": choices,
            "label": label,
            "wordings": [{"name": t.name, "question": question_of(t.jinja), "choices": t.answer_choices} for t in kept],
        }
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
        (WORDINGS / f"{name}.yaml").write_text(text)
        golden[name] = [
            {
                "row": row,
                "asked": [t.apply(row)[0] for t in kept],
                "choices": [t.get_answer_choices_list(row) for t in kept],
                "right": [t.apply(row)[1] for t in kept],
            }
            for row in ROWS[name]
        ]
    GOLDEN.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
