"""Import: fills the index from a bucket that has files already. Listings name objects, and a HEAD verifies each."""
