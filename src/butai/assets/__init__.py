"""The asset library: which files exist, their owners and states, and how their bytes are stored and read.

Never imports `butai.live`. Good entry points are `states`, then `uploads` (writing bytes), `listing` and
`queries` (reading the index) and `reading` (reading bytes); the paths are in `routes` and `studio_contract`.
"""
