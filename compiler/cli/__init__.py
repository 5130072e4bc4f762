"""The command line: arguments only; each command calls one function."""
