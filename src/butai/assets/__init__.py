"""The asset library: which files exist, whose they are, in which state, and how to get at their bytes.

Never imports `butai.live`. A reader begins best with `states`, then `uploads` (how bytes come in), `listing` and
`queries` (what is read from the index) and `reading` (how bytes go out); `routes` and `studio_contract` are the paths.
"""
