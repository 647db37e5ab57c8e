"""Checks of the configuration files that Snakemake is given, which it reads by itself.

Snakemake ends with a traceback if such a file is missing, and keeps the last value of a duplicate key.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from expertchat.errors import UserError
from expertchat.foreign import told
from expertchat.settings.yaml_files import read_yaml


def check_config_file(path: Path, hint: str = "") -> None:
    """Raises UserError if the file is missing, is not valid YAML or has a duplicate key.

    Of JSON files, which Snakemake accepts too, only the presence is checked.
    """
    if path.suffix != ".json":
        read_yaml(path, hint)
    elif not path.is_file():
        raise UserError(f"{path}: No such file; {hint}")


def exit_on_invalid_config_files(arguments: Sequence[str]) -> None:
    """Ends the program with one sentence if a file of `--configfile` is invalid, or an option is given
    twice.

    `arguments` are those of the command snakemake. Called by profiles/default, which Snakemake reads
    before the configuration files.
    """
    try:
        check_options(arguments)
    except UserError as error:
        sys.exit(told(f"snakemake: {error}"))
    for path in config_files(arguments):
        hint = "--configfile must name YAML files with the settings of an experiment"
        if not path.suffix:
            hint = "all words after --configfile are file names: put targets before it"
        try:
            check_config_file(path, hint)
        except UserError as error:
            sys.exit(told(f"snakemake: {error}"))


def check_options(arguments: Sequence[str]) -> None:
    """Raises UserError if an option for settings is given twice, of which only the last one counts."""
    for names in (("--config", "-C"), ("--configfile", "--configfiles")):
        given = [word for word in arguments if word.partition("=")[0] in names]
        if len(given) > 1:
            raise UserError(
                f"{names[0]} is given {len(given)} times, and only the last one would count: put all of "
                f"its values behind one {names[0]}"
            )


def config_files(arguments: Sequence[str]) -> list[Path]:
    """The files of `--configfile` among the arguments of the command snakemake."""
    options = list(arguments)
    if "--" in options:  # only targets follow
        options = options[: options.index("--")]
    # without abbreviations, as --config is another option
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--configfile", "--configfiles", nargs="*", type=Path, default=[])
    return parser.parse_known_args(options)[0].configfile
