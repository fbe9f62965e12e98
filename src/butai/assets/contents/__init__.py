"""The contents of files: facts, thumbnails and waveforms, read by background jobs."""
