"""One file a verb of the command line: its name is the verb, its docstring's first line its entry in `wingspan --help`.

A verb defines `main(arguments: list[str]) -> int`, the exit status.
"""
