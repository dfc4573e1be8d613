"""Options of command lines that are None if they are not given, so that what is given always holds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, make_dataclass
from typing import Annotated, Any, get_type_hints

import tyro


def optional_settings(config_type: type, origin: str = "", without_origin: Collection[str] = ()) -> type:
    """A dataclass for the command line, with the fields and help texts of a config, where None means 'not given'.

    Args:
        config_type: the config; all its fields have defaults.
        origin: where a setting comes from if it is not given, before the default of the config, such as "the run's
            own". It is shown by --help.
        without_origin: fields that never come from there.
    """
    types, options = get_type_hints(config_type), []
    for config_field in fields(config_type):
        default = None if config_field.default is None else str(config_field.default)
        own = "" if config_field.name in without_origin else origin
        sources = ", else ".join(source for source in (own, default) if source) or "none"
        optional = Annotated[types[config_field.name] | None, shown_default(sources)]
        options.append((config_field.name, optional, None))
    # tyro finds the help texts in the base class.
    frozen = config_type.__dataclass_params__.frozen  # type: ignore[attr-defined]
    return make_dataclass(f"Optional{config_type.__name__}", options, bases=(config_type,), frozen=frozen)


def shown_default(value: object) -> Any:
    """The annotation of an option that is None if it is not given, so that --help shows what it is then."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {value})")


def given_settings(options: Any) -> dict[str, Any]:
    """The settings of an instance of `optional_settings` that are given, by field name."""
    values = {option.name: getattr(options, option.name) for option in fields(options)}
    return {name: value for name, value in values.items() if value is not None}


def option_name(prefix: str, name: str) -> str:
    """The option of a field, such as --difix.use-reference."""
    return prefix + name.replace("_", "-")
