"""`alertwell doctor`: all that collecting stands on, tried once for real, and for each a finding that a person can act on.

A check is a coroutine that gives findings (`finding`); `examination` runs them, each within its own time. What is broken never
ends the examination: the rest is tried all the same.
"""
