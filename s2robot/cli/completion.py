"""Shell completion of verbs and settings for bash, zsh and fish."""

from __future__ import annotations

import dataclasses

from s2robot.cli import VERBS
from s2robot.cli.outcome import Output
from s2robot.interfaces import ConfigError, unknown_name

_BASH = """\
_s2robot() {
  local word="${COMP_WORDS[COMP_CWORD]}" choices
  case "${COMP_WORDS[1]}" in
%s
    *) choices="%s" ;;
  esac
  [ "$COMP_CWORD" -eq 1 ] && choices="%s"
  COMPREPLY=($(compgen -W "$choices" -- "$word"))
  if [ "${#COMPREPLY[@]}" -eq 0 ]; then
    COMPREPLY=($(compgen -f -- "${word#*=}"))
  elif [[ "${COMPREPLY[0]}" == *= ]]; then
    compopt -o nospace
  fi
}
complete -o default -F _s2robot s2robot"""


def completion(words: list[str]) -> Output:
    """Return the completion script of one shell.

    Raises:
        ConfigError: no shell is given, or an unknown one.
    """
    match words:
        case [shell] if shell in ("bash", "zsh", "fish"):
            script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()
            return Output(script, {"shell": shell, "script": script})
        case [shell]:
            raise ConfigError(unknown_name("shell", shell, ["bash", "zsh", "fish"]))
        case _:
            raise ConfigError("completion needs one shell: s2robot completion bash, zsh or fish")


def _keys(name: str) -> list[str]:
    config = VERBS[name].config
    return [f"{item.name}=" for item in dataclasses.fields(config)] if config else []


def _bash() -> str:
    cases = "\n".join(f'    {name}) choices="{" ".join(_keys(name))}" ;;' for name in VERBS)
    return _BASH % (cases, " ".join(VERBS), " ".join(VERBS))


def _zsh() -> str:
    return f"autoload -U +X bashcompinit && bashcompinit\n{_bash()}"


def _fish() -> str:
    lines = [f"complete -c s2robot -f -n __fish_use_subcommand -a '{' '.join(VERBS)}'"]
    for name in VERBS:
        if keys := _keys(name):
            lines.append(f"complete -c s2robot -n '__fish_seen_subcommand_from {name}' -a '{' '.join(keys)}'")
    return "\n".join(lines)
