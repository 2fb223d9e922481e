"""Only in the demo's images: lets a circuit say which relays it used and how many bytes it carried.

Production images do not have this package.
"""
