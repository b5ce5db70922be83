"""The command line, parsed once: Hydra's flags and the overrides, in any order."""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.main import get_args_parser

from propainter.io.paths import expand_home

_BRINGS_PRESETS = ("preset", "experiment", "hydra.searchpath")
_STRUCTURE = re.compile(r"[\[\]{}()'\"=]")
_INFO = ("-i", "--info")


@dataclass(frozen=True)
class CommandLine:
    """A command line.

    Attributes:
        flags: Hydra's, each with its value in one argument: `--multirun`, `--config-dir=/mine`.
        overrides: `attention=sdpa`, `hydra.run.dir=...`, in their order.
    """

    flags: tuple[str, ...]
    overrides: tuple[Override, ...]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "CommandLine":
        """Parse arguments as typed after the program's name.

        Raises:
            OverrideParseException: Hydra's grammar can't read an override.
            SystemExit: there is no such flag (2), or only the version was asked for (0).
        """
        parser = get_args_parser()
        # Hydra's own parse_args() takes no override after a flag once one came before it.
        options = vars(parser.parse_intermixed_args(_with_info(arguments)))
        overrides = options.pop("overrides")
        path = options["config_path"]
        if path is not None and "://" not in path:
            options["config_path"] = str(expand_home(path).absolute())  # Hydra would start from this file's folder
        if options["config_dir"] is not None:
            options["config_dir"] = str(expand_home(options["config_dir"]))
        names = {name: f"--{name.replace('_', '-')}" for name in options}
        flags = [names[name] if value is True else f"{names[name]}={value}" for name, value in options.items() if value]
        spelled_out = [item for text in overrides for item in _with_file(text)]
        return cls(tuple(flags), tuple(map(parse_override, spelled_out)))

    def arguments(self) -> list[str]:
        """Return the arguments in the order that Hydra's parser takes: flags, then overrides."""
        return [*self.flags, *(str(item.input_line) for item in self.overrides)]

    def override(self, key: str) -> Override | None:
        """Return the last override of this key or group; None where there is none."""
        return next((item for item in reversed(self.overrides) if item.key_or_group == key), None)

    def value(self, key: str) -> str | None:
        """Return the value given for a key as text; None where it is null, swept or not given."""
        given = self.override(key)
        value = None if given is None or given.is_sweep_override() else given.value()
        return None if value is None else str(value)

    def without(self, *keys: str) -> "CommandLine":
        """Return the line without the overrides of these keys."""
        return replace(self, overrides=tuple(item for item in self.overrides if item.key_or_group not in keys))

    def extended(self, *overrides: str) -> "CommandLine":
        """Return the line with more overrides at its end."""
        return replace(self, overrides=(*self.overrides, *map(parse_override, overrides)))

    def device(self) -> str:
        """Return the device that is asked for; auto where none is, or several are swept.

        Raises:
            OverrideParseException: `preset=fast` is to be swept over devices, and is another preset on each.
        """
        device, preset = self.override("device"), self.override("preset")
        if device is None or not device.is_sweep_override():
            return self.value("device") or "auto"
        value: object = None if preset is None else preset.value()
        if isinstance(value, Glob):
            may_be_fast = bool(value.filter(["fast"]))
        elif preset is not None and preset.is_choice_sweep():
            may_be_fast = "fast" in preset.sweep_string_iterator()
        else:
            may_be_fast = value == "fast"
        if may_be_fast:
            raise OverrideParseException(
                override=str(device.input_line),
                message=f"preset=fast is another preset on each device, and {device.input_line} sweeps them; sweep "
                "preset=fast_cpu and preset=fast_cuda one device at a time",
            )
        return "auto"

    def may_hold_preset_fast(self) -> bool:
        """Return whether `preset=fast` may be composed; where not, nobody need ask torch for the device."""
        brought = any(item.key_or_group in _BRINGS_PRESETS for item in self.overrides)
        return brought or any(flag.startswith("--config") for flag in self.flags)


def parse_override(text: str) -> Override:
    """Parse one override. A path that Hydra's grammar can't read as it is typed is taken as text, `~` as the home.

    Raises:
        OverrideParseException: Hydra's grammar can't read it; the message says how to quote its value.
    """
    spelled = _with_quotes(text)
    try:
        return OverridesParser.create().parse_override(spelled)
    except HydraException:
        key, equals, value = text.partition("=")
        if not equals:
            raise
        message = (
            f"can't read {text}: a value with '=', brackets, quotes or other special characters needs two pairs of "
            f"quotes, one for the shell and one for Hydra: {shlex.quote(f'{key}={_quoted(value, Quote.double)}')}"
        )
        raise OverrideParseException(override=text, message=message) from None


def as_override(key: str, value: str) -> str:
    """Return an override of a key by a text, in quotes where Hydra's grammar would read the text as something else."""
    parsed = _parsed(f"{key}={value}")
    plain = parsed is not None and not parsed.is_sweep_override() and parsed.value() == value
    return f"{key}={value}" if plain else f"{key}={_quoted(value)}"


def _with_quotes(text: str) -> str:
    """Return an override with quotes around its value, `~` expanded, where that is plainly one string for Hydra.

    So is a value with characters outside Hydra's grammar that give it no structure (`~`, `#`, letters outside ASCII),
    and the name of an existing file or folder that would be read as a list, or not at all.
    """
    key, equals, value = text.partition("=")
    parsed = _parsed(text) if equals and value else None
    if parsed is not None and not parsed.is_sweep_override():
        content = parsed.value()
        if isinstance(content, str) and content.startswith("~"):
            return f"{key}={_quoted(content)}"
        if not isinstance(content, (list, dict)):
            return text
    if not equals or not value:
        return text
    if os.path.exists(os.path.expanduser(value)):
        return f"{key}={_quoted(value)}"
    if parsed is not None or _STRUCTURE.search(value):
        return text
    parts = [part if _parsed(f"{key}={part}") else _quoted(part) for part in value.split(",")]
    return f"{key}={','.join(parts)}"


def _parsed(text: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None


def _quoted(text: str, quote: Quote = Quote.single) -> str:
    return QuotedString(text=os.path.expanduser(text), quote=quote).with_quotes()


def _with_file(text: str) -> tuple[str, ...]:
    """Return `scenes=file scenes.path=FILE` for `scenes=FILE`; any other override as it is."""
    key, _, value = text.partition("=")
    is_file = key == "scenes" and re.fullmatch(r"[^,${}()]*[./\\][^,${}()]*", value)
    quoted = value if value[:1] in ("'", '"') else _quoted(value)
    return ("scenes=file", f"scenes.path={quoted}") if is_file else (text,)


def _with_info(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--info=all` for a bare `--info`, which would take an override for its value."""
    following = (*arguments[1:], "=")
    return ["--info=all" if a in _INFO and "=" in b else a for a, b in zip(arguments, following, strict=False)]
