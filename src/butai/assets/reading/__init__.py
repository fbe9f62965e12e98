"""How files go out: conditions and ranges, bodies, and the usage that decides what the patrol checks first."""
