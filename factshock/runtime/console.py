"""Running a verb: user errors as one line, and exit codes."""

import errno
import functools
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from factshock.runtime import flag_errors, flag_names, interruption, messages, processes
from factshock.runtime.errors import UserError

_PIPE_CLOSED = 128 + 13  # as a shell says of a program that SIGPIPE ended
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_CONFIG_MODULE = "config_config"  # what ml_collections calls the module of --config
_CONFIG_ERROR = "flag --config="  # what opens absl's errors of a config file
# What ml_collections says of a key that is not there: a name in quotes, at times those of a repr.
_UNKNOWN_KEY = re.compile(
  r"""['"\\]*([\w.]+)['"\\]*(?:\s|\\n)*(?:Did you mean "(\w+)" instead of "\w+"\?)?['"]*"""
)
_HELP_FLAGS = {"--help", "-help", "--helpshort", "--helpfull", "-h"}


def run(
  main: Callable[[Sequence[str]], int | None],
  *,
  takes_arguments: bool = False,
) -> None:
  """Runs a verb's `main(argv)` with its flags parsed, and ends the program.

  A UserError becomes one line on stderr and exit code 2. The exit code is 75 where SIGTERM or
  Ctrl-C made a run save itself and stop, 130 where Ctrl-C stopped a verb that has nothing to save.

  Args:
    main: takes the command line, the program's name first, and returns the exit code, None for 0.
    takes_arguments: whether the command line may hold more than flags.
  """
  _print_everything()
  try:
    app.run(lambda argv: _guarded(main, argv, takes_arguments), flags_parser=_parse_flags)
  except SystemExit as end:
    # absl ends with 1 after --help, which to a shell script means that something went wrong.
    is_help = bool(_HELP_FLAGS & set(sys.argv[1:]))
    sys.exit(0 if is_help and end.code == 1 else end.code)
  except BrokenPipeError:  # whoever read what is printed has read enough, as `head` does
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
    sys.exit(_PIPE_CLOSED)


def _print_everything() -> None:
  """Makes what the terminal's encoding lacks be printed as escapes, and not end the verb."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")


def _guarded(
  main: Callable[[Sequence[str]], int | None],
  argv: list[str],
  takes_arguments: bool,
) -> int | None:
  """Calls `main` and turns what it raises into a message and an exit code."""
  logging.set_verbosity(logging.WARNING)  # absl's own INFO: which backends JAX did not find
  try:
    if len(argv) > 1 and not takes_arguments:
      raise UserError(
        f"unexpected argument {argv[1]!r}: every option is a --flag, several values have commas "
        "between, --flag=a,b (see --help)"
      )
    try:
      code = main(argv)
    finally:
      messages.end_drawings()
    processes.barrier("end")  # before JAX ends, which waits for others only so long
    return code
  except UserError as error:
    return _end(f"error: {error}", 2)
  except interruption.Interrupted as error:  # all of several processes, at the same point
    print(f"stopped by {error}: run the same command again to go on", file=sys.stderr)
    return interruption.EXIT_CODE
  except KeyboardInterrupt:
    return _end("interrupted: run the same command again to go on", 130)
  except BrokenPipeError:
    raise
  except Exception as error:
    # ml_collections finds only on first use that a config file is missing.
    if isinstance(error, OSError) and str(error).startswith("Configuration is not available"):
      reason = " ".join(str(error).split("config_config")[-1].split())
      return _end(f"error: --config cannot be read: {reason}", 2)
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
      return _end(f"error: {error.filename or 'a file'}: {error.strerror}", 2)
    if processes.process_count() > 1:
      _end(traceback.format_exc(), 1)
    raise


def _end(message: str, code: int) -> int:
  """Prints why a verb ends, and ends the processes that work with this one.

  Returns:
    The exit code.
  """
  print(message, file=sys.stderr, flush=True)
  processes.end_all(message.strip().splitlines()[-1], code)
  return code


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses the flags by absl; what is wrong with them is one line, and exit code 2."""
  try:
    return parse_flags(flags.FLAGS, argv)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except flags.Error as error:
    print(f"error: {flag_errors.describe(error, flags.FLAGS)}", file=sys.stderr)
    sys.exit(2)


