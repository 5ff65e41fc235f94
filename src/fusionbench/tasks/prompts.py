"""Prompts: how a row of a data set becomes a text to read and a text to write. No torch here."""

from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from fusionbench.config import Config
from fusionbench.config.fields import Text
from fusionbench.errors import ConfigError
from fusionbench.registry import suggestion


def _names_columns(template: str) -> str:
    parts = list(Formatter().parse(template))
    strange = [name for _, name, format_, conversion in parts if name is not None and (format_ or conversion)]
    if strange or any(name is not None and not name.isidentifier() for _, name, *_ in parts):
        raise ValueError(f"{template!r} must name columns in braces, such as {{sentence}}, and nothing else in them")
    return template


Template = Annotated[str, AfterValidator(_names_columns)]


def columns_of(templates: Iterable[str]) -> tuple[str, ...]:
    """Return the columns that templates name, each once."""
    found = (name for template in templates for _, name, *_ in Formatter().parse(template) if name is not None)
    return tuple(dict.fromkeys(found))


class Prompt(Config):
    """A text to read with columns in braces, and the words for the labels; without words, the label is a number."""

    template: Template = Field(description="the text that is read, {column} standing for what a row has there")
    targets: Annotated[tuple[Text, ...], Field(min_length=2)] | None = Field(
        default=None, description="the word for each label, in their order; null: the label with one decimal"
    )

    def question(self, row: Mapping[str, Any]) -> str:
        """Return the text that is read for a row."""
        return self.template.format_map(row)

    def answer(self, label: float) -> str:
        """Return the text that is to be written for a label, such as "acceptable" or "3.8"."""
        return f"{label:.1f}" if self.targets is None else self.targets[int(label)]


NO_YES, YES_NO = ("no", "yes"), ("yes", "no")
PROMPTS: Mapping[str, Prompt] = {
    name: Prompt(template=template, targets=targets)
    for name, template, targets in (
        (
            "glue/cola",
            'Indicate if the following sentence is grammatically correct or not: "{sentence}". '
            "Answere 'acceptable' or 'unacceptable'.",
            ("unacceptable", "acceptable"),
        ),
        (
            "glue/mnli",
            "Does the premise: '{premise}' logically imply, contradict, or is neutral to the hypothesis: "
            "'{hypothesis}'? Answere with 'entailment', 'contradiction', or 'neutral'.",
            ("entailment", "neutral", "contradiction"),
        ),
        (
            "glue/mrpc",
            "Are the following sentences '{sentence1}' and '{sentence2}' conveying the same meaning? "
            "Answere with 'yes' or 'no'.",
            NO_YES,
        ),
        (
            "glue/qnli",
            "Given the context: '{sentence}', does the question '{question}' have an answer based on the information "
            "provided? Answer with 'yes' or 'no'.",
            YES_NO,
        ),
        (
            "glue/qqp",
            "Do the questions '{question1}' and '{question2}' have the same intent? Answere with 'yes' or 'no'.",
            NO_YES,
        ),
        ("glue/rte", "Does the text: '{sentence1}' entail that '{sentence2}' is true? Provide 'yes' or 'no'.", YES_NO),
        (
            "glue/sst2",
            "Given the sentence '{sentence}', determine the sentiment. Is it positive or negative?",
            ("negative", "positive"),
        ),
        (
            "glue/stsb",
            "Consider the sentences '{sentence1}' and '{sentence2}'. On a scale from 1 (completely different) to 5 "
            "(completely similar), rate the similarity.",
            None,
        ),
    )
}
"""The prompts on which FusionBench's Flan-T5 models were trained (arXiv:2406.03280), "Answere" included."""


def prompt_named(name: str) -> Prompt:
    """Return one of `PROMPTS`.

    Raises:
        ConfigError: where there is none of that name.
    """
    if name not in PROMPTS:
        raise ConfigError(f"There is no prompt {name!r}. {suggestion(name, list(PROMPTS))}")
    return PROMPTS[name]


def missing_columns(templates: Sequence[str], held: Sequence[str]) -> list[str]:
    """Return the columns that templates name and a data set lacks."""
    return [name for name in columns_of(templates) if name not in held]
