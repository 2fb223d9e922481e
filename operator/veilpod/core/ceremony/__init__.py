"""The group key ceremony: all sandboxes of a task make the task key together (docs/protocol/ceremony.md). Paper step 4.

`words` are what is said and signed, `derive` the arithmetic, `member` what one sandbox says next, `evidence` who lied. All pure.
"""
