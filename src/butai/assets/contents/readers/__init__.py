"""Facts from inside files, by range reads of their heads: no file is ever read whole for its facts."""
