"""One-time codes of the development sign-in. The API takes them at `butai.operations.sign_in`."""
