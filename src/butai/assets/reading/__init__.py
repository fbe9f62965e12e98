"""How files go out: conditions and ranges, bodies, and the notes that reads leave for the patrol."""
