"""The demo: a hub and a box as real processes, a branch's day of payments, a line that is cut, and a report
that checks it all from outside.

It drives the product only as its clients and operators do: over HTTP, ISO 8583, signals and commands.
"""
