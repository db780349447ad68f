"""The copy of the ledger's file that litestream keeps elsewhere: its child process, its alarms, its drills.

Leaves out what a restored copy must pass (`edgegw.ledger.check`, by the command line) and the exchange, which
copies records and shares nothing with this.
"""
