"""`blockcloud node run`: one validator process in the foreground, as a service manager starts it."""

from __future__ import annotations

from blockcloud.cli.context import command_group, home_folder

app = command_group("One node of the network.")


@app.callback()
def node() -> None:
    """One node of the network."""


@app.command()
def run() -> None:
    """Run the validator of the home folder (--home) until SIGTERM or Ctrl-C."""
    from blockcloud.api.process import run_node

    run_node(home_folder().absolute())


@app.command(hidden=True)
def launch() -> None:
    """Start a validator for each home folder read from standard input; print the process ids. `devnet up` uses it."""
    import gc

    gc.disable()  # nothing of what an import makes is garbage; each child enables it again
    from blockcloud.api.launcher import launch_nodes

    launch_nodes()
