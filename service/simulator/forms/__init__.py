"""One alert or incident as each API writes it: pure functions from `lives` values to JSON, in each API's own
words and casing. A module an API; `frame` holds what they share.
"""
