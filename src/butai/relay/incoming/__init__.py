"""What an encoder sends, made ready to be passed on without decoding it: formats, pictures, times, figures."""
