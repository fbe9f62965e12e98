"""The `butai` command: `commands` declares the subcommands, the modules beside it run them."""
