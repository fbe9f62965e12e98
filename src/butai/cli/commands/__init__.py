"""The command line: names, options and help texts. A command imports only what it runs, so it starts fast."""
