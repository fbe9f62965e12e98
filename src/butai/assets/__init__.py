"""The asset library: which files exist, whose they are, in which state, and how to get at their bytes.

Never imports `butai.live`. Read `states`, then `uploads` (how bytes come in), `queries` (lists) and
`reading` (how bytes go out); `routes` and `studio_contract` are the HTTP faces.
"""
