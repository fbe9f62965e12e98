"""Readers of facts from files, by range reads of their heads: no file is read whole for its facts."""
