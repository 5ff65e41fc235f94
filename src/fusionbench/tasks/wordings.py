"""Ways to ask a question with given answers: texts with columns in braces, or promptsource's own templates."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from jinja2 import Template as TemplateType
from jinja2 import TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import AfterValidator, Field

from fusionbench.config import Config, read_document
from fusionbench.config.fields import Count, Text
from fusionbench.errors import ConfigError
from fusionbench.registry import suggestion
from fusionbench.tasks.prompts import Template, columns_of

FOLDER = Path(__file__).resolve().parents[1] / "presets" / "wordings"
BETWEEN = "|||"
"""Between the answers of a template, and before what would be written after a question."""
PROTECTED = "\x00"
"""Stands for `BETWEEN` inside a row while a template is filled."""
LONGEST = 2048
"""Characters of a value that goes into a template, as promptsource cuts it."""


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    """Return what fills templates, which cannot reach outside of their row, nor change it."""
    environment = ImmutableSandboxedEnvironment()
    environment.globals.clear()
    environment.globals.update(zip=zip)
    return environment


@cache
def _compiled(template: str) -> TemplateType:
    return _environment().from_string(template)


def _is_template(text: str) -> str:
    try:
        _environment().parse(text)
    except TemplateError as error:
        raise ValueError(f"{text!r} is no Jinja template: {error}") from None
    return text


Jinja = Annotated[Text, AfterValidator(_is_template)]


class Wording(Config):
    """One way to ask: a text with columns in braces, and the choices, which may name columns too."""

    template: Template
    choices: Annotated[tuple[Template, ...], Field(min_length=2)]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that it names."""
        return columns_of((self.template, *self.choices))

    def question(self, row: Mapping[str, Any]) -> str:
        """Return the text that is read for a row."""
        return self.template.format_map(row)

    def answers(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the texts to choose from, in the order of the labels."""
        return tuple(choice.format_map(row) for choice in self.choices)


class JinjaWording(Config):
    """One way to ask as promptsource has it (arXiv:2202.01279): Jinja templates over a row and `answer_choices`."""

    name: Text
    question_template: Jinja = Field(alias="question", description="what comes before ||| in the filled template")
    choices: Jinja = Field(description="the answers with ||| between them")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that it names outside of conditions and loops as well as inside."""
        texts = (self.question_template, self.choices)
        found = {name for text in texts for name in meta.find_undeclared_variables(_environment().parse(text))}
        return tuple(sorted(found - {"answer_choices"}))

    def question(self, row: Mapping[str, Any]) -> str:
        """Return the text that is read for a row, without spaces at its ends; each value is cut at 2,048 characters."""
        cut = self.question_template.replace("}}", f" | string | truncate({LONGEST}) }}}}")
        given = {**_protected(row), "answer_choices": list(self.answers(row))}
        filled = _filled(self.name, cut, given)
        return filled.split(BETWEEN)[0].replace(PROTECTED, BETWEEN).strip()

    def answers(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the texts to choose from, in the order of the labels."""
        filled = _filled(self.name, self.choices, _protected(row))
        return tuple(answer.strip().replace(PROTECTED, BETWEEN) for answer in filled.split(BETWEEN))


class WordingList(Config):
    """The wordings of one task of the TIES papers.

    Attributes:
        choices: answers that every wording offers for every row.
        label: from a row to the index of the right answer, a Jinja template.
    """

    source: Text
    license: Text
    choices: Count
    label: Jinja
    wordings: Annotated[tuple[JinjaWording, ...], Field(min_length=1)]


def _protected(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.replace(BETWEEN, PROTECTED) if isinstance(value, str) else value for key, value in row.items()}


def _filled(name: str, template: str, row: Mapping[str, Any]) -> str:
    try:
        return _compiled(template).render(row)
    except (TemplateError, TypeError, ValueError, LookupError) as error:
        raise ConfigError(f"The wording {name!r} cannot be filled from a row with {', '.join(row)}: {error}.") from None


def label_of(template: str, row: Mapping[str, Any]) -> Any:
    """Return what a template makes of a row, as a number where it is one."""
    text = _filled("label", template, row).strip()
    try:
        return int(text)
    except ValueError:
        return text


@cache
def wording_list(name: str) -> WordingList:
    """Return one of the lists that come with the package.

    Raises:
        ConfigError: where there is none of that name, with the nearest.
    """
    known = [path.stem for path in FOLDER.glob("*.yaml")]
    if name not in known:
        raise ConfigError(f"There is no list of wordings {name!r}. {suggestion(name, known)}")
    return WordingList.read(read_document(FOLDER / f"{name}.yaml"), f"The wordings {name}")
