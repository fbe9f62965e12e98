"""The RTMP ingest: takes the connections of encoders, within bounds, and hands on what they publish.

It knows neither database nor rooms: whether a key is good and where its media goes is asked of a function (`Admit`), so that
this process lives on while others restart.
"""
