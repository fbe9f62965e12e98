"""What is inside files: facts, thumbnails, waveforms. Read by background jobs."""
