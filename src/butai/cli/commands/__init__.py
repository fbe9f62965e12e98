"""What can be typed: names, options and help texts. A command imports what it runs and nothing else, so it starts fast."""
