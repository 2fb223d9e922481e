"""The main job, `make demo`: a cluster, a chain, ten parties that share nothing else, one task, and a report of what really happened.

Read in the order of the run: `cluster` (where), `images` (what is delivered), `chain` (anvil and the contracts), `parties` (who),
`install` (one helm release
each), `play` (datasets, task, result), `collect` (the truth, read from the chain and the API), `page` (the same for a person).
"""
