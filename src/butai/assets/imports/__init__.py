"""Import: fills the index from an existing bucket. Listings name its objects, and a HEAD verifies each."""