def parse_flags(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
  """Parses flags, among them those of a config file, which is a program and may raise anything.

  Args:
    values: the flags that there are, which get their values.
    argv: the command line, the program's name first.

  Returns:
    What is left of the command line.

  Raises:
    UserError: the config file, or a flag of the config, cannot be read; names file and line. Or a
      flag is given under its old name and its new one, with values that differ.
    flags.Error: another flag is wrong.
  """
  try:
    arguments: list[str] = values(argv)
    flag_names.check(values)
    _check_config(values)
    return arguments
  except (UserError, BrokenPipeError):  # the latter of --help
    raise
  except flags.Error as error:
    if _place_in_config(error) is None and not str(error).startswith(_CONFIG_ERROR):
      raise
    raise _config_error(error) from error
  except Exception as error:
    raise _config_error(error) from error


def _check_config(values: flags.FlagValues) -> None:
  """Raises a UserError where the config file has returned something else than a config."""
  if "config" not in values or not values["config"].present:
    return
  config: object = values["config"].value
  # One that could not be read is such an object too, which says so when it is used.
  if not type(config).__module__.startswith("ml_collections"):
    raise UserError(
      "the config cannot be read: get_config() must return an ml_collections.ConfigDict, got "
      f"{type(config).__name__}"
    )


def _config_error(error: BaseException) -> UserError:
  """Returns what a config file raised as one line, with the place where it did."""
  place = _place_in_config(error)
  if not place and not isinstance(error, flags.Error):  # of a flag of the config
    return UserError(f"the flags or the config cannot be read: {_of_a_flag(error)}")
  while error.__context__ is not None:  # what came first
    error = error.__context__
  if isinstance(error, UserError) and not place:  # no config has the name
    return error
  if isinstance(error, TypeError) and "get_config() takes 0 pos" in str(error):
    return UserError("--config=FILE:VARIANT: the get_config() of this file takes no variant")
  reason = error.msg if isinstance(error, SyntaxError) else str(error)
  text = " ".join(reason.split())
  if not isinstance(error, (SyntaxError, ValueError, AttributeError)):
    text = f"{type(error).__name__}: {text}"
  if isinstance(error, ModuleNotFoundError) and error.name == "configs":
    text += " (those that come along: from factshock.configs import demo)"
  where = f"{place}: the config" if place else "the flags or the config"
  return UserError(f"{where} cannot be read: {text}")


def _of_a_flag(error: BaseException) -> str:
  """Returns why a flag of the config cannot be set, or where the config file is no such file."""
  text = " ".join(str(error).split())
  unknown = _UNKNOWN_KEY.fullmatch(text)
  if unknown:
    name, better = unknown.groups()
    return f"there is no key {name!r}" + (f"; did you mean {better!r}?" if better else "")
  if "no attribute 'get_config'" in text:
    return "the config file must define a function get_config()"
  return text


def _place_in_config(error: BaseException | None) -> str | None:
  """Returns "file:line" of the config file where an error began, None where it did not there."""
  place = None
  while error is not None:
    if isinstance(error, SyntaxError) and error.filename:
      place = f"{error.filename}:{error.lineno}"
    for frame, line_number in traceback.walk_tb(error.__traceback__):
      if frame.f_globals.get("__name__") == _CONFIG_MODULE:
        place = f"{frame.f_code.co_filename}:{line_number}"
    error = error.__context__
  return place


@functools.cache
def say_once(line: str) -> None:
  """Prints a line on stderr that says what was decided, once however often it is decided."""
  if processes.is_first():
    messages.say_aside(line)
