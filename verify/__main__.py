"""The command line, as ``python -m verify COMMAND …`` in a checkout."""

from attention_gate.verify.commands.command_line import entry

if __name__ == "__main__":
    entry()
