"""Recipes: what to fuse, how, and what to evaluate it on; read from YAML and `key=value`, checked and written."""

from fusionbench.config.document import parse_document, read_document, read_documents
from fusionbench.config.fields import Config
from fusionbench.config.method import MethodConfig
from fusionbench.config.recipe import (
    ExpertConfig,
    OutputConfig,
    Recipe,
    SuiteConfig,
    TasksConfig,
    identity,
)
from fusionbench.config.runtime import RuntimeConfig
from fusionbench.config.schema import recipe_schema
from fusionbench.config.slices import SliceConfig, SliceSource

__all__ = [
    "Config",
    "ExpertConfig",
    "MethodConfig",
    "OutputConfig",
    "Recipe",
    "RuntimeConfig",
    "SliceConfig",
    "SliceSource",
    "SuiteConfig",
    "TasksConfig",
    "identity",
    "parse_document",
    "read_document",
    "read_documents",
    "recipe_schema",
]
