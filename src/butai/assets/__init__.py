"""The asset library: which files exist, whose they are, in which state, and how to get at their bytes.

Never imports `butai.live`. Read `states`, then `uploads` (how bytes come in), `queries` and `delivery`
(how they go out); `routes` and `contract` are the HTTP faces.
"""
