"""How many messages a circuit says it had: its true number rounded up, so that transfers of like sizes look the same. Paper step 5.

Powers of two up to 32 (two megabytes of BULK cells); beyond, Padmé (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and
Communication with PURBs", PETS 2019), which adds at most an eighth and tells O(log log n) bits.
"""

_SMALL = 32


def padded(count: int) -> int:
    """Return the least number of messages, at least `count` (from 1), at which a direction may end."""
    if count <= _SMALL:
        return 1 << (count - 1).bit_length()
    exponent = count.bit_length() - 1
    step = 1 << (exponent - exponent.bit_length())
    return -(-count // step) * step
