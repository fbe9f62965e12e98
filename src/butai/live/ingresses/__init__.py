"""Ways into a room for OBS and other encoders, over RTMP or WHIP."""
