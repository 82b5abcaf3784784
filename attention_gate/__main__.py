"""The command line, as ``python -m attention_gate COMMAND …``; pytest finds the checks of a target by this file."""

from attention_gate.verify.commands.command_line import entry

if __name__ == "__main__":
    entry()
