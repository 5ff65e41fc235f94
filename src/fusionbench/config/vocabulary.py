"""Which tokens the result has, and whose rows they get, where models number their tokens differently."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fusionbench.config.fields import WHOLE, Config, Count, Text


class TokenRowConfig(Config):
    """A row of one model's tables, by its token or its number there."""

    model: Text = Field(description="base, or an expert's name")
    token: str | None = Field(default=None, description="the token whose row it is")
    id: Annotated[int, Field(ge=0), WHOLE] | None = Field(default=None, description="or the row's number")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.token is None) == (self.id is None):
            raise ValueError("give the row's token or its id, one of them")
        return self


class TokenConfig(Config):
    """Where a token's row comes from in the models that lack the token. A bare value is its `source`."""

    source: Literal["zero"] | Text | TokenRowConfig | None = Field(
        default=None, description="zero, base, an expert's name, or a row {model, token|id}; null: by `new`"
    )
    force: bool = Field(default=False, description="also in the models that have the token")

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, value: object) -> object:
        bare = isinstance(value, str) or (isinstance(value, dict) and "model" in value)
        return {"source": value} if bare else value


class VocabularyConfig(Config):
    """One vocabulary for models of different ones. A bare `vocabulary: base` is its source."""

    source: Text = Field(default="union", description="whose tokens the result has: union, base, or an expert's name")
    new: Literal["auto", "models", "mean", "zero"] = Field(
        default="auto",
        description="rows that a model lacks; auto: the only model's that has the token, else the base's, else the "
        "mean of those that have it; models: that mean always; mean: the mean of the model's own rows",
    )
    tokens: dict[str, TokenConfig] = Field({}, description="rules of single tokens; unknown ones are added")
    padding: Literal["keep", "drop"] = Field(
        default="keep", description="keep: at least as many rows as the reference's tables have; drop: one a token"
    )
    pad_to_multiple_of: Count | None = Field(default=None, description="rows are filled up to a multiple of this")

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, value: object) -> object:
        return {"source": value} if isinstance(value, str) else value
